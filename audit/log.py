"""The log: appends records to a tlog-tiles tree on disk and signs a checkpoint over each growth.

One writer. What `append` returned for is durable and under a signed checkpoint. The order of writes makes a crash
harmless: tiles and bundles of the new size first, then the checkpoint, atomically. What stands beyond the checkpoint
is written again, byte for byte the same or not at all. This module exports nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Checkpoint, VerifierKey, read_checkpoint, sign_checkpoint
from audit.merkle import fold, leaf_hash, root_hash
from audit.tiles import HASH_BYTES, WIDTH, TileReader, entries_path, pack_entries, read_from, tile_path
from mesh.problems import Invalid

_ID = re.compile(rb'"id":"([0-9A-HJKMNP-TV-Z]{26})"')
CHECKPOINT, KEY = "checkpoint", "key.pub"


class Log:
    """A log that this process alone appends to."""

    def __init__(self, directory: pathlib.Path, key: Ed25519PrivateKey, origin: str) -> None:
        self._directory, self._key = directory, key
        self._verifier = VerifierKey(name=origin, key=key.public_key())
        self._read = read_from(directory)
        self._ids: set[bytes] = set()
        # the right edge: the hashes of the unfinished tile of each level, and the unfinished bundle
        self._edge: list[list[bytes]] = []
        self._bundle: list[bytes] = []
        self._bundle_bytes = b""
        self.size = 0
        self.root = b""

    @classmethod
    def open(cls, directory: pathlib.Path, *, key: Ed25519PrivateKey, origin: str) -> Log:
        """Open a log, or begin one.

        Raises Invalid LM6032 when the checkpoint is another key's, LM6020 or LM6021 when its tiles are not all there,
        LM6033 when they do not hash to its root.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = cls(directory, key, origin)
        note = log._read(CHECKPOINT)
        if note is None:
            _write(directory / KEY, f"{log._verifier}\n".encode())
            log._sign()
        else:
            log._load(read_checkpoint(note, log._verifier))
        return log

    def _load(self, checkpoint: Checkpoint) -> None:
        self.size = checkpoint.size
        tiles = TileReader(self._read, self.size)
        if root_hash(tiles.subtree, self.size) != checkpoint.root:
            raise Invalid("LM6033", reason="the tiles do not hash to the signed root")
        self.root = checkpoint.root
        level = 0
        while self.size >> 8 * level:
            width = (self.size >> 8 * level) % WIDTH
            data = tiles.tile(level, self.size >> 8 * level + 8) if width else b""
            self._edge.append([data[place * HASH_BYTES : (place + 1) * HASH_BYTES] for place in range(width)])
            level += 1
        for index in range((self.size + WIDTH - 1) // WIDTH):
            entries = tiles.entries(index)
            self._ids.update(_record_id(entry) for entry in entries)
            if self.size % WIDTH and index == self.size // WIDTH:
                self._bundle = entries
        self._bundle_bytes = pack_entries(self._bundle)

    def append(self, records: Sequence[bytes]) -> int:
        """Append records that are not in the log yet; durable and signed when it returns. Returns how many were new.

        1. A record whose id is in the log was delivered before, and is dropped.
        2. Every leaf goes into its bundle and its level 0 tile; a tile that fills puts its hash into the one above.
        3. Full and partial tiles and bundles of the new size are on the disk.
        4. The checkpoint of the new size replaces the old one.
        """
        # (1)
        fresh: dict[bytes, bytes] = {}
        for found in records:
            name = _record_id(found)
            if name not in self._ids and name not in fresh:
                fresh[name] = found
        if not fresh:
            return 0
        # (2), (3)
        writes: dict[str, bytes] = {}
        for found in fresh.values():
            self._grow(found, writes)
        self._write_edge(writes)
        for path, data in writes.items():
            _write(self._directory / path, data, replace=False)
        _sync_folders(self._directory, writes)
        self._ids.update(fresh)
        # (4)
        self._sign()
        self._drop_partials(writes)
        return len(fresh)

    def _grow(self, data: bytes, writes: dict[str, bytes]) -> None:
        """Step 2 of `append` for one leaf."""
        self._bundle.append(data)
        self._bundle_bytes += len(data).to_bytes(2, "big") + data
        if len(self._bundle) == WIDTH:
            writes[entries_path(self.size // WIDTH)] = self._bundle_bytes
            self._bundle, self._bundle_bytes = [], b""
        carry: bytes | None = leaf_hash(data)
        level = 0
        while carry is not None:
            if level == len(self._edge):
                self._edge.append([])
            row = self._edge[level]
            row.append(carry)
            carry = None
            if len(row) == WIDTH:
                index = self.size >> 8 * level + 8
                writes[tile_path(level, index)] = b"".join(row)
                carry = fold(row)
                self._edge[level] = []
                level += 1
        self.size += 1

    def _write_edge(self, writes: dict[str, bytes]) -> None:
        for level, row in enumerate(self._edge):
            if row:
                writes[tile_path(level, self.size >> 8 * level + 8, len(row))] = b"".join(row)
        if self._bundle:
            writes[entries_path(self.size // WIDTH, len(self._bundle))] = self._bundle_bytes

    def _sign(self) -> None:
        self.root = root_hash(self._subtree, self.size)
        checkpoint = Checkpoint(origin=self._verifier.name, size=self.size, root=self.root)
        _write(self._directory / CHECKPOINT, sign_checkpoint(checkpoint, self._key))

    def _subtree(self, level: int, index: int) -> bytes:
        """Subtree hashes from the right edge in memory; the complete tiles below it were folded into it."""
        tile_level, inner = divmod(level, 8)
        first = index << inner
        row = self._edge[tile_level] if tile_level < len(self._edge) else []
        if first // WIDTH == self.size >> 8 * tile_level + 8 and row:
            start = first % WIDTH
            return fold(row[start : start + (1 << inner)])
        return TileReader(self._read, self.size).subtree(level, index)

    def _drop_partials(self, writes: dict[str, bytes]) -> None:
        """Remove the partial tiles that a full one replaces; what a checkpoint of before needs stays until then."""
        for path in writes:
            folder = self._directory / f"{path}.p"
            if ".p/" not in path and folder.is_dir():
                for left in folder.iterdir():
                    left.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def records(self, after: int = 0) -> Iterator[tuple[int, bytes]]:
        """The records from an index on, with their indexes."""
        yield from read_records(self._directory, self.size, after)


def read_records(directory: pathlib.Path, size: int, after: int = 0) -> Iterator[tuple[int, bytes]]:
    """The records of a log of a size, from an index on."""
    tiles = TileReader(read_from(directory), size)
    for bundle in range(after // WIDTH, (size + WIDTH - 1) // WIDTH):
        for offset, entry in enumerate(tiles.entries(bundle)):
            index = bundle * WIDTH + offset
            if index >= after:
                yield index, entry


def _record_id(data: bytes) -> bytes:
    """The record's id; canonical JSON, so the quick way is tried first and checked by the slow one on doubt."""
    match = _ID.search(data)
    if match is not None and data.count(b'"id":"') == 1:
        return match.group(1)
    return str(json.loads(data)["id"]).encode()


def _write(path: pathlib.Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file durably under its name; a reader sees all of it or nothing.

    A tile that is there with the same bytes is left alone; other bytes beyond the checkpoint are a crash's leavings.
    """
    if not replace and path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    if replace:
        _sync(path.parent)


def _sync_folders(directory: pathlib.Path, writes: dict[str, bytes]) -> None:
    """Make the new names durable: every folder from the written files up to the log's own."""
    folders = {parent for path in writes for parent in (directory / path).parents if parent.is_relative_to(directory)}
    for folder in folders:
        _sync(folder)


def _sync(folder: pathlib.Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
