"""A history in the server's database: what was learned, and how far, change together or not at all.

Each kind of contact is a row, and its sessions are a row a day, so that an update writes what changed and no more. In
memory stand the kinds and the sessions that flows to come can still change; older days are read when a late flow
speaks of them. A standing has a version: who saves over another version than the newest has lost, and reads again, so
that two learners on one database count nothing twice. This module folds nothing and decides nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from learner.history import History, Kind
from learner.remembering import kind_from_row, kind_to_row

DAY_S = 86_400
RESIDENT_DAYS = 2
"""Sessions of so many days before the newest flow stay in memory, and those of a kind's own last day."""
_FEW = 400
_METADATA = sa.MetaData()
STANDING = sa.Table(
    "learner_standing",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger),
    sa.Column("head", sa.Text),
)
KINDS = sa.Table(
    "learner_kinds",
    _METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("last", sa.Float(53)),
    sa.Column("row", sa.Text),
)
DAYS = sa.Table(
    "learner_days",
    _METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("row", sa.Text),
)


DRIFT = sa.Table(
    "learner_drift",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("snapshot", sa.String),
    sa.Column("version", sa.BigInteger),
    sa.Column("at", sa.Float(53)),
    sa.Column("counts", sa.Text),
)


class Behind(Exception):  # noqa: N818  not an error: whoever gets it reads again
    """Somebody else saved over the version that this one was made from."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a history came.

    ``flows`` and ``records`` are the numbers of the last flow and the next record of the log that it holds; ``lost``
    says how many flows were dropped before they were learned, ``odd`` how many nobody could read. Moments are seconds
    since 1970.
    """

    version: int = 0
    flows: int = 0
    records: int = 0
    lost: int = 0
    odd: int = 0
    saved: float = 0.0
    pruned_day: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parted:
    """How far a release and what was learned by a version had parted at a moment (seconds since 1970).

    ``counts`` has a number for each list of `learner.drift.Drift`.
    """

    snapshot: str
    version: int
    at: float
    counts: dict[str, int]


class Stored:
    """A history as it stands in the database, and the part of it that is in memory."""

    def __init__(self, standing: Standing, history: History) -> None:
        self.standing, self.history = standing, history
        # from which day on the sessions of a kind in memory are all there are
        self._floors: dict[Kind, int] = {}
        history.changed = {}

    @classmethod
    def load(cls, connection: sa.Connection) -> Stored:
        """Read what is needed to go on; an empty history where nothing was ever saved."""
        standing, head = read_standing(connection)
        history = history_of(head)
        found = cls(standing, history)
        for row in connection.execute(sa.select(KINDS.c.row)):
            kind, cut = _kind(row.row)
            history.restore(kind)
            kind.cut = cut
        newest = _newest_day(history)
        by_name = {name_of(kind): kind for kind in history.kinds.values()}
        for name, kind in by_name.items():
            found._floors[kind] = _floor(kind, newest)
            del name
        for rows in _chunks(sorted(by_name)):
            for row in connection.execute(sa.select(DAYS).where(DAYS.c.name.in_(rows), DAYS.c.day >= newest)):
                _take(by_name[row.name], row)
        quiet = [(name, kind) for name, kind in by_name.items() if found._floors[kind] < newest]
        for name, kind in quiet:
            asked = sa.select(DAYS).where(DAYS.c.name == name, DAYS.c.day >= found._floors[kind], DAYS.c.day < newest)
            for row in connection.execute(asked):
                _take(kind, row)
        return found

    def save(self, connection: sa.Connection, standing: Standing) -> None:
        """Save what was folded since the last time, with how far that came; in one transaction of the caller's.

        1. The standing moves on from the very version that this was made from.
        2. EVERY kind that was folded into is written anew.
        3. So are its days that are other ones now. Of a day that is not in memory, what was there counts, and what came
           late fills the hours in which there was nothing (as `History` counts late flows).

        When the transaction is committed, `saved` is to be called; when it is not, this object is of no more use.
        Raises Behind for (1).
        """
        assert self.history.changed is not None
        # (1)
        _move(connection, self.standing.version, standing, self.history)
        # (2)
        changed = self.history.changed
        names = {kind: name_of(kind) for kind in changed}
        rows = [{"name": names[kind], "last": kind.last, "row": _row(kind)} for kind in changed]
        _replace(connection, KINDS, rows, ("name",))
        # (3)
        days = []
        for kind, dirty in changed.items():
            floor = self._floors.get(kind)
            by_day = _by_day(kind, dirty)
            for day in dirty:
                sessions = by_day[day]
                if floor is not None and day < floor:
                    sessions = {**sessions, **_stored_day(connection, names[kind], day)}
                days.append({"name": names[kind], "day": day, "row": _day_row(sessions)})
        _replace(connection, DAYS, days, ("name", "day"))

    def saved(self, standing: Standing) -> None:
        """What was saved is committed: forget the sessions that no flow to come changes but late ones."""
        assert self.history.changed is not None
        self.standing = dataclasses.replace(standing, version=self.standing.version + 1)
        newest = _newest_day(self.history)
        for kind in self.history.changed:
            floor = self._floors[kind] = _floor(kind, newest)
            if kind.sessions and min(kind.sessions) // 1440 < floor:
                kind.sessions = {minute: number for minute, number in kind.sessions.items() if minute // 1440 >= floor}
            if kind.active and min(kind.active) < floor:
                kind.active = {day for day in kind.active if day >= floor}
        self.history.changed.clear()


def prune(connection: sa.Connection, standing: Standing, history: History, before_day: int) -> int:
    """Forget sessions of the days before one, and kinds that were not seen since; how many kinds went.

    The caller loads anew when the transaction is committed. Raises Behind.
    """
    _move(connection, standing.version, dataclasses.replace(standing, pruned_day=before_day), history)
    connection.execute(sa.delete(DAYS).where(DAYS.c.day < before_day))
    gone = connection.execute(sa.delete(KINDS).where(KINDS.c.last < before_day * DAY_S))
    return gone.rowcount


def read_standing(connection: sa.Connection) -> tuple[Standing, dict[str, Any]]:
    """How far the history came, and what `write_head` wrote of it; the beginning where there is none."""
    row = connection.execute(sa.select(STANDING).where(STANDING.c.id == 1)).first()
    if row is None:
        return Standing(), {}
    head = json.loads(row.head)
    return Standing(**{**head["standing"], "version": row.version}), head


def read_drift(connection: sa.Connection) -> Parted | None:
    """What was found last; None before the first time."""
    row = connection.execute(sa.select(DRIFT).where(DRIFT.c.id == 1)).first()
    if row is None:
        return None
    return Parted(snapshot=row.snapshot, version=row.version, at=row.at, counts=json.loads(row.counts))


def put_drift(connection: sa.Connection, found: Parted) -> None:
    """Keep what was found, in the place of what was found before."""
    connection.execute(sa.delete(DRIFT).where(DRIFT.c.id == 1))
    row = {**dataclasses.asdict(found), "counts": json.dumps(found.counts)}
    connection.execute(sa.insert(DRIFT).values(id=1, **row))


def restore_page(history: History, page: Iterable[tuple[str, list[Any]]]) -> str:
    """Put a page of `kinds_after` into a history; the name behind which the next one begins, empty for none."""
    after = ""
    for name, (*row, days) in page:
        kind, _ = kind_from_row(row)
        kind.active.update(days)
        history.restore(kind)
        after = name
    return after


def kinds_after(connection: sa.Connection, after: str, limit: int) -> list[tuple[str, list[Any]]]:
    """Whole kinds by name, as `learner.remembering` has them, each with ALL sessions; a page of them."""
    rows = connection.execute(sa.select(KINDS).where(KINDS.c.name > after).order_by(KINDS.c.name).limit(limit)).all()
    known = {row.name: _kind(row.row)[0] for row in rows}
    for row in connection.execute(sa.select(DAYS).where(DAYS.c.name.in_(list(known))).order_by(DAYS.c.day)):
        _take(known[row.name], row)
    return [(name, [*kind_to_row(kind, is_allowed=False), sorted(kind.active)]) for name, kind in known.items()]


def name_of(kind: Kind) -> str:
    """What a kind's rows are found by."""
    return hashlib.sha256(json.dumps(kind.key, ensure_ascii=True).encode()).hexdigest()


def _move(connection: sa.Connection, version: int, standing: Standing, history: History) -> None:
    fields = {**dataclasses.asdict(standing), "version": version + 1}
    head = json.dumps(
        {
            "standing": fields,
            "first": history.first,
            "last": history.last,
            "flows": history.flows,
            "unattributed": history.unattributed,
        }
    )
    if version == 0:
        try:
            with connection.begin_nested():
                connection.execute(sa.insert(STANDING).values(id=1, version=1, head=head))
        except sa.exc.IntegrityError as err:
            raise Behind from err
        return
    moved = connection.execute(
        sa.update(STANDING)
        .where(STANDING.c.id == 1, STANDING.c.version == version)
        .values(version=version + 1, head=head)
    )
    if moved.rowcount != 1:
        raise Behind


def _replace(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], key: tuple[str, ...]) -> None:
    if rows:
        which = sa.and_(*(table.c[name] == sa.bindparam(f"its_{name}") for name in key))
        connection.execute(sa.delete(table).where(which), [{f"its_{name}": row[name] for name in key} for row in rows])
        connection.execute(sa.insert(table), rows)


def history_of(head: dict[str, Any]) -> History:
    """A history that knows over which time it was folded, and no kinds yet; `head` is what `read_standing` gives."""
    history = History()
    if head:
        history.first, history.last = float(head["first"]), float(head["last"])
        history.flows, history.unattributed = int(head["flows"]), int(head["unattributed"])
    return history


def _row(kind: Kind) -> str:
    # until when a session lasts depends on what was the first flow when it began
    row = [*kind_to_row(kind, is_allowed=False, has_sessions=False), kind.cut]
    return json.dumps(row, separators=(",", ":"), ensure_ascii=True)


def _kind(text: str) -> tuple[Kind, float]:
    *row, cut = json.loads(text)
    return kind_from_row(row)[0], float(cut)


def _day_row(sessions: dict[int, int]) -> str:
    return json.dumps([list(sessions), list(sessions.values())], separators=(",", ":"))


def _take(kind: Kind, row: Any) -> None:  # noqa: ANN401  a row of DAYS
    minutes, numbers = json.loads(row.row)
    kind.sessions.update(zip(minutes, numbers, strict=True))
    kind.active.add(row.day)


def _stored_day(connection: sa.Connection, name: str, day: int) -> dict[int, int]:
    row = connection.execute(sa.select(DAYS.c.row).where(DAYS.c.name == name, DAYS.c.day == day)).first()
    if row is None:
        return {}
    minutes, numbers = json.loads(row.row)
    return dict(zip(minutes, numbers, strict=True))


def _by_day(kind: Kind, days: Iterable[int]) -> dict[int, dict[int, int]]:
    found: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for minute, number in kind.sessions.items():
        found[minute // 1440][minute] = number
    return {day: found[day] for day in days}


def _newest_day(history: History) -> int:
    """From which day on everything stays in memory."""
    return int(history.last // DAY_S) - RESIDENT_DAYS + 1 if history.flows else 0


def _floor(kind: Kind, newest: int) -> int:
    return min(newest, int(kind.open_start // DAY_S))


def _chunks(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[at : at + _FEW] for at in range(0, len(names), _FEW))
