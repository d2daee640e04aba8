"""Merkle trees of RFC 6962 / RFC 9162: hashes, inclusion and consistency, and their verification. Pure.

Leaf hash: SHA-256(0x00 ‖ leaf). Node hash: SHA-256(0x01 ‖ left ‖ right). The subtree hashes come from a function, so
that a tree of any size can be proved from stored tiles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

_SHA256 = hashlib.sha256
EMPTY_ROOT = hashlib.sha256(b"").digest()
# the hash of the complete subtree at (level, index): leaves index * 2**level up to (index + 1) * 2**level
Subtree = Callable[[int, int], bytes]


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf (RFC 9162 §2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(row: Sequence[bytes]) -> bytes:
    """The hash of a complete row of 2^n hashes."""
    found = row
    while len(found) > 1:
        # `node_hash`, without a call for each: a log hashes as many nodes as it has records
        found = [_SHA256(b"\x01" + left + right).digest() for left, right in zip(found[::2], found[1::2], strict=True)]
    return found[0]


def _split(size: int) -> int:
    """The largest power of two smaller than a size of at least 2."""
    return 1 << (size - 1).bit_length() - 1


def range_hash(subtree: Subtree, begin: int, end: int) -> bytes:
    """The hash of the leaves from ``begin`` to before ``end``; ``begin`` is a multiple of a power of two ≥ the size."""
    size = end - begin
    if size == 0:
        return EMPTY_ROOT
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return subtree(level, begin >> level)
    half = _split(size)
    return node_hash(range_hash(subtree, begin, begin + half), range_hash(subtree, begin + half, end))


def root_hash(subtree: Subtree, size: int) -> bytes:
    """The root of a tree of ``size`` leaves."""
    return range_hash(subtree, 0, size)


def inclusion_proof(subtree: Subtree, index: int, size: int) -> list[bytes]:
    """The audit path of a leaf (RFC 9162 §2.1.3.1), from the leaf upwards.

    Raises ValueError for an index outside the tree.
    """
    if not 0 <= index < size:
        raise ValueError("the leaf is not in the tree")
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        half = begin + _split(end - begin)
        if index < half:
            path.append(range_hash(subtree, half, end))
            end = half
        else:
            path.append(range_hash(subtree, begin, half))
            begin = half
    path.reverse()
    return path


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a leaf hash stands at an index of the tree with a root (RFC 9162 §2.1.3.2).

    1. The index is in the tree.
    2. From the leaf upwards, each path element is joined on the side that the index says.
    3. The path has exactly as many elements as the tree asks for, and ends in the root.
    """
    # (1)
    if not 0 <= index < size:
        return False
    # (2)
    place, last, found = index, size - 1, leaf
    for element in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(element, found)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            found = node_hash(found, element)
        place >>= 1
        last >>= 1
    # (3)
    return last == 0 and found == root


def consistency_proof(subtree: Subtree, old: int, new: int) -> list[bytes]:
    """The proof that a tree of ``old`` leaves is a prefix of one of ``new`` (RFC 9162 §2.1.4.1).

    Raises ValueError unless 0 < old ≤ new.
    """
    if not 0 < old <= new:
        raise ValueError("the old tree is not empty and not larger than the new one")
    proof: list[bytes] = []
    begin, end, is_whole = 0, new, True
    while end - begin != old - begin:
        half = begin + _split(end - begin)
        if old <= half:
            proof.append(range_hash(subtree, half, end))
            end = half
        else:
            proof.append(range_hash(subtree, begin, half))
            begin = half
            is_whole = False
    if not is_whole:
        proof.append(range_hash(subtree, begin, end))
    proof.reverse()
    return proof


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether a tree of ``old`` leaves is a prefix of one of ``new`` (RFC 9162 §2.1.4.2).

    1. Equal sizes have equal roots and an empty proof; every tree begins with the empty one.
    2. The walk starts at the node of the old tree's last complete subtree: its own root when it is a power of two.
    3. From there both roots are built from the same elements, and both must come out.
    """
    # (1)
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    if not 0 < old < new or not proof:
        return False
    # (2)
    elements = list(proof)
    if old & (old - 1) == 0:
        elements.insert(0, old_root)
    place, last = old - 1, new - 1
    while place & 1:
        place >>= 1
        last >>= 1
    # (3)
    found_old = found_new = elements[0]
    for element in elements[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            found_old = node_hash(element, found_old)
            found_new = node_hash(element, found_new)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            found_new = node_hash(found_new, element)
        place >>= 1
        last >>= 1
    return last == 0 and found_old == old_root and found_new == new_root
