"""How much memory this process has, and how it gives back what it no longer uses. Linux; decides nothing."""

from __future__ import annotations

import ctypes
import resource

_PAGE_BYTES = resource.getpagesize()


def resident_bytes() -> int:
    """How much memory the process has, what it shares with others included (proc(5), statm)."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  once a second
        return int(file.read().split()[1]) * _PAGE_BYTES


def give_back_memory() -> bool:
    """Let the C library return what it keeps for later; false where that one cannot (malloc_trim(3))."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
