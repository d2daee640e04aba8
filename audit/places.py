"""Where the records of a bundle stand in its bytes, found by their hashes: also behind bytes that were damaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from audit.merkle import leaf_hash
from audit.tiles import MAX_ENTRY_BYTES, WIDTH, TileReader
from mesh.problems import Invalid

# bytes that are hashed while a bundle's next whole record is looked for
MAX_HASHED_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Bytes of a bundle, from ``offset`` on, and whether they are the record that belongs there.

    The length before a record, of two bytes, counts as its own.
    """

    offset: int
    size: int
    is_whole: bool


def places(data: bytes, leaves: Sequence[bytes]) -> list[Place]:
    """Where each record stands, by the leaf hashes of all of them.

    1. A record is whole when the bytes behind its length have its hash.
    2. One that is not ends where its length says, if a whole record follows there, or the end.
    3. Else the next whole record is looked for, and what lies before it is of those between them: which byte belongs
       to which of those cannot be told, and all of them have the whole stretch. So it is with whatever is left when
       none is found.
    """
    found: list[Place] = []
    wanted = {leaf: number for number, leaf in enumerate(leaves)}
    at = hashed = 0
    while len(found) < len(leaves):
        number = len(found)
        end = _end(data, at)
        # (1)
        if end is not None and leaf_hash(data[at + 2 : end]) == leaves[number]:
            found.append(Place(at, end - at, is_whole=True))
            at = end
            continue
        # (2)
        if end is not None and _follows(data, end, leaves, number + 1):
            found.append(Place(at, end - at, is_whole=False))
            at = end
            continue
        # (3)
        next_at, following = len(data), len(leaves)
        for place in range(at, len(data)):
            end = _end(data, place)
            if end is None or hashed >= MAX_HASHED_BYTES or not _is_object(data, place, end):
                continue
            hashed += end - place
            match = wanted.get(leaf_hash(data[place + 2 : end]), -1)
            if match > number:
                next_at, following = place, match
                break
        found += [Place(at, next_at - at, is_whole=False)] * (following - number)
        at = next_at
    return found


def changed(tiles: TileReader, bundle: int, entries: Sequence[bytes], number: int) -> Invalid:
    """What is said of a bundle's record that is not the one that was logged: where in which file it was to stand."""
    offset = sum(2 + len(entry) for entry in entries[:number])
    return said_of(tiles, bundle, number, Place(offset, 2 + len(entries[number]), is_whole=False))


def said_of(tiles: TileReader, bundle: int, number: int, place: Place) -> Invalid:
    """The same of one whose place is known."""
    path = tiles.bundle(bundle)[0]
    return Invalid("LM6034", index=bundle * WIDTH + number, path=path, offset=place.offset, size=place.size)


def _end(data: bytes, at: int) -> int | None:
    """Where the record ends whose length stands at a place; None when that is beyond the bytes."""
    if at + 2 > len(data):
        return None
    end = at + 2 + int.from_bytes(data[at : at + 2], "big")
    return end if end <= len(data) and end - at - 2 <= MAX_ENTRY_BYTES else None


def _follows(data: bytes, at: int, leaves: Sequence[bytes], number: int) -> bool:
    if number == len(leaves):
        return at == len(data)
    end = _end(data, at)
    return end is not None and leaf_hash(data[at + 2 : end]) == leaves[number]


def _is_object(data: bytes, at: int, end: int) -> bool:
    """Whether what stands there looks like a record: every one is an object in JSON."""
    return data[at + 2 : at + 3] == b"{" and data[end - 1 : end] == b"}"
