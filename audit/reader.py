"""Reads a log on disk under its signed checkpoint: by index, from the end, by id. Works beside a running writer.

What comes back stands in the files; that it leads to the signed root is `audit.verify`'s business. This module writes
nothing.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from audit.checkpoint import Checkpoint, VerifierKey, read_checkpoint
from audit.record import read_record
from audit.tiles import WIDTH, TileReader, read_from
from mesh.problems import Invalid, NotFound, Problem

CHECKPOINT, KEY = "checkpoint", "key.pub"
# where cosigned checkpoints stand, one for each witness, by its key hash
WITNESSED = "witness"


def read_key(file: pathlib.Path) -> str:
    """The text of a public key file.

    Raises Invalid LM6053 when it cannot be read, LM6030 when it is no verifier key.
    """
    try:
        text = file.read_text("ascii")
    except (OSError, ValueError) as err:
        raise Invalid("LM6053", path=file, reason=getattr(err, "strerror", None) or "it is no text") from err
    VerifierKey.parse(text)
    return text


class Reader:
    """The log of one checkpoint: what is appended later is seen by a new reader."""

    def __init__(self, directory: pathlib.Path, key: str) -> None:
        """Read the checkpoint.

        Raises Invalid LM6020 when there is none, LM6030 to LM6032 for a key or a checkpoint that does not fit.
        """
        self._read = read_from(directory)
        note = self._read(CHECKPOINT)
        if note is None:
            raise Invalid("LM6020", path=CHECKPOINT)
        self.note = note
        self.checkpoint: Checkpoint = read_checkpoint(note, VerifierKey.parse(key))
        self.tiles = TileReader(self._read, self.checkpoint.size)
        # the full bundles that were not there to be read: pruned, or taken away; `audit.verify` tells
        self.missing: set[int] = set()

    @property
    def size(self) -> int:
        """How many records the log holds."""
        return self.checkpoint.size

    def records(self, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """The records from an index to before another one, with their indexes.

        Raises Invalid LM6020 or LM6021 for a bundle that is missing or broken.
        """
        yield from read_records(self.tiles, begin, self.size if end is None else min(end, self.size), self.missing)

    def tail(self, count: int) -> list[tuple[int, bytes]]:
        """The newest records, oldest first."""
        return list(self.records(max(0, self.size - count)))

    def find(self, record_id: str) -> tuple[int, bytes]:
        """The index and the bytes of the record with an id; the first one that is found.

        1. Ids begin with their time and arrive nearly in order: the bundle where this one would stand is found by
           bisection.
        2. From there outwards EVERY bundle is searched, so that a record out of order is found as well.

        Raises NotFound LM6038, or Invalid for a bundle that cannot be read when the id is in no other.
        """
        count = self._bundles
        broken: Problem | None = None
        for bundle in _outwards(self._likely(record_id, count), count):
            try:
                found = self._search(bundle, record_id)
            except Problem as problem:
                broken = problem
                continue
            if found:
                return found[0]
        if broken is not None:
            raise broken
        raise NotFound("LM6038", id=record_id)

    def _likely(self, record_id: str, count: int) -> int:
        """Step 1 of `find`: the last bundle whose first record's id is not later."""
        low, high = 0, count
        while high - low > 1:
            middle = (low + high) // 2
            try:
                first = str(read_record(self.tiles.entries(middle)[0])["id"])
            except Problem:
                return middle
            if first <= record_id:
                low = middle
            else:
                high = middle
        return low

    def find_all(self, record_id: str) -> list[tuple[int, bytes]]:
        """EVERY record with an id, by a search through the whole log: there should be one.

        Raises NotFound LM6038, or Invalid for a bundle that cannot be read.
        """
        found = [item for bundle in range(self._bundles) for item in self._search(bundle, record_id)]
        if not found:
            raise NotFound("LM6038", id=record_id)
        return found

    def record(self, index: int) -> bytes:
        """The record at an index.

        Raises NotFound LM6038 for an index beyond the log, or Invalid for a bundle that cannot be read.
        """
        for _, data in self.records(index, index + 1):
            return data
        raise NotFound("LM6038", id=index)

    @property
    def _bundles(self) -> int:
        return (self.size + WIDTH - 1) // WIDTH

    def _search(self, bundle: int, record_id: str) -> list[tuple[int, bytes]]:
        wanted = record_id.encode()
        if not self.tiles.has_text(bundle, wanted):
            return []
        return [
            (bundle * WIDTH + offset, entry)
            for offset, entry in enumerate(self.tiles.entries(bundle))
            if wanted in entry and read_record(entry)["id"] == record_id
        ]


def read_records(
    tiles: TileReader, begin: int, end: int, missing: set[int] | None = None
) -> Iterator[tuple[int, bytes]]:
    """The records of a log from an index to before another one, with their indexes.

    A full bundle that is not there is passed over when there is a set to name it in: it may have been pruned.

    Raises Invalid LM6020 or LM6021 for a bundle that is missing or broken.
    """
    for bundle in range(begin // WIDTH, (end + WIDTH - 1) // WIDTH):
        try:
            entries = tiles.entries(bundle)
        except Invalid as problem:
            if missing is None or problem.code != "LM6020" or tiles.width(0, bundle) < WIDTH:
                raise
            missing.add(bundle)
            continue
        for offset, entry in enumerate(entries):
            index = bundle * WIDTH + offset
            if begin <= index < end:
                yield index, entry


def _outwards(start: int, count: int) -> Iterator[int]:
    """All numbers below a count, the nearest to a start first."""
    for distance in range(count):
        if start + distance < count:
            yield start + distance
        if distance and start - distance >= 0:
            yield start - distance
