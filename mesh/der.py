"""Writes DER (X.690 §10): a tag, a length in its shortest form, the content. Reads nothing."""

from __future__ import annotations


def header(tag: int, size: int) -> bytes:
    """What stands before the content of a value: its tag, of one byte, and its length."""
    if size < 128:
        return bytes((tag, size))
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length


def wrap(tag: int, content: bytes) -> bytes:
    """One value."""
    return header(tag, len(content)) + content
