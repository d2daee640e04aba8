"""Executes a program in a mount namespace of its own where one folder is seen in the place of another.

`python -I -S nftmount.py FROM TO PROGRAM ARGUMENT…`. nft looks for control groups below /sys/fs/cgroup, and on hosts
that have both versions of the hierarchy the unified one is elsewhere. This file imports nothing of ours.
"""

import ctypes
import os
import sys

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


def main(source: str, target: str, program: str, arguments: list[str]) -> None:
    """Become the program; an error number is the exit code.

    1. A namespace of its own, from which nothing shows outside.
    2. The one folder in the place of the other.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # (1)
    failed = libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    # (2)
    if failed or libc.mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND, None):
        number = ctypes.get_errno()
        sys.stderr.write(f"no mount namespace for nft: {os.strerror(number)}\n")
        sys.exit(number)
    os.execv(program, [program, *arguments])  # noqa: S606  what we are here for


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
