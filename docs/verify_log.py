# ruff: noqa: INP001  a script to copy away
"""Verify a copy of an audit log, or one proof, with nothing but this file, `cryptography` and the log's public key.

    python verify_log.py KEY_FILE LOG_DIRECTORY
    python verify_log.py KEY_FILE --proof PROOF.json

KEY_FILE holds the line that `key.pub` holds; take it from whoever runs the log, not from the copy. The log is in the
public C2SP formats signed-note, tlog-checkpoint and tlog-tiles over RFC 6962 hashes. Exit status: 0 verified, 1 not.
"""

import base64
import hashlib
import json
import pathlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def leaf_hash(data: bytes) -> bytes:
    """RFC 6962 §2.1: the hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962 §2.1: the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves: list[bytes]) -> bytes:
    """The root over leaf hashes: equal neighbours on a stack are joined, then what is left, from the right."""
    stack: list[tuple[int, bytes]] = []
    for leaf in leaves:
        height, found = 0, leaf
        while stack and stack[-1][0] == height:
            found = node_hash(stack.pop()[1], found)
            height += 1
        stack.append((height, found))
    root = stack.pop()[1] if stack else hashlib.sha256(b"").digest()
    while stack:
        root = node_hash(stack.pop()[1], root)
    return root


def read_checkpoint(note: str, vkey: str) -> tuple[int, bytes]:
    """C2SP signed-note and tlog-checkpoint: the signed size and root."""
    name, key_hash, encoded = vkey.strip().split("+", 2)
    key = base64.b64decode(encoded)
    if key[:1] != b"\x01" or hashlib.sha256(name.encode() + b"\n" + key).hexdigest()[:8] != key_hash:
        raise ValueError("the key file is no Ed25519 verifier key")
    text, _, signatures = note.rpartition("\n\n")
    for line in signatures.strip("\n").split("\n"):
        dash, signer, signature = line.split(" ")
        data = base64.b64decode(signature)
        if dash == "\u2014" and signer == name and data[:4].hex() == key_hash:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(data[4:], f"{text}\n".encode())
            origin, size, root = text.split("\n")[:3]
            if origin == name and size == str(int(size)):
                return int(size), base64.b64decode(root)
    raise ValueError(f"the checkpoint is not signed by {name}")


def path_of(kind: str, index: int, width: int) -> str:
    """C2SP tlog-tiles: where a tile or a bundle stands."""
    name = f"{index % 1000:03d}"
    while index := index // 1000:
        name = f"x{index % 1000:03d}/{name}"
    return f"tile/{kind}/{name}" + ("" if width == 256 else f".p/{width}")


def read_tile(directory: pathlib.Path, kind: str, index: int, width: int) -> bytes:
    """A tile or bundle; the full one stands in for a partial one that was removed."""
    path = directory / path_of(kind, index, width)
    return (path if path.exists() else directory / path_of(kind, index, 256)).read_bytes()


def entries_of(data: bytes, count: int, what: str) -> list[bytes]:
    """The entries of a bundle, each after its length in two bytes."""
    at, found = 0, list[bytes]()
    while at < len(data) and len(found) < count:
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        found.append(data[at + 2 : end])
        at = end
    if len(found) != count or at > len(data):
        raise ValueError(f"{what} does not hold {count} records")
    return found


def verify_log(directory: pathlib.Path, vkey: str) -> str:
    """Hash every record and compare with the tiles, every tile with the one above, and all with the signed root."""
    size, root = read_checkpoint((directory / "checkpoint").read_text("utf-8"), vkey)
    below: list[bytes] = []
    for index in range(-(-size // 256)):
        width = min(256, size - index * 256)
        what = path_of("entries", index, width)
        below += [leaf_hash(entry) for entry in entries_of(read_tile(directory, "entries", index, width), width, what)]
    computed = root_of(below)
    level = 0
    while below:
        for index in range(-(-len(below) // 256)):
            width = min(256, len(below) - index * 256)
            data = read_tile(directory, str(level), index, width)[: width * 32]
            for at in range(width):
                if data[at * 32 : at * 32 + 32] != below[index * 256 + at]:
                    what = f"record {index * 256 + at}" if level == 0 else f"the tile below, number {index * 256 + at},"
                    raise ValueError(f"{what} and hash {at} of {path_of(str(level), index, width)} differ")
        below = [root_of(below[at : at + 256]) for at in range(0, len(below) - 255, 256)]
        level += 1
    if computed != root:
        raise ValueError("the records do not hash to the signed root")
    return f"{size} records verified, root {root.hex()}"


def verify_proof(proof: dict[str, object], vkey: str) -> str:
    """RFC 9162 §2.1.3.2: from the record up to the signed root."""
    size, root = read_checkpoint(str(proof["checkpoint"]), vkey)
    index, last, found = int(str(proof["index"])), size - 1, leaf_hash(str(proof["record"]).encode())
    if not 0 <= index <= last or json.loads(str(proof["record"]))["id"] != proof["id"]:
        raise ValueError("the proof is not of this record")
    for element in (base64.b64decode(item) for item in proof["proof"]):  # type: ignore[attr-defined]
        if last == 0:
            raise ValueError("the proof is too long")
        if index & 1 or index == last:
            found = node_hash(element, found)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            found = node_hash(found, element)
        index, last = index >> 1, last >> 1
    if last or found != root:
        raise ValueError("the record does not lead to the signed root")
    return f"record {proof['id']} is number {proof['index']} of {size} verified"


def main(words: list[str]) -> int:
    """Verify, and say what came of it."""
    try:
        vkey = pathlib.Path(words[0]).read_text("utf-8")
        is_proof = words[1] == "--proof"
        said = verify_proof(json.loads(pathlib.Path(words[2]).read_bytes()), vkey) if is_proof else ""
        sys.stdout.write((said or verify_log(pathlib.Path(words[1]), vkey)) + "\n")
    except (InvalidSignature, OSError, ValueError, LookupError, TypeError) as err:
        sys.stderr.write(f"not verified: {str(err) or 'wrong signature'}\n" if words else str(__doc__))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
