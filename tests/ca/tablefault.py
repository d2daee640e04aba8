"""Sign while one bit of the curve's table is wrong; say on stdout what sees it (docs/adr/0026-checking-signatures.md).

OpenSSL signs with P-256 from a table of multiples of the curve's base point, in read-only memory. This changes one bit
of one of its 37 rows of 64 points in this process's own copy of that page. Without such a table it says nothing.
"""

import ctypes
import json
import mmap
import os
import pathlib
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

COUNT = 2000
# the base point's x, in Montgomery form: the table begins with it
BASE = struct.pack("<4Q", 0x79E730D418A9143C, 0x75BA95FC5FEDB601, 0x79FB732B77622510, 0x18905F76A53755C6)
WINDOW, POINT, BIT = 3, 5, 1


def table() -> int | None:
    """Where the table is in this process."""
    for line in pathlib.Path("/proc/self/maps").read_text("ascii").splitlines():
        if "cryptography" in line and line.split()[1].startswith("r"):
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            place = ctypes.string_at(begin, end - begin).find(BASE)
            if place >= 0:
                return begin + place
    return None


def flip(at: int) -> None:
    """Change a bit."""
    page = at - at % mmap.PAGESIZE
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    if protect(ctypes.c_void_p(page), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE):
        raise OSError(ctypes.get_errno(), "mprotect")
    ctypes.c_ubyte.from_address(at).value ^= BIT


def main() -> None:
    found = table()
    if found is None:
        return
    key = ec.generate_private_key(ec.SECP256R1())
    scheme, same_again = ec.ECDSA(hashes.SHA256()), ec.ECDSA(hashes.SHA256(), deterministic_signing=True)

    def verifies(signature: bytes, part: bytes) -> bool:
        try:
            key.public_key().verify(signature, part, scheme)
        except InvalidSignature:
            return False
        return True

    parts = [os.urandom(400) for _ in range(COUNT)]
    at = found + (WINDOW * 64 + POINT) * 64
    flip(at)
    first, second = ([key.sign(part, same_again) for part in parts] for _ in range(2))
    passed = [verifies(*pair) for pair in zip(first, parts, strict=True)]
    flip(at)
    good = [verifies(*pair) for pair in zip(first, parts, strict=True)]
    seen = {
        "wrong": good.count(False),
        "differ": sum(one != other for one, other in zip(first, second, strict=True)),
        "passed though wrong": sum(is_passed and not is_good for is_passed, is_good in zip(passed, good, strict=True)),
    }
    sys.stdout.write(json.dumps(seen))


main()
