"""The right edge of a growing log: all that has to be known of a tree of any size to make it larger. Pure.

Of each level the hashes of the tile that is not full yet, the entries of the bundle that is not, and the hashes of the
complete subtrees that the tree is made of: O(log n) hashes and 255 entries. What becomes complete is handed out to be
written; this module writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from audit.merkle import EMPTY_ROOT, fold, node_hash
from audit.tiles import HEIGHT, WIDTH, TileReader, entries_path, hashes_of, pack_entries, tile_path


class Frontier:
    """The edge of one tree; an empty one to begin with."""

    def __init__(self) -> None:
        self.size = 0
        # the hashes of the unfinished tile of each level, and the unfinished bundle
        self._edge: list[list[bytes]] = []
        self._bundle: list[bytes] = []
        # the hashes of the complete subtrees that the tree is made of, with their heights, the largest first
        self._peaks: list[tuple[int, bytes]] = []

    @classmethod
    def load(cls, tiles: TileReader, size: int) -> Frontier:
        """Read the edge of a stored tree: one tile of each level, and the unfinished bundle.

        Raises Invalid LM6020 or LM6021 for a tile or bundle that is missing or broken.
        """
        found = cls()
        found.size = size
        level = 0
        while size >> HEIGHT * level:
            width = (size >> HEIGHT * level) % WIDTH
            found._edge.append(hashes_of(tiles.tile(level, size >> HEIGHT * (level + 1))) if width else [])
            level += 1
        if size % WIDTH:
            found._bundle = tiles.entries(size // WIDTH)
        for height in reversed(range(size.bit_length())):
            if size >> height & 1:
                # the subtrees before it are twice as large, or more
                found._peaks.append((height, found._subtree(height, (size >> height) - 1)))
        return found

    def _subtree(self, height: int, index: int) -> bytes:
        """Subtree hashes from the edge: it holds every one that the root is made of."""
        level, inner = divmod(height, HEIGHT)
        first = index << inner
        assert first // WIDTH == self.size >> HEIGHT * (level + 1)
        return fold(self._edge[level][first % WIDTH : first % WIDTH + (1 << inner)])

    @property
    def root(self) -> bytes:
        """The root of the tree."""
        if not self._peaks:
            return EMPTY_ROOT
        found = self._peaks[-1][1]
        for _, peak in reversed(self._peaks[:-1]):
            found = node_hash(peak, found)
        return found

    def grow(self, leaves: Sequence[bytes], entries: Sequence[bytes], writes: dict[str, bytes]) -> None:
        """Put leaves, given by their hashes, and their entries behind the others.

        Tiles and bundles that are complete by then are in ``writes``, by their paths.

        1. Where a tile begins and there is a whole one of new leaves, it is put there as one.
        2. Else leaf by leaf.
        """
        at = 0
        while at < len(leaves):
            # (1)
            if self.size % WIDTH == 0 and len(leaves) - at >= WIDTH:
                row, bundle = [*leaves[at : at + WIDTH]], entries[at : at + WIDTH]
                index = self.size // WIDTH
                writes[entries_path(index)] = pack_entries(bundle)
                writes[tile_path(0, index)] = b"".join(row)
                if not self._edge:
                    self._edge.append([])
                self.size += WIDTH
                self._add(HEIGHT, fold(row), writes)
                at += WIDTH
                continue
            # (2)
            self._bundle.append(entries[at])
            if len(self._bundle) == WIDTH:
                writes[entries_path(self.size // WIDTH)] = pack_entries(self._bundle)
                self._bundle = []
            self.size += 1
            self._add(0, leaves[at], writes)
            at += 1

    def _add(self, height: int, found: bytes, writes: dict[str, bytes]) -> None:
        """Put a complete subtree, the last one of the tree, behind the others.

        A full tile stands in the one above as the root of what is below it.
        """
        self._put(height, found, writes)
        while self._peaks and self._peaks[-1][0] == height:
            found = node_hash(self._peaks.pop()[1], found)
            height += 1
            if not height % HEIGHT:
                self._put(height, found, writes)
        self._peaks.append((height, found))

    def _put(self, height: int, found: bytes, writes: dict[str, bytes]) -> None:
        """Put the root of a full tile, or a leaf, into its own tile."""
        level = height // HEIGHT
        if level == len(self._edge):
            self._edge.append([])
        row = self._edge[level]
        row.append(found)
        if len(row) == WIDTH:
            writes[tile_path(level, (self.size - 1) >> HEIGHT * (level + 1))] = b"".join(row)
            self._edge[level] = []

    def unfinished(self) -> dict[str, bytes]:
        """The partial tiles and the partial bundle of the size."""
        found = {}
        for level, row in enumerate(self._edge):
            if row:
                found[tile_path(level, self.size >> HEIGHT * (level + 1), len(row))] = b"".join(row)
        if self._bundle:
            found[entries_path(self.size // WIDTH, len(self._bundle))] = pack_entries(self._bundle)
        return found
