"""The few calls of bpf(2) that are used, made plainly: no compiler, no library, programs written as instructions.

Every descriptor that comes back is close-on-exec, and what it stands for ends with it: a program is attached by a
*link*, which the kernel takes off when the last descriptor of it closes, whatever ended its holder (bpf(2),
BPF_LINK_CREATE, Linux 5.7). Nothing is pinned, so nothing is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Sequence

from mesh.problems import Unavailable

# the system call's number by machine (asm/unistd.h)
_BPF = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
    "s390x": 351,
    "i686": 357,
    "armv7l": 386,
}
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD, _LINK_CREATE, _ITER_CREATE = 0, 1, 2, 5, 28, 33
# longer than any field that is set here; a kernel takes a longer one whose rest is zero
_ATTRIBUTES_BYTES = 144
_BTF_ID_AT = 108
# of the instructions alone: some helpers are for programs that may be used under the GPL too
_LICENCE = b"Dual BSD/GPL"
LRU_HASH, ARRAY = 9, 2

# opcodes (linux/bpf.h, linux/bpf_common.h): class, size or operation, source
LOAD_16, LOAD_32, LOAD_64, STORE_32, STORE_64 = 0x69, 0x61, 0x79, 0x63, 0x7B
MOVE, MOVE_VALUE, ADD_VALUE, AND_VALUE = 0xBF, 0xB7, 0x07, 0x57
JUMP_NOT_VALUE, JUMP_VALUE, JUMP_NOT = 0x55, 0x15, 0x5D
CALL, EXIT = 0x85, 0x95
_LOAD_IMMEDIATE, _PSEUDO_MAP, _PSEUDO_VALUE = 0x18, 1, 2


def line(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """One instruction (struct bpf_insn): the registers are numbers."""
    return struct.pack("=BBhi", code, source << 4 | to, offset, value)


def load_map(to: int, handle: int) -> bytes:
    """The two instructions that put a map into a register."""
    return line(_LOAD_IMMEDIATE, to, _PSEUDO_MAP, 0, handle) + line(0)


def load_value(to: int, handle: int) -> bytes:
    """The two instructions that put the address of an array's first value into a register."""
    return line(_LOAD_IMMEDIATE, to, _PSEUDO_VALUE, 0, handle) + line(0)


def unless(code: int, to: int, rest: bytes, *, source: int = 0, value: int = 0) -> bytes:
    """A jump past the rest, before the rest."""
    return line(code, to, source, len(rest) // 8, value) + rest


def make_map(kind: int, *, key: int, value: int, entries: int) -> int:
    """Make a map; ``key`` and ``value`` are sizes in bytes. Raises Unavailable LM3407."""
    return _call("map", _MAP_CREATE, struct.pack("=IIIII", kind, key, value, entries, 0))


def load(kind: int, attach: int, code: bytes, *, target: int = 0) -> int:
    """Load a program of a kind, for an attach type and, where that wants one, for a type of the kernel's own.

    The kernel's verifier reads it first. Raises Unavailable LM3407.
    """
    lines, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(_LICENCE)
    addresses = ctypes.addressof(lines), ctypes.addressof(licence)
    head = struct.pack("=IIQQIIQII16sII", kind, len(code) // 8, *addresses, 0, 0, 0, 0, 0, b"limen", 0, attach)
    return _call("program", _PROG_LOAD, head.ljust(_BTF_ID_AT, b"\0") + struct.pack("=I", target))


def link(program: int, target: int, attach: int) -> int:
    """Attach a program to what a descriptor stands for (0 for none). Raises Unavailable LM3407."""
    return _call("link", _LINK_CREATE, struct.pack("=IIII", program, target, attach, 0))


def iterate(handle: int) -> int:
    """Begin to read what an iterator's link finds. Raises Unavailable LM3407."""
    return _call("iterator", _ITER_CREATE, struct.pack("=II", handle, 0))


def look_up(handle: int, key: bytes, size: int) -> bytes | None:
    """A map's value of ``size`` bytes at a key, None without one."""
    wanted, found = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    attributes = struct.pack("=IIQQQ", handle, 0, ctypes.addressof(wanted), ctypes.addressof(found), 0)
    try:
        _call("entry", _MAP_LOOKUP, attributes)
    except Unavailable:
        return None
    return found.raw


def update(handle: int, key: bytes, value: bytes) -> None:
    """Set a map's value. Raises Unavailable LM3407."""
    wanted, given = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    attributes = struct.pack("=IIQQQ", handle, 0, ctypes.addressof(wanted), ctypes.addressof(given), 0)
    _call("entry", _MAP_UPDATE, attributes)


def close(handles: Sequence[int]) -> None:
    """Close descriptors, and with them what they stand for."""
    for handle in handles:
        with contextlib.suppress(OSError):
            os.close(handle)


_libc = ctypes.CDLL(None, use_errno=True)
_number = _BPF.get(os.uname().machine)


def _call(what: str, command: int, attributes: bytes) -> int:
    if _number is None:
        raise Unavailable("LM3407", reason=f"bpf(2) has no known number on {os.uname().machine}")
    given = ctypes.create_string_buffer(attributes, _ATTRIBUTES_BYTES)
    result = int(_libc.syscall(_number, command, given, _ATTRIBUTES_BYTES))
    if result < 0:
        error = ctypes.get_errno()
        raise Unavailable("LM3407", reason=f"bpf(2), {what}: {os.strerror(error)} (errno {error})")
    return result
