"""Reads the kernel's own description of its types (BTF, linux/btf.h): where a field is, which number a function has.

Only what is asked for, in one pass over some hundred thousand types: 0.2 s, once.
"""

from __future__ import annotations

import dataclasses
import pathlib
import struct
from collections.abc import Iterator, Mapping, Sequence

from mesh.problems import Unavailable

VMLINUX = pathlib.Path("/sys/kernel/btf/vmlinux")
_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_MEMBER = struct.Struct("=III")
_STRUCT, _FUNCTION = 4, 12
# by kind: bytes after a type, once, and for each of its parts
_MORE = {
    1: (4, 0), 2: (0, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 7: (0, 0), 8: (0, 0), 9: (0, 0), 10: (0, 0),
    11: (0, 0), 12: (0, 0), 13: (0, 8), 14: (4, 0), 15: (0, 12), 16: (0, 0), 17: (4, 0), 18: (0, 0), 19: (0, 12),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Numbers of functions, and offsets in bytes of fields, by `struct.field`."""

    functions: Mapping[str, int]
    fields: Mapping[str, int]


def find(data: bytes, functions: Sequence[str], fields: Sequence[str]) -> Found:
    """Find functions, and fields that stand directly in structures, by name.

    Raises Unavailable LM3407 for what is no BTF of a known form, and when one of them is not there.
    """
    try:
        numbers, offsets = _look(data, functions, fields)
    except (struct.error, KeyError, IndexError, ValueError) as err:
        raise Unavailable("LM3407", reason="the kernel's types cannot be read") from err
    missing = [name for name in (*functions, *fields) if name not in numbers and name not in offsets]
    if missing:
        raise Unavailable("LM3407", reason=f"the kernel's types do not have {', '.join(missing)}")
    return Found(functions=numbers, fields=offsets)


def _look(data: bytes, functions: Sequence[str], fields: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    magic, _, _, head, types_at, types_size, texts_at, texts_size = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("another byte order, or no BTF")
    texts = data[head + texts_at : head + texts_at + texts_size]
    wanted = {_text(texts, name): name for name in functions}
    structures = {_text(texts, name.partition(".")[0]): name.partition(".")[0] for name in fields}
    numbers: dict[str, int] = {}
    offsets: dict[str, int] = {}
    for number, name, kind, count, at in _types(data, head + types_at, head + types_at + types_size):
        if kind == _FUNCTION and name in wanted:
            numbers[wanted[name]] = number
        elif kind == _STRUCT and name in structures:
            for member in range(count):
                label, _, offset = _MEMBER.unpack_from(data, at + member * _MEMBER.size)
                found = f"{structures[name]}.{texts[label : texts.index(0, label)].decode('ascii', 'replace')}"
                if found in fields:
                    # in bits; what is no bit field lies at a whole byte
                    offsets.setdefault(found, (offset & 0xFFFFFF) // 8)
    return numbers, offsets


def _types(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Number, name, kind, count of parts, and where the parts are, of each type."""
    number = 0
    while at < end:
        number += 1
        name, info, _ = _TYPE.unpack_from(data, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        once, each = _MORE[kind]
        yield number, name, kind, count, at + _TYPE.size
        at += _TYPE.size + once + each * count


def _text(texts: bytes, name: str) -> int:
    """Where a name stands among the texts; -1 when it does not."""
    found = texts.find(b"\0" + name.encode("ascii") + b"\0")
    return found + 1 if found >= 0 else -1
