"""The log: appends records to a tlog-tiles tree on disk and signs a checkpoint over each growth.

One writer, held to by a lock. What `append` returned for is durable and under a signed checkpoint. The order of writes
makes a crash harmless: tiles and bundles of the new size first, then the checkpoint, atomically. What stands beyond the
checkpoint was never acknowledged and is written over. Nothing under a signed checkpoint is ever written again, so that
no two checkpoints contradict each other. This module exports nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Checkpoint, VerifierKey, read_checkpoint, sign_checkpoint
from audit.merkle import EMPTY_ROOT, fold, leaf_hash, root_hash
from audit.reader import CHECKPOINT, KEY, read_records
from audit.record import check_record, read_record, to_bytes
from audit.tiles import (
    HEIGHT,
    WIDTH,
    TileReader,
    entries_path,
    hashes_of,
    pack_entries,
    read_from,
    stored,
    tile_path,
)
from mesh.problems import Conflict, Invalid, Unavailable

# the process's locks by directory (device and inode), and which log may write there
_locks: dict[tuple[int, int], int] = {}
_writers: dict[tuple[int, int], Log] = {}


class Log:
    """A log that this process alone appends to."""

    def __init__(self, directory: pathlib.Path, key: Ed25519PrivateKey, origin: str) -> None:
        self._directory, self._key = directory, key
        self._verifier = VerifierKey(name=origin, key=key.public_key())
        self._read = read_from(directory)
        self._lock = _lock(directory)
        self._folders: set[pathlib.Path] = {directory}
        self._is_behind = False
        self._begin()
        _writers[self._lock] = self

    def _begin(self) -> None:
        # what is in the log already, by leaf hash; an id alone could be taken by somebody who saw it early
        self._known: set[bytes] = set()
        # the right edge: the hashes of the unfinished tile of each level, and the unfinished bundle
        self._edge: list[list[bytes]] = []
        self._bundle: list[bytes] = []
        self.size = 0
        self.root = EMPTY_ROOT

    @classmethod
    def open(cls, directory: pathlib.Path, *, key: Ed25519PrivateKey, origin: str) -> Log:
        """Open a log, or begin one.

        Raises Conflict LM6022 when another process writes it, Invalid LM6024 when it has tiles and no checkpoint,
        LM6032 when the checkpoint is another key's, LM6020 or LM6021 when its tiles are not all there, LM6033 or LM6034
        when they are not those that were signed.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = cls(directory, key, origin)
        try:
            log._start()
        except BaseException:
            log.close()
            raise
        return log

    def _start(self) -> None:
        if self._read(CHECKPOINT) is not None:
            self._load()
            self._sweep()
        elif (self._directory / "tile").exists():
            # beginning anew would sign a second history under the same key
            raise Invalid("LM6024", path=self._directory)
        else:
            _write(self._directory / KEY, f"{self._verifier}\n".encode())
            self._sign()

    def _sweep(self) -> None:
        """Remove what a crash left beyond the checkpoint: nobody signed it."""
        tiles = TileReader(self._read, self.size)
        for path, level, index, width in list(stored(self._directory)):
            if width > tiles.width(level or 0, index):
                (self._directory / path).unlink()

    def close(self) -> None:
        """Let another process write the log."""
        if _writers.get(self._lock) is self:
            del _writers[self._lock]
            os.close(_locks.pop(self._lock))

    def _load(self) -> None:
        """Take up the log where its checkpoint stands.

        1. The checkpoint is signed by this key; the tiles of the right edge hash to its root.
        2. EVERY record has the hash that its tile says, and is known from then on.
        """
        self._begin()
        # (1)
        note = self._read(CHECKPOINT)
        if note is None:
            raise Invalid("LM6020", path=CHECKPOINT)
        checkpoint = read_checkpoint(note, self._verifier)
        size = checkpoint.size
        tiles = TileReader(self._read, size)
        if root_hash(tiles.subtree, size) != checkpoint.root:
            raise Invalid("LM6033", reason="the tiles do not hash to the signed root")
        level = 0
        while size >> HEIGHT * level:
            width = (size >> HEIGHT * level) % WIDTH
            self._edge.append(hashes_of(tiles.tile(level, size >> HEIGHT * (level + 1))) if width else [])
            level += 1
        # (2)
        for index in range((size + WIDTH - 1) // WIDTH):
            entries, hashes = tiles.entries(index), hashes_of(tiles.tile(0, index))
            for place, entry in enumerate(entries):
                if leaf_hash(entry) != hashes[place]:
                    raise Invalid("LM6034", index=index * WIDTH + place)
            self._known.update(hashes)
            if size % WIDTH and index == size // WIDTH:
                self._bundle = entries
        self.size, self.root = size, checkpoint.root

    def append(self, records: Sequence[bytes]) -> int:
        """Append records that are not in the log yet; durable and signed when it returns. Returns how many were new.

        1. EVERY record is well-formed, or none is taken. One that is in the log, byte for byte, was delivered before,
           and is dropped. Another record under the same id is kept: nobody suppresses a record by using its id first.
        2. Every leaf goes into its bundle and its level 0 tile; a tile that fills puts its hash into the one above.
        3. Full and partial tiles and bundles of the new size are on the disk.
        4. The checkpoint of the new size replaces the old one.
        5. When (3) or (4) fails, what counts is the checkpoint that stands on the disk.

        Raises Invalid LM6002 for (1), Unavailable LM6023 for (5), Conflict LM6022 when the log was opened anew since.
        """
        # (1)
        for found in records:
            read_record(found)
        return self._append(records)

    def append_made(self, records: Sequence[Mapping[str, object]]) -> int:
        """Append records that were made here, as `append` does: what is written here is canonical, and not read again.

        Raises what `append` and `audit.record.to_bytes` raise.
        """
        for found in records:
            check_record(found)
        return self._append([to_bytes(found) for found in records])

    def _append(self, records: Sequence[bytes]) -> int:
        """Steps 1, but for the form, to 5 of `append`."""
        if _writers.get(self._lock) is not self:
            raise Conflict("LM6022", path=self._directory)
        if self._is_behind:
            self._catch_up()
        # (1)
        fresh: dict[bytes, bytes] = {}
        for found in records:
            leaf = leaf_hash(found)
            if leaf not in self._known:
                fresh[leaf] = found
        if not fresh:
            return 0
        self._is_behind = True
        try:
            # (2)
            writes: dict[str, bytes] = {}
            for leaf, found in fresh.items():
                self._grow(leaf, found, writes)
            # (3)
            writes |= self._unfinished()
            for path, data in writes.items():
                _write(self._directory / path, data, replace=False)
            self._sync_folders(writes)
            # (4)
            self._sign()
        except OSError as err:
            # (5) the next append reads it back
            raise Unavailable("LM6023", path=self._directory, reason=err.strerror or str(err)) from err
        self._known.update(fresh)
        self._is_behind = False
        self._drop_partials(writes)
        return len(fresh)

    def _catch_up(self) -> None:
        try:
            self._load()
        except OSError as err:
            raise Unavailable("LM6023", path=self._directory, reason=err.strerror or str(err)) from err
        self._is_behind = False

    def _grow(self, leaf: bytes, data: bytes, writes: dict[str, bytes]) -> None:
        """Step 2 of `append` for one leaf."""
        self._bundle.append(data)
        if len(self._bundle) == WIDTH:
            writes[entries_path(self.size // WIDTH)] = pack_entries(self._bundle)
            self._bundle = []
        carry: bytes | None = leaf
        level = 0
        while carry is not None:
            if level == len(self._edge):
                self._edge.append([])
            row = self._edge[level]
            row.append(carry)
            carry = None
            if len(row) == WIDTH:
                writes[tile_path(level, self.size >> HEIGHT * (level + 1))] = b"".join(row)
                carry = fold(row)
                self._edge[level] = []
                level += 1
        self.size += 1

    def _unfinished(self) -> dict[str, bytes]:
        """The partial tiles and the partial bundle of the size."""
        found = {}
        for level, row in enumerate(self._edge):
            if row:
                found[tile_path(level, self.size >> HEIGHT * (level + 1), len(row))] = b"".join(row)
        if self._bundle:
            found[entries_path(self.size // WIDTH, len(self._bundle))] = pack_entries(self._bundle)
        return found

    def _sign(self) -> None:
        self.root = root_hash(self._subtree, self.size)
        checkpoint = Checkpoint(origin=self._verifier.name, size=self.size, root=self.root)
        _write(self._directory / CHECKPOINT, sign_checkpoint(checkpoint, self._key))

    def _subtree(self, level: int, index: int) -> bytes:
        """Subtree hashes from the right edge in memory: it holds every one that the root is made of."""
        tile_level, inner = divmod(level, HEIGHT)
        first = index << inner
        assert first // WIDTH == self.size >> HEIGHT * (tile_level + 1)
        return fold(self._edge[tile_level][first % WIDTH : first % WIDTH + (1 << inner)])

    def _sync_folders(self, paths: Iterable[str]) -> None:
        """Make the new names durable: every folder that got one, and every new folder in its parent."""
        folders: set[pathlib.Path] = set()
        for path in paths:
            folder = (self._directory / path).parent
            folders.add(folder)
            while folder not in self._folders:
                self._folders.add(folder)
                folder = folder.parent
                folders.add(folder)
        for folder in folders:
            _sync(folder)

    def _drop_partials(self, paths: Iterable[str]) -> None:
        """Remove the partial tiles that a full one replaces: readers of an older checkpoint find the full one."""
        for path in paths:
            folder = self._directory / f"{path}.p"
            if ".p/" not in path and folder.is_dir():
                with contextlib.suppress(OSError):
                    for left in folder.iterdir():
                        left.unlink(missing_ok=True)
                    folder.rmdir()
                self._folders.discard(folder)

    def records(self, after: int = 0) -> Iterator[tuple[int, bytes]]:
        """The records from an index on, with their indexes."""
        yield from read_records(TileReader(self._read, self.size), after, self.size)


def _lock(directory: pathlib.Path) -> tuple[int, int]:
    """Hold the directory for this process.

    Raises Conflict LM6022 when another process holds it.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = os.fstat(handle)
    name = (found.st_dev, found.st_ino)
    if name in _locks:
        # this process holds it already; the log that is opened last is the writer
        os.close(handle)
        return name
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(handle)
        raise Conflict("LM6022", path=directory) from err
    _locks[name] = handle
    return name


def _write(path: pathlib.Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file durably under its name; a reader sees all of it or nothing.

    A tile that is there with the same bytes is left alone; other bytes beyond the checkpoint are a crash's leavings.
    """
    if not replace and path.exists() and path.read_bytes() == data:
        # a crash may have left it here and not yet on the disk
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    if replace:
        _sync(path.parent)


def _sync(folder: pathlib.Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
