"""The log: appends records to a tlog-tiles tree on disk and signs a checkpoint over each growth.

One writer, held to by a lock. A batch is durable, and acknowledged, once it stands in the journal (`audit.journal`),
with one write. Tiles, bundles and then the checkpoint follow for readers: before `append` returns, or at once in the
background, where batches that came meanwhile share them; a kill makes them follow at the next start. They become
durable by themselves later: they are *settled*. What a crash or a loss of power left of them is made again from the
journal, and the very same: the tree follows from its records. So no two checkpoints contradict each other.
Of what is in the log this holds the right edge in memory (`audit.frontier`), and a start reads that and the newest
records; which ones were delivered before is asked of a file (`audit.seen`) and looked up. Whether everything else still
is what was signed is `audit.verify`'s business. This module exports nothing. Longer than most: showing and recovering
are one another's mirror images.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Checkpoint, VerifierKey, read_checkpoint, sign_checkpoint
from audit.frontier import Frontier
from audit.journal import ROOM, Journal, Turn
from audit.merkle import fold, inclusion_proof, leaf_hash, root_hash, verify_inclusion
from audit.places import Place, changed, said_of
from audit.reader import CHECKPOINT, KEY, read_records
from audit.record import check_record, read_record, to_bytes
from audit.retention import newest
from audit.seen import Seen
from audit.shelf import Note, Shelf, write
from audit.tiles import HEIGHT, WIDTH, TileReader, entries_path, hashes_of, leftovers, read_from, stored
from mesh.problems import Conflict, Invalid, Problem, Unavailable

_SECRET = b"limen/audit/journal/1"
# so many of the newest bundles are compared with their tiles at the start: a crash leaves nothing older half done
_NEWEST = 16

# the process's locks by directory (device and inode), and which log may write there
_locks: dict[tuple[int, int], int] = {}
_writers: dict[tuple[int, int], Log] = {}


class Log:
    """A log that this process alone appends to."""

    def __init__(
        self, directory: pathlib.Path, key: Ed25519PrivateKey, origin: str, room: int, *, is_in_background: bool
    ) -> None:
        self._directory, self._key = directory, key
        self._verifier = VerifierKey(name=origin, key=key.public_key())
        self._read = read_from(directory)
        self._lock = _lock(directory)
        # until it was read, and after a write that failed, what is in memory is not what is on the disk
        self._is_behind = True
        self._shelf = Shelf(directory, is_in_background=is_in_background)
        self._journal: Journal | None = None
        self._is_in_background = is_in_background
        self._frontier = Frontier()
        self._seen = Seen(directory)
        # leaf hashes that were looked for and are not in the log of now
        self._absent: set[bytes] = set()
        _writers[self._lock] = self
        # nobody else can make the signature: who can write to the disk alone puts nothing into the log
        self._secret, self._room = hashlib.sha256(key.sign(_SECRET)).digest(), room

    @property
    def size(self) -> int:
        """How many records the log holds."""
        return self._frontier.size

    @property
    def root(self) -> bytes:
        """The root of the tree."""
        return self._frontier.root

    @classmethod
    def open(
        cls,
        directory: pathlib.Path,
        *,
        key: Ed25519PrivateKey,
        origin: str,
        room: int = ROOM,
        is_in_background: bool = False,
    ) -> Log:
        """Open a log, or begin one.

        ``room`` is that of each of the journal's two files, in bytes; ``is_in_background`` says when readers see what
        was appended.

        Raises Conflict LM6022 when another process writes it, Invalid LM6024 when it has tiles and no checkpoint,
        LM6032 when the checkpoint is another key's, LM6020 or LM6021 when its tiles are not all there, LM6033 or LM6034
        when they are not those that were signed, Unavailable LM6023 when the disk refuses.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = cls(directory, key, origin, room, is_in_background=is_in_background)
        try:
            log._journal = Journal(directory, log._secret, room)
            log._start()
        except OSError as err:
            log.close()
            raise Unavailable("LM6023", path=directory, reason=err.strerror or str(err)) from err
        except BaseException:
            log.close()
            raise
        return log

    def _start(self) -> None:
        assert self._journal is not None
        if self._read(CHECKPOINT) is not None:
            self._load()
        elif (self._directory / "tile").exists() or any(turn.batches for turn in self._journal.read()):
            # beginning anew would sign a second history under the same key
            raise Invalid("LM6024", path=self._directory)
        else:
            write(self._directory / KEY, f"{self._verifier}\n".encode(), is_durable=True)
            write(self._directory / CHECKPOINT, self._note()(), is_durable=True)
            self._journal.begin(self._note()(), is_settled=True)
            self._know()
        self._is_behind = False

    def close(self) -> None:
        """Settle everything, and let another process write the log."""
        if _writers.get(self._lock) is self:
            if self._journal is not None and not self._is_behind:
                # what the disk refuses now is in the journal
                with contextlib.suppress(OSError):
                    self._shelf.finish()
                    self._journal.begin(self._note()(), is_settled=True)
                    self._seen.flush(self.size, self.root)
            del _writers[self._lock]
            os.close(_locks.pop(self._lock))
        self._shelf.close()
        self._seen.close()
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    # -- what is on the disk

    def _load(self) -> None:
        """Take up the log where it was left, whatever ended it.

        1. The journal's turns, from the oldest one that counts, over the tree below its checkpoint (`_replay`); from
           the next one when that tree is not whole any more.
        2. Without a journal, or when the checkpoint on the disk is beyond all that it holds: the tree below that.
        3. What was found is made durable, and the journal begins anew over it. What a crash left is removed; where the
           journal is settled and holds nothing, there was none.
        4. Which records are in the log is known again.

        Raises Invalid as `open` does, OSError when the disk refuses.
        """
        assert self._journal is not None
        # what is waiting there stands in the journal
        self._shelf.close()
        self._shelf = Shelf(self._directory, is_in_background=self._is_in_background)
        note = self._read(CHECKPOINT)
        if note is None:
            raise Invalid("LM6020", path=CHECKPOINT)
        signed, unread = self._signed(note)
        # (1)
        turns = self._journal.read()
        writes, problem = self._replay_any(turns, signed)
        # (2)
        if writes is None:
            if signed is None:
                assert unread is not None
                raise unread
            if problem is not None and signed.size < self._claimed(turns):
                raise problem
            self._load_tree(signed)
            writes = {}
        # (3)
        self._shelf.put(writes, None)
        self._shelf.flush()
        if not _is_clean(turns, note):
            self._sweep(is_torn=bool(writes))
        if signed is None or signed.size < self.size:
            self._shelf.put({}, self._note())
        self._shelf.finish()
        self._journal.begin(self._note()(), is_settled=True)
        # (4)
        self._know()

    def _know(self) -> None:
        """Step 4 of `_load`: records are read only as far as the file does not know them. Raises as `_load` does."""
        tiles = TileReader(self._read, self.size)
        self._absent = set()
        self._seen.open(
            self.size,
            lambda size: root_hash(tiles.subtree, size),
            lambda begin: read_records(tiles, begin, self.size, set()),
        )

    def _signed(self, note: bytes) -> tuple[Checkpoint | None, Problem | None]:
        """A checkpoint, or why it is none."""
        try:
            return read_checkpoint(note, self._verifier), None
        except Invalid as problem:
            return None, problem

    def _claimed(self, turns: Sequence[Turn]) -> int:
        """How many records a journal says that the log has."""
        base, _ = self._signed(turns[-1].note)
        return 0 if base is None else base.size + sum(map(len, turns[-1].batches))

    def _replay_any(
        self, turns: Sequence[Turn], signed: Checkpoint | None
    ) -> tuple[dict[str, bytes] | None, Problem | None]:
        """Step 1 of `_load`: what has to stand in which file, or why the journal does not tell."""
        problem: Problem | None = None
        for first in range(len(turns)):
            try:
                return self._replay(turns[first:], signed), None
            except Invalid as found:
                problem = found
        return None, problem

    def _replay(self, turns: Sequence[Turn], signed: Checkpoint | None) -> dict[str, bytes]:
        """Grow the tree below a turn's checkpoint by everything that the journal holds; return what is to be written.

        1. EVERY turn begins where the one before it ended, under the very root.
        2. The checkpoint on the disk, whichever it is, is one of the same history.

        Raises Invalid LM6033 for (1) and (2), and as `_load_tree` does.
        """
        writes: dict[str, bytes] = {}
        for place, turn in enumerate(turns):
            base = read_checkpoint(turn.note, self._verifier)
            if place == 0:
                self._load_tree(base)
            # (1)
            if (base.size, base.root) != (self.size, self.root):
                raise Invalid("LM6033", reason="its journal is not all there")
            for batch in turn.batches:
                self._frontier.grow([leaf_hash(found) for found in batch], batch, writes)
        writes |= self._frontier.unfinished()
        # (2)
        if signed is not None:
            tiles = TileReader(lambda path: writes.get(path) or self._read(path), self.size)
            if signed.size > self.size or root_hash(tiles.subtree, signed.size) != signed.root:
                raise Invalid("LM6033", reason="its journal tells another history")
        return writes

    def _load_tree(self, checkpoint: Checkpoint) -> None:
        """Read the right edge of the tree below a checkpoint.

        1. Its tiles hash to the signed root.
        2. EVERY record of the newest bundles has the hash that its tile says, and the tile the one that the next says.
        3. EVERY one of those bundles is there, or was pruned, as the newest record of that says.

        Raises Invalid LM6020 or LM6021 for a tile that is missing or broken, LM6033 for (1), LM6034 for (2).
        """
        # (1)
        size = checkpoint.size
        tiles = TileReader(self._read, size)
        if root_hash(tiles.subtree, size) != checkpoint.root:
            raise Invalid("LM6033", reason="the tiles do not hash to the signed root")
        # (2), (3)
        count = (size + WIDTH - 1) // WIDTH
        for index in range(max(0, count - _NEWEST), count):
            self._check_bundle(tiles, index, size)
        self._frontier = Frontier.load(tiles, size)

    def _check_bundle(self, tiles: TileReader, index: int, size: int) -> None:
        """Steps 2 and 3 of `_load_tree` for one bundle."""
        hashes = hashes_of(tiles.tile(0, index))
        if len(hashes) == WIDTH and fold(hashes) != tiles.subtree(HEIGHT, index):
            raise said_of(tiles, index, 0, Place(0, len(tiles.bundle(index)[1]), is_whole=False))
        try:
            entries = tiles.entries(index)
        except Invalid as problem:
            if problem.code != "LM6020" or not newest(tiles, size).is_pruned(index):
                raise
            return
        for place, entry in enumerate(entries):
            if leaf_hash(entry) != hashes[place]:
                raise changed(tiles, index, entries, place)

    def _sweep(self, *, is_torn: bool) -> None:
        """Remove what a crash left: beyond the log, and narrower tiles that a loss of power may have torn."""
        tiles = TileReader(self._read, self.size)
        for path, level, index, width in list(stored(self._directory)):
            if width > tiles.width(level or 0, index):
                (self._directory / path).unlink()
        for path, expected in list(leftovers(self._directory, tiles)) if is_torn else ():
            if self._read(path) != expected():
                (self._directory / path).unlink()

    def _catch_up(self) -> None:
        try:
            self._load()
        except OSError as err:
            raise self._refused(err) from err
        self._is_behind = False

    def _refused(self, err: OSError) -> Unavailable:
        return Unavailable("LM6023", path=self._directory, reason=err.strerror or str(err))

    # -- growing

    def append(self, records: Sequence[bytes]) -> int:
        """Append records that are not in the log yet; durable and signed when it returns. Returns how many were new.

        1. EVERY record is well-formed, or none is taken. One that is in the log, byte for byte, was delivered before,
           and is dropped. Another record under the same id is kept: nobody suppresses a record by using its id first.
        2. Every leaf goes into its bundle and its level 0 tile; a tile that fills puts its hash into the one above.
        3. The batch is durable in the journal. When that is full, the next turn begins over the checkpoint of now, and
           what the last one holds is settled in the background; the turn before that one was settled by then.
        4. Full and partial tiles and bundles of the new size are there for readers, or will be at once.
        5. So is the checkpoint of the new size in the place of the old one.
        6. When (3), (4) or (5) fails, what counts is what stands on the disk: the batch may be in the log.

        Raises Invalid LM6002 for (1), Unavailable LM6023 for (6), Conflict LM6022 when the log was opened anew since.
        """
        # (1)
        for found in records:
            read_record(found)
        return self._append(records, None)

    def append_made(self, records: Sequence[Mapping[str, object]]) -> int:
        """Append records that were made here, as `append` does: what is written here is canonical, and not read again.

        Raises what `append` and `audit.record.to_bytes` raise.
        """
        for found in records:
            check_record(found)
        return self._append([to_bytes(found) for found in records], None)

    def held(self, records: Sequence[bytes], leaves: Sequence[bytes]) -> list[int]:
        """The places, among these records, of those that the log would drop: delivered before, or twice now.

        ``leaves`` are their leaf hashes. Raises as `append` does.
        """
        self._stand()
        fresh: dict[bytes, bytes] = {}
        found = []
        for place, (leaf, data) in enumerate(zip(leaves, records, strict=True)):
            if leaf in fresh:
                found.append(place)
            fresh[leaf] = data
        try:
            known = self._known(fresh)
        except OSError as err:
            self._is_behind = True
            raise self._refused(err) from err
        return sorted({*found, *(place for place, leaf in enumerate(leaves) if leaf in known)}) if known else found

    def append_checked(self, records: Sequence[bytes], leaves: Sequence[bytes] | None = None) -> int:
        """Append records that `audit.record.read_record` took, as `append` does; ``leaves`` are their leaf hashes."""
        return self._append(records, leaves)

    def _known(self, records: Mapping[bytes, bytes]) -> set[bytes]:
        """Those of some records, by their leaf hashes, that are in the log. Raises OSError."""
        asked = {leaf: data for leaf, data in records.items() if leaf not in self._absent}
        places = self._seen.places(asked) if asked else {}
        known = set()
        if places:
            self._shelf.flush()
            tiles = TileReader(self._read, self.size)
            # what was vouched for
            hashes: dict[int, list[bytes]] = {}
            for leaf, several in places.items():
                for place in several:
                    index = place // WIDTH
                    if index not in hashes:
                        hashes[index] = self._vouched(tiles, index)
                    if hashes[index][place % WIDTH : place % WIDTH + 1] == [leaf]:
                        known.add(leaf)
        self._absent.update(asked.keys() - known)
        return known

    def _vouched(self, tiles: TileReader, index: int) -> list[bytes]:
        """The hashes of a level 0 tile if they lead to the root, else none: what is not in the log is not dropped."""
        try:
            found = hashes_of(tiles.tile(0, index))
            # the proof of one leaf is made of all the others of its tile
            path = inclusion_proof(tiles.subtree, index * WIDTH, self.size)
        except (Invalid, ValueError):
            return []
        return found if verify_inclusion(found[0], index * WIDTH, self.size, path, self.root) else []

    def _stand(self) -> None:
        """Know what is in the log. Raises Conflict LM6022, Unavailable LM6023."""
        if _writers.get(self._lock) is not self or self._journal is None:
            raise Conflict("LM6022", path=self._directory)
        if self._is_behind:
            self._catch_up()

    def _append(self, records: Sequence[bytes], leaves: Sequence[bytes] | None) -> int:
        """Steps 1, but for the form, to 6 of `append`."""
        self._stand()
        assert self._journal is not None
        # (1)
        found = dict(zip(leaves or map(leaf_hash, records), records, strict=True))
        fresh: list[bytes] = []
        self._is_behind = True
        try:
            if self._seen.is_due:
                self._seen.flush(self.size, self.root)
            for leaf in self._known(found):
                del found[leaf]
            if found:
                fresh = [*found.values()]
                # (2)
                writes: dict[str, bytes] = {}
                before, size = self._note(), self.size
                self._frontier.grow([*found], fresh, writes)
                # (3)
                if self._journal.is_full:
                    self._shelf.wait()
                    self._shelf.settle()
                    self._journal.begin(before(), is_settled=False)
                self._journal.add(fresh)
                # (4), (5)
                self._shelf.put(writes | self._frontier.unfinished(), self._note())
                self._seen.extend(size, found)
                self._absent.clear()
        except OSError as err:
            # (6) the next append reads it back
            raise self._refused(err) from err
        self._is_behind = False
        return len(fresh)

    def _note(self) -> Note:
        """The signed checkpoint of now; signed when somebody asks, and then always the same (Ed25519)."""
        checkpoint = Checkpoint(origin=self._verifier.name, size=self.size, root=self.root)
        return functools.partial(sign_checkpoint, checkpoint, self._key)

    @property
    def directory(self) -> pathlib.Path:
        """Where the log stands."""
        return self._directory

    def show(self) -> None:
        """Have readers see everything now. Raises Unavailable LM6023."""
        try:
            self._shelf.flush()
        except OSError as err:
            raise self._refused(err) from err

    def remove(self, bundles: Sequence[int]) -> None:
        """Remove the entries of full bundles; their tiles stay. A record in the log says so by now.

        1. Everything is settled and both turns of the journal are over: no start makes from it what is removed here.
           That their records were delivered is in the file that says so: it cannot be read from them any more.
        2. The bundles are removed, those that are gone already too.

        Raises Unavailable LM6023, Conflict LM6022.
        """
        self._stand()
        assert self._journal is not None
        try:
            # (1)
            self._shelf.finish()
            for _ in range(2):
                self._journal.begin(self._note()(), is_settled=True)
            self._seen.flush(self.size, self.root)
            # (2)
            for bundle in bundles:
                assert bundle < self.size // WIDTH
                path = self._directory / entries_path(bundle)
                for narrower in path.with_name(f"{path.name}.p").glob("*"):
                    narrower.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        except OSError as err:
            raise self._refused(err) from err

    def records(self, after: int = 0) -> Iterator[tuple[int, bytes]]:
        """The records from an index on, with their indexes. Raises Unavailable LM6023."""
        self.show()
        yield from read_records(TileReader(self._read, self.size), after, self.size, set())


def _is_clean(turns: Sequence[Turn], note: bytes) -> bool:
    """Whether the log was closed, or opened and not appended to since: everything below the checkpoint was settled."""
    return bool(turns) and turns[-1].is_settled and not turns[-1].batches and turns[-1].note == note


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
