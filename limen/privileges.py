"""Giving up what a process may do (capabilities(7)): before strangers' bytes are read, only what is needed is left.

Capabilities belong to a thread: they are given up before another one begins. Linux alone.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection

CAP_NET_RAW = 13
_VERSION_3 = 0x20080522
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _CLEAR_ALL = 38, 47, 4
_SET = struct.Struct("=IIIIII")


def keep_only(wanted: Collection[int] = ()) -> frozenset[int]:
    """Give up every capability but those wanted, for good; those that are left of them.

    1. Nothing is gained by executing something.
    2. What would be handed on by executing something is given up.
    3. Permitted and effective are what is wanted and was permitted; inheritable is nothing.

    Raises OSError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # (1)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    # (2)
    _check(libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0))
    # (3)
    head = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0), 8)
    sets = ctypes.create_string_buffer(_SET.size)
    _check(libc.capget(head, sets))
    _, permitted_low, _, _, permitted_high, _ = _SET.unpack(sets.raw)
    mask = sum(1 << number for number in wanted) & (permitted_high << 32 | permitted_low)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    _check(libc.capset(head, ctypes.create_string_buffer(_SET.pack(low, low, 0, high, high, 0), _SET.size)))
    return frozenset(number for number in wanted if mask >> number & 1)


def _check(status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
