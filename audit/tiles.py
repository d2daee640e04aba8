"""The C2SP tlog-tiles layout: where hashes and entries of a log stand in files, and how to read them back.

A tile holds up to 256 hashes of one level; a full tile's own hash is one entry of the tile above. A tile that is not
full yet stands under `.p/<width>`. Files are read as a stranger's: bounded, and never a link, a pipe or a device. This
module writes nothing.
"""

from __future__ import annotations

import collections
import errno
import os
import pathlib
import re
import stat
from collections.abc import Callable, Iterator, Sequence

from audit.merkle import fold
from mesh.problems import Invalid

HEIGHT = 8
WIDTH = 1 << HEIGHT
HASH_BYTES = 32
MAX_ENTRY_BYTES = 0xFFFF
MAX_FILE_BYTES = WIDTH * (2 + MAX_ENTRY_BYTES)
_KEPT_TILES = 64
_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?\Z")

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


def parse_path(path: str) -> tuple[int | None, int, int] | None:
    """Level (None for entries), index and width of a tile's path; None for any other path."""
    match = _PATH.match(path)
    if match is None:
        return None
    level, digits, partial = match.groups()
    index, width = int(digits.replace("x", "").replace("/", "")), int(partial or WIDTH)
    made = entries_path(index, width) if level == "entries" else tile_path(int(level), index, width)
    return (None if level == "entries" else int(level), index, width) if made == path else None


def hashes_of(tile: bytes) -> list[bytes]:
    """The hashes in a tile's bytes."""
    return [tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)]


def pack_entries(entries: Sequence[bytes]) -> bytes:
    """Entries as a bundle: each with its length in two bytes, big-endian.

    Raises ValueError for an entry that is longer than 65535 bytes.
    """
    try:
        return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])
    except OverflowError as err:
        raise ValueError("an entry has at most 65535 bytes") from err


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
        self._tiles: collections.OrderedDict[tuple[int, int], bytes] = collections.OrderedDict()

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
        """A tile's bytes, of exactly the width that the tree's size asks for.

        Raises Invalid LM6020 for a missing tile, LM6021 for one of the wrong size.
        """
        known = self._tiles.get((level, index))
        if known is not None:
            self._tiles.move_to_end((level, index))
            return known
        width = self.width(level, index)
        data = self._load(tile_path(level, index, width), tile_path(level, index), width)
        self._tiles[(level, index)] = data
        if len(self._tiles) > _KEPT_TILES:
            self._tiles.popitem(last=False)
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

        Raises Invalid LM6020 for a missing bundle, LM6021 for one with fewer or more entries.
        """
        width = self.width(0, index)
        data, is_full = self._bundle(index)
        found = unpack_entries(data, entries_path(index, width))
        if len(found) < width or (len(found) > width and not (is_full and len(found) == WIDTH)):
            raise Invalid("LM6021", path=entries_path(index, width), reason=f"it has {len(found)} entries, not {width}")
        return found[:width]

    def bundle(self, index: int) -> tuple[str, bytes]:
        """A bundle's path and its bytes, whatever they are; the full one's stand in for a partial one's.

        Raises Invalid LM6020 for a missing bundle.
        """
        data, is_full = self._bundle(index)
        return entries_path(index, WIDTH if is_full else self.width(0, index)), data

    def has_entries(self, index: int) -> bool:
        """Whether a bundle is there, whatever is in it."""
        try:
            return bool(self._bundle(index))
        except Invalid:
            return False

    def has_text(self, index: int, text: bytes) -> bool:
        """Whether a bundle has these bytes somewhere; far quicker than looking at its entries.

        Raises Invalid LM6020 for a missing bundle.
        """
        return text in self._bundle(index)[0]

    def _bundle(self, index: int) -> tuple[bytes, bool]:
        """A bundle's bytes, and whether they are those of the full one."""
        width = self.width(0, index)
        path = entries_path(index, width)
        data, is_full = self._read(path), width == WIDTH
        if data is None and not is_full:
            # as with tiles
            data, is_full = self._read(entries_path(index)), True
        if data is None:
            raise Invalid("LM6020", path=path)
        return data, is_full


def stored(directory: pathlib.Path) -> Iterator[tuple[str, int | None, int, int]]:
    """The tiles and bundles below a directory: path, level (None for entries), index and width."""
    for root, folders, names in os.walk(directory / "tile"):
        folders.sort()
        for name in sorted(names):
            path = (pathlib.Path(root) / name).relative_to(directory).as_posix()
            parsed = parse_path(path)
            if parsed is not None:
                yield path, *parsed


def leftovers(directory: pathlib.Path, tiles: TileReader) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The partial tiles and bundles of earlier, smaller trees below a directory, each with what it must hold.

    They may be there and need not. What stands beyond the tree's size is a writer's unfinished business, and left out.
    """
    for path, level, index, width in stored(directory):
        if width < tiles.width(level or 0, index):
            yield path, _prefix(tiles, level, index, width)


def _prefix(tiles: TileReader, level: int | None, index: int, width: int) -> Callable[[], bytes]:
    if level is None:
        return lambda: pack_entries(tiles.entries(index)[:width])
    return lambda: tiles.tile(level, index)[: width * HASH_BYTES]


def read_from(directory: pathlib.Path) -> Read:
    """A function that reads files below a directory.

    Raises (the function) Invalid LM6021 for anything but a readable, regular file of a size that a log's files have.
    """

    def read(path: str) -> bytes | None:
        try:
            handle = os.open(directory / path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as err:
            reason = "it is a link" if err.errno == errno.ELOOP else err.strerror
            raise Invalid("LM6021", path=path, reason=reason) from err
        try:
            with os.fdopen(handle, "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise Invalid("LM6021", path=path, reason="it is no regular file")
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as err:
            raise Invalid("LM6021", path=path, reason=err.strerror) from err
        if len(data) > MAX_FILE_BYTES:
            raise Invalid("LM6021", path=path, reason="it is larger than any file of a log")
        return data

    return read
