"""The C2SP tlog-tiles layout: where hashes and entries of a log stand in files, and how to read them back.

A tile holds up to 256 hashes of one level; a full tile's own hash is one entry of the tile above. A tile that is not
full yet stands under `.p/<width>`. This module writes nothing.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from audit.merkle import fold
from mesh.problems import Invalid

HEIGHT = 8
WIDTH = 1 << HEIGHT
HASH_BYTES = 32
MAX_ENTRY_BYTES = 0xFFFF

Read = Callable[[str], bytes | None]


def tile_path(level: int, index: int, width: int = WIDTH) -> str:
    """The path of a hash tile: `tile/<L>/<N>[.p/<W>]`."""
    return f"tile/{level}/{_number(index)}{_partial(width)}"


def entries_path(index: int, width: int = WIDTH) -> str:
    """The path of an entry bundle: `tile/entries/<N>[.p/<W>]`."""
    return f"tile/entries/{_number(index)}{_partial(width)}"


def _number(index: int) -> str:
    """The tile index in groups of three digits, all but the last with an `x` before: 1234067 is x001/x234/067."""
    groups = []
    rest = index
    while True:
        rest, group = divmod(rest, 1000)
        groups.append(f"{group:03d}")
        if rest == 0:
            break
    return "/".join([*(f"x{group}" for group in reversed(groups[1:])), groups[0]])


def _partial(width: int) -> str:
    return "" if width == WIDTH else f".p/{width}"


def level_widths(size: int) -> list[int]:
    """How many hashes each tile level holds for a tree of a size: level 0 are the leaves."""
    widths = []
    while size:
        widths.append(size)
        size >>= HEIGHT
    return widths


def pack_entries(entries: list[bytes]) -> bytes:
    """Entries as a bundle: each with its length in two bytes, big-endian.

    Raises ValueError for an entry that is longer than 65535 bytes.
    """
    if any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
        raise ValueError("an entry has at most 65535 bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unpack_entries(data: bytes, path: str) -> list[bytes]:
    """Read a bundle.

    Raises Invalid LM6021 when it does not end with an entry.
    """
    found, offset = [], 0
    while offset < len(data):
        size = int.from_bytes(data[offset : offset + 2], "big")
        entry = data[offset + 2 : offset + 2 + size]
        if offset + 2 > len(data) or len(entry) != size:
            raise Invalid("LM6021", path=path, reason=f"it breaks off at byte {offset}")
        found.append(entry)
        offset += 2 + size
    return found


class TileReader:
    """Reads hashes and entries of a tree of one size through a function from path to bytes (None: not there)."""

    def __init__(self, read: Read, size: int) -> None:
        self._read, self._size = read, size
        self._widths = level_widths(size)
        self._tiles: dict[tuple[int, int], bytes] = {}

    def subtree(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree, computed from the tile it stands in.

        Raises Invalid LM6020 for a missing tile, LM6021 for one of the wrong size.
        """
        tile_level, inner = divmod(level, HEIGHT)
        first = index << inner
        tile = self.tile(tile_level, first // WIDTH)
        start = first % WIDTH
        return fold(
            [tile[place * HASH_BYTES : (place + 1) * HASH_BYTES] for place in range(start, start + (1 << inner))]
        )

    def tile(self, level: int, index: int) -> bytes:
        """A tile's bytes, of exactly the width that the tree's size asks for."""
        known = self._tiles.get((level, index))
        if known is not None:
            return known
        width = self.width(level, index)
        data = self._load(tile_path(level, index, width), tile_path(level, index), width)
        self._tiles[(level, index)] = data
        return data

    def width(self, level: int, index: int) -> int:
        """How many hashes a tile holds in this tree."""
        total = self._widths[level] if level < len(self._widths) else 0
        return max(0, min(WIDTH, total - index * WIDTH))

    def _load(self, path: str, full_path: str, width: int) -> bytes:
        data = self._read(path)
        if data is None and path != full_path:
            # a partial tile may be gone once the full one is there
            full = self._read(full_path)
            data = full[: width * HASH_BYTES] if full is not None else None
        if data is None:
            raise Invalid("LM6020", path=path)
        if len(data) != width * HASH_BYTES:
            raise Invalid("LM6021", path=path, reason=f"it has {len(data)} bytes, not {width * HASH_BYTES}")
        return data

    def entries(self, index: int) -> list[bytes]:
        """The entries of a bundle, exactly as many as the tree's size asks for.

        Raises Invalid LM6020 or LM6021.
        """
        width = self.width(0, index)
        path = entries_path(index, width)
        data = self._read(path)
        if data is None and width != WIDTH:
            data = self._read(entries_path(index))
        if data is None:
            raise Invalid("LM6020", path=path)
        found = unpack_entries(data, path)
        if len(found) < width:
            raise Invalid("LM6021", path=path, reason=f"it has {len(found)} entries, not {width}")
        return found[:width]


def read_from(directory: pathlib.Path) -> Read:
    """A function that reads files below a directory."""

    def read(path: str) -> bytes | None:
        try:
            return (directory / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    return read
