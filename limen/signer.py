"""A signing process: `python -m limen.signer FD`, started by the server (`limen.signers`) and by nobody else.

It gets a key over a socket that only the server holds the other end of, signs what comes, verifies each signature, and
ends when the server does. It reads no file, opens no connection, and knows nothing of what it signs.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable

from ca import keys
from limen.signerwire import KEY, PARTS, READY, pack, read, unpack, write
from mesh.hardening import harden
from mesh.problems import Invalid

Verify = Callable[[bytes, bytes], None]


def serve(link: socket.socket) -> None:
    """Answer until the server hangs up.

    A signature that does not verify ends this process: the server signs those parts itself.
    """
    write(link, READY, b"")
    sign: keys.SignAll | None = None
    verify: Verify | None = None
    while (message := read(link)) is not None:
        kind, data = message
        if kind == KEY:
            key = keys.private_from_der(data)
            sign, verify = key.signer(), key.verifier()
        elif kind == PARTS and sign is not None and verify is not None:
            parts = unpack(data)
            found = sign(parts)
            for signature, part in zip(found, parts, strict=True):
                verify(signature, part)
            write(link, PARTS, pack(found))
        else:
            raise Invalid("LM5270", reason="a message of an unknown kind")


def main() -> None:
    """Run it, closed against its surroundings."""
    harden()
    # a terminal's Ctrl-C is for the server, which then hangs up
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as link:
        serve(link)


if __name__ == "__main__":
    main()
