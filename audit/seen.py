"""Which records a log has, in a file beside it: so that one that is delivered again is dropped, whenever that is.

A log of any size is opened without reading it, and needs no memory for what it holds. The file is derived: it says
where a record *may* stand, and whoever asks looks there. So nobody who can write to the disk has a record dropped that
is not in the log, and a file that is lost, torn or another log's is made again from the entries. Keys begin with the
time in a record's id: what arrives nearly in order is written, and looked for, at the file's end. This module knows
nothing of trees, and is used by one thread at a time.
"""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping

from audit.merkle import leaf_hash

FILE = "seen.db"
WAITING = 32_768
"""So many records wait in memory to be put into the file together."""
_AT_ONCE = 500
# places of records under one key that are looked at: more have it only when somebody found a collision on purpose
_PLACES = 8
_MARK = b'"id":"'
_TIME_BYTES, _HASH_BYTES = 10, 8
_VERSION = 1

Entries = Callable[[int], Iterable[tuple[int, bytes]]]
Root = Callable[[int], bytes | None]


def key_of(leaf: bytes, data: bytes) -> bytes:
    """What a record is looked for under: the time in (what looks like) its id, and the beginning of its hash."""
    at = data.find(_MARK) + len(_MARK)
    return data[at : at + _TIME_BYTES] + leaf[:_HASH_BYTES]


class Seen:
    """The file of one log, open. Every method but `close` raises OSError when the disk refuses."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._path = directory / FILE
        self._connection: sqlite3.Connection | None = None
        # what is not in the file yet
        self._waiting: dict[bytes, list[int]] = {}
        self._count = 0
        self._is_broken = False

    def open(self, size: int, root: Root, entries: Entries) -> None:
        """Know the first ``size`` records of the log.

        1. A file whose own state is not the log's at that size, or which is none, is thrown away.
        2. What it lacks is read from the log: ``entries`` gives the records from an index on that are there.

        ``root`` is the log's root at a smaller size, None when that is not to be had.
        """
        self._waiting, self._count = {}, 0
        with self._refusals():
            # (1)
            try:
                if self._is_broken:
                    raise sqlite3.DatabaseError
                begin = self._begin(size, root)
            except sqlite3.DatabaseError:
                self.close()
                for path in self._path, self._path.with_name(f"{FILE}-journal"):
                    path.unlink(missing_ok=True)
                begin = self._begin(size, root)
            self._is_broken = False
            # (2)
            for index, data in entries(begin):
                self.add(leaf_hash(data), data, index)
                if self.is_due:
                    self.flush(index + 1, root(index + 1))

    def _begin(self, size: int, root: Root) -> int:
        """Open the file and return how many records it knows."""
        if self._connection is None:
            # where it is used is the log's to know
            self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._path.chmod(0o600)
        run = self._connection.execute
        run("PRAGMA trusted_schema = OFF")
        run("PRAGMA cell_size_check = ON")
        run("CREATE TABLE IF NOT EXISTS place (key BLOB, place INTEGER, PRIMARY KEY (key, place)) WITHOUT ROWID")
        run("CREATE TABLE IF NOT EXISTS state (version INTEGER, size INTEGER, root BLOB)")
        rows = run("SELECT version, size, root FROM state").fetchall()
        if not rows:
            return 0
        version, known, under = rows[0]
        if len(rows) != 1 or version != _VERSION or type(known) is not int or not 0 < known <= size:
            raise sqlite3.DatabaseError
        if root(known) != under:
            raise sqlite3.DatabaseError
        return known

    def close(self) -> None:
        """Close the file; what waits is read from the log by the next `open`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def is_due(self) -> bool:
        """Whether so many wait that they have to go into the file."""
        return self._count >= WAITING

    def add(self, leaf: bytes, data: bytes, place: int) -> None:
        """Know one record more."""
        self._waiting.setdefault(key_of(leaf, data), []).append(place)
        self._count += 1

    def extend(self, size: int, records: Mapping[bytes, bytes]) -> None:
        """Know the records that came behind the first ``size``, by their leaf hashes."""
        for place, (leaf, data) in enumerate(records.items(), size):
            self._waiting.setdefault(key_of(leaf, data), []).append(place)
        self._count += len(records)

    def flush(self, size: int, root: bytes | None) -> None:
        """Put what waits into the file, durably; it is all that the log has at this size, under this root."""
        if not self._count or root is None:
            return
        assert self._connection is not None
        rows = sorted((key, place) for key, places in self._waiting.items() for place in places)
        with self._refusals():
            run = self._connection.execute
            run("BEGIN")
            try:
                self._connection.executemany("INSERT OR IGNORE INTO place VALUES (?, ?)", rows)
                run("DELETE FROM state")
                run("INSERT INTO state VALUES (?, ?, ?)", (_VERSION, size, root))
                run("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    run("ROLLBACK")
                raise
        self._waiting, self._count = {}, 0

    def places(self, records: Mapping[bytes, bytes]) -> dict[bytes, list[int]]:
        """Where records, by their leaf hashes, may stand in the log; those that cannot are left out."""
        keys = {key_of(leaf, data): leaf for leaf, data in records.items()}
        found: dict[bytes, list[int]] = {}
        for key in keys.keys() & self._waiting.keys():
            found.setdefault(keys[key], []).extend(self._waiting[key][:_PLACES])
        for key, place in self._stored([*keys]):
            if len(known := found.setdefault(keys[key], [])) < _PLACES:
                known.append(place)
        return found

    def _stored(self, keys: list[bytes]) -> Iterator[tuple[bytes, int]]:
        assert self._connection is not None
        # in their order, as they stand in the file
        keys.sort()
        with self._refusals():
            for at in range(0, len(keys), _AT_ONCE):
                part = keys[at : at + _AT_ONCE]
                marks = ",".join("?" * len(part))
                # made of question marks alone
                yield from self._connection.execute(
                    f"SELECT key, place FROM place WHERE key IN ({marks})",  # noqa: S608
                    part,
                )

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """What the library cannot do, the disk refuses; a file that is broken is made again by the next `open`."""
        try:
            yield
        except sqlite3.Error as err:
            self._is_broken = not isinstance(err, sqlite3.OperationalError)
            raise OSError(None, str(err)) from err
