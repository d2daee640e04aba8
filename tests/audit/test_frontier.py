import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from audit.frontier import Frontier
from audit.merkle import leaf_hash, root_hash
from audit.tiles import TileReader
from tests.examples import examples


def entry(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()[: number % 32 + 1]


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word for word."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:half]) + naive_root(leaves[half:])).digest()


@settings(max_examples=examples(25), deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, 3, 100, 255, 256, 257, 512, 800]), max_size=6))
def test_however_leaves_come_the_tree_and_its_files_are_the_same(sizes: list[int]) -> None:
    total = sum(sizes)
    entries = [entry(number) for number in range(total)]
    leaves = [leaf_hash(item) for item in entries]
    together, alone = Frontier(), Frontier()
    files: dict[str, bytes] = {}
    at = 0
    for size in sizes:
        together.grow(leaves[at : at + size], entries[at : at + size], files)
        at += size
    single: dict[str, bytes] = {}
    for leaf, item in zip(leaves, entries, strict=True):
        alone.grow([leaf], [item], single)
    assert (files, together.unfinished()) == (single, alone.unfinished())
    assert together.size == alone.size == total
    assert together.root == alone.root == naive_root(leaves)
    # what was written leads to the same root, and the edge is read back from it
    files |= together.unfinished()
    tiles = TileReader(files.get, total)
    assert root_hash(tiles.subtree, total) == together.root
    again = Frontier.load(tiles, total)
    assert (again.size, again.root, again.unfinished()) == (total, together.root, together.unfinished())
    more: dict[str, bytes] = {}
    again.grow([leaf_hash(entry(total))], [entry(total)], more)
    together.grow([leaf_hash(entry(total))], [entry(total)], files)
    assert (again.root, again.unfinished()) == (together.root, together.unfinished())
    assert more.items() <= files.items()


def test_three_levels_of_tiles_are_read_back() -> None:
    frontier, files = Frontier(), dict[str, bytes]()
    size = 256 * 256 + 256 + 3
    entries = [number.to_bytes(3, "big") for number in range(size)]
    frontier.grow([leaf_hash(item) for item in entries], entries, files)
    files |= frontier.unfinished()
    assert {"tile/1/000", "tile/2/000.p/1", "tile/1/001.p/1", "tile/0/257.p/3"} <= files.keys()
    read: list[str] = []

    def listen(path: str) -> bytes | None:
        read.append(path)
        return files.get(path)

    again = Frontier.load(TileReader(listen, size), size)
    assert again.root == frontier.root
    # one tile of each level, and one bundle
    assert len(read) == 4
