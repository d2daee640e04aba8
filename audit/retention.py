"""What of a log may be removed, and what may not: pruned bundles, kept tiles, and legal holds. Pure.

Pruning removes entry bundles alone. The tiles stay, so that every proof and every checkpoint of before still holds, and
the log itself says what was removed: each change of what is pruned or held is a record with *all* that is pruned and
held from then on. The newest one counts; a verifier that finds a bundle missing looks there.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from audit.batches import SERVER
from audit.record import read_record
from audit.search import is_about
from audit.tiles import WIDTH, TileReader
from mesh.clock import format_time, parse_time
from mesh.problems import Conflict, NotFound, Problem

KIND = "retention"
NEEDLE = b'"kind":"retention"'
MAX_HOLDS = 200
MAX_REASON = 200
Json = Mapping[str, object]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A legal hold: records of a time, about a service, or both, stay. What is not given is everything."""

    id: str
    reason: str
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    service: str | None = None

    def covers(self, row: Json) -> bool:
        """Whether a record has to stay."""
        moment = parse_time(str(row["time"]))
        if (self.since is not None and moment < self.since) or (self.until is not None and moment >= self.until):
            return False
        return self.service is None or is_about(row, self.service)

    def to_json(self) -> dict[str, object]:
        """The hold as it is recorded."""
        return {
            "id": self.id,
            "reason": self.reason,
            "since": None if self.since is None else format_time(self.since),
            "until": None if self.until is None else format_time(self.until),
            "service": self.service,
        }

    @classmethod
    def from_json(cls, row: Json) -> Hold:
        """Read a recorded hold. Raises ValueError, KeyError or TypeError for what is none."""
        since, until, service = row["since"], row["until"], row["service"]
        return cls(
            id=str(row["id"]),
            reason=str(row["reason"]),
            since=None if since is None else parse_time(str(since)),
            until=None if until is None else parse_time(str(until)),
            service=None if service is None else str(service),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is pruned, as ranges of bundles [first, last], and what is held."""

    pruned: tuple[tuple[int, int], ...] = ()
    holds: tuple[Hold, ...] = ()

    def is_pruned(self, bundle: int) -> bool:
        """Whether a bundle was removed, or may be."""
        return any(first <= bundle <= last for first, last in self.pruned)

    def end_of(self, bundle: int) -> int | None:
        """The last bundle of the pruned range that a bundle is in, None when it is in none."""
        return next((last for first, last in self.pruned if first <= bundle <= last), None)

    def records(self) -> list[list[int]]:
        """The pruned records: ranges [first, last] of indexes."""
        return [[first * WIDTH, (last + 1) * WIDTH - 1] for first, last in self.pruned]

    def with_pruned(self, bundles: Iterable[int]) -> Retention:
        """The same with more pruned; neighbours are joined."""
        every = sorted({*bundles, *(item for first, last in self.pruned for item in range(first, last + 1))})
        ranges: list[tuple[int, int]] = []
        for bundle in every:
            if ranges and ranges[-1][1] == bundle - 1:
                ranges[-1] = (ranges[-1][0], bundle)
            else:
                ranges.append((bundle, bundle))
        return dataclasses.replace(self, pruned=tuple(ranges))

    def with_hold(self, hold: Hold) -> Retention:
        """The same with one hold more. Raises Conflict LM6092 for too many."""
        if len(self.holds) >= MAX_HOLDS:
            raise Conflict("LM6092", limit=MAX_HOLDS)
        return dataclasses.replace(self, holds=(*self.holds, hold))

    def without_hold(self, name: str) -> Retention:
        """The same without a hold. Raises NotFound LM6091."""
        left = tuple(item for item in self.holds if item.id != name)
        if len(left) == len(self.holds):
            raise NotFound("LM6091", id=name)
        return dataclasses.replace(self, holds=left)

    def fields(self) -> dict[str, object]:
        """What a record says of it."""
        return {"pruned": self.records(), "holds": [item.to_json() for item in self.holds]}

    @classmethod
    def from_record(cls, row: Json) -> Retention | None:
        """What a record says is pruned and held; None when it is not the server's word about that."""
        if row.get("kind") != KIND or not str(row.get("source")).startswith(SERVER):
            return None
        try:
            ranges, holds = row["pruned"], row["holds"]
            if not isinstance(ranges, list) or not isinstance(holds, list):
                return None
            pruned = tuple((int(first) // WIDTH, (int(last) + 1) // WIDTH - 1) for first, last in ranges)
            return cls(pruned=pruned, holds=tuple(Hold.from_json(item) for item in holds))
        except (ValueError, KeyError, TypeError):
            return None


def retention_in(records: Iterable[tuple[int, bytes]]) -> Retention:
    """What the newest record of it among these says."""
    found = Retention()
    for _, data in records:
        if NEEDLE in data:
            found = said_by(data) or found
    return found


def said_by(data: bytes) -> Retention | None:
    """What one record says is pruned and held; None when it says nothing of that."""
    try:
        return Retention.from_record(read_record(data))
    except Problem:
        return None


def newest(tiles: TileReader, size: int) -> Retention:
    """What the newest record of it in a log says, looked for from the end."""
    for bundle in reversed(range((size + WIDTH - 1) // WIDTH)):
        try:
            if not tiles.has_text(bundle, NEEDLE):
                continue
            entries = tiles.entries(bundle)
        except Problem:
            continue
        for data in reversed(entries):
            found = said_by(data) if NEEDLE in data else None
            if found is not None:
                return found
    return Retention()


def is_young(entries: Sequence[bytes], since: dt.datetime) -> bool:
    """Whether EVERY record is of a moment or later; one that cannot be read is not."""
    try:
        return all(parse_time(str(json.loads(entry)["time"])) >= since for entry in entries)
    except (ValueError, KeyError, TypeError):
        return False


def prunable(
    bundles: Iterable[tuple[int, Sequence[bytes]]], before: dt.datetime, holds: Sequence[Hold]
) -> Iterator[int]:
    """The full bundles that may be removed.

    1. EVERY record in it is older than the moment.
    2. NO hold covers ANY record in it: what shares a bundle with a held record stays with it.
    3. A record that cannot be read, or whose time is none, keeps its bundle.
    """
    for bundle, entries in bundles:
        try:
            rows = [json.loads(entry) for entry in entries]
            # (1)
            if any(parse_time(str(row["time"])) >= before for row in rows):
                continue
            # (2)
            if any(hold.covers(row) for hold in holds for row in rows):
                continue
        except (ValueError, KeyError, TypeError):
            # (3)
            continue
        if len(entries) == WIDTH:
            yield bundle
