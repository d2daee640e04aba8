"""What was watched, folded as it comes: one record for each kind of contact, in bounded memory per source.

A kind is who called whom on which port with which method and shape of path, by which version of the caller. Paths keep
their words and lose their identifiers: `/orders/17` and `/orders/18` are one shape, with a few examples of each. A
source that tries many paths or targets fills its own share of memory and nobody else's. The fold is exact when flows
come late: a contact that is older than what was folded opens no second session in an hour that has one. This module
judges nothing.
"""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Iterable

from learner.paths import segment_type
from mesh.flow import Flow, FlowProtocol, Verdict
from policyengine.canonical import Ambiguous, canonical_path

TURN_S = 10.0
"""Contacts of one replica that are further apart were given to it independently, as far as anybody can tell."""
GAP_S = 60.0
"""A pause of more than this begins another session of the same kind."""
LONGEST_S = 3600.0
"""What goes on into another hour is another session; within the first hours (`FINE_S`), what is longer than a pause."""
MAX_DAYS = 400
"""A single connection is counted as use on at most so many days."""
FINE_S = 3 * 3600
"""So long, from the first flow, sessions are counted by the minute; then by the hour."""
MAX_KINDS = 20_000
"""So many kinds of one source are told apart."""
MAX_FAILED_KINDS = 1_000
"""So many kinds of one source that were never answered well are told apart."""
MAX_USES = 100_000
"""So many replicas of one source are told apart, those of each of its kinds counted; a kind's first one always is."""
MAX_STRANGERS = 10_000
"""So many addresses without an identity are told apart as sources."""
MAX_SAMPLES = 3
MAX_TRIED = 64
"""So many different paths of one kind are counted that failed."""
BEYOND = "(beyond)"
"""The path of what a source did beyond its share: no rule allows it, so it counts against every bound.

The replicas beyond its share are one replica of this name.
"""
_REMEMBERED = 200_000
_PROBES = frozenset({400, 401, 403, 404, 405, 410, 414, 501})

Key = tuple[str, str, int, FlowProtocol, str, str, str]
Edge = tuple[str, str, int]


class Uses:
    """What one replica of a caller did with a kind: contacts by outcome, when, and how many paths failed.

    ``turns`` counts contacts, those in quick succession as one.
    """

    __slots__ = ("failed", "first", "first_good", "good", "last", "tried", "turns")

    def __init__(self) -> None:
        self.good = self.failed = self.turns = 0
        self.tried: set[int] = set()
        self.first = self.first_good = float("inf")
        self.last = float("-inf")


class Kind:
    """One kind of contact. Times are seconds since 1970.

    ``sessions`` counts those that began in a minute, ``active`` are the days since 1970 on which some did. ``wants``
    says whether more paths are wanted as examples. ``gaps`` are the number, the sum and the sum of squares of the times
    between sessions with a peer without identity, or of a single replica.
    """

    __slots__ = (
        "active",
        "answered",
        "connections",
        "cut",
        "decisions",
        "denied",
        "destination",
        "examples",
        "failed",
        "first",
        "first_good",
        "flows",
        "gaps",
        "good",
        "has_destination",
        "has_source",
        "last",
        "last_good",
        "method",
        "open_end",
        "open_start",
        "path",
        "port",
        "protocol",
        "replicas",
        "sensors",
        "sessions",
        "shape",
        "source",
        "values",
        "version",
        "wants",
    )

    def __init__(self, key: Key, path: str, *, has_source: bool, has_destination: bool) -> None:
        self.source, self.destination, self.port, self.protocol, self.method, self.shape, self.version = key
        self.path = path
        self.has_source, self.has_destination = has_source, has_destination
        self.flows = self.connections = self.answered = self.good = self.failed = self.denied = 0
        self.first = self.first_good = float("inf")
        self.last = self.last_good = float("-inf")
        self.open_start = self.open_end = float("-inf")
        self.cut = float("inf")
        self.sessions: dict[int, int] = {}
        self.active: set[int] = set()
        self.replicas: dict[str, Uses] = {}
        self.sensors: set[str] = set()
        self.values: list[set[str]] = []
        self.examples: list[str] = []
        self.wants = self.shape != BEYOND
        self.decisions: list[str] = []
        self.gaps: list[float] = [0, 0.0, 0.0]

    @property
    def key(self) -> Key:
        """What it is told apart by."""
        return self.source, self.destination, self.port, self.protocol, self.method, self.shape, self.version

    @property
    def edge(self) -> Edge:
        """Who called whom on which port."""
        return self.source, self.destination, self.port

    @property
    def is_attributed(self) -> bool:
        """Whether both sides have an identity."""
        return self.has_source and self.has_destination

    def days(self) -> set[int]:
        """The days, since 1970, on which sessions began."""
        return self.active


class Place:
    """Everything about flows but their path and their times: who, whom, by which replica, with which outcome.

    ``known`` has the kind, and the replica's uses of it, by the shape of the path.
    """

    __slots__ = ("flow", "good", "is_denied", "is_stranger", "known")

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.good = is_success(flow)
        self.is_denied = flow.verdict is Verdict.DENIED
        self.is_stranger = flow.source is None or flow.destination is None
        self.known: dict[str, tuple[Kind, Uses]] = {}


class History:
    """Everything that was folded."""

    def __init__(self) -> None:
        self.kinds: dict[Key, Kind] = {}
        self.first = float("inf")
        self.last = float("-inf")
        self.flows = 0
        self.unattributed = 0
        self.changed: dict[Kind, set[int]] | None = None
        """What was folded into since somebody put an empty one here, with the days whose sessions are others now."""
        self._places: dict[tuple[object, ...], Place] = {}
        self._remembered = 0
        self._shapes: dict[tuple[str | None, str], tuple[str, tuple[str, ...]]] = {}
        self._shares: dict[str, list[int]] = {}
        self._uses: dict[str, int] = {}
        self._strangers: set[str] = set()

    def add(self, flows: Iterable[Flow]) -> None:
        """Fold flows in, in any order."""
        for flow in flows:
            self.fold(flow)

    def restore(self, kind: Kind) -> None:
        """Put back a kind that was folded in an earlier run."""
        self.kinds[kind.key] = kind
        kind.cut = self._cut(kind.open_start)
        self._uses[kind.source] = self._uses.get(kind.source, 0) + len(kind.replicas)
        if kind.shape != BEYOND:
            self._shares.setdefault(kind.source, [0, 0])[kind.good > 0] += 1
        if not kind.has_source:
            self._strangers.add(kind.source)

    def fold(self, flow: Flow) -> None:
        """Fold one flow in."""
        key = (
            flow.source, flow.source_ip, flow.destination, flow.destination_ip, flow.destination_port, flow.protocol,
            flow.method, flow.version, flow.host, flow.replica, flow.sensor, flow.status, flow.established,
            flow.verdict,
        )  # fmt: skip
        place = self._places.get(key)
        if place is None:
            if self._remembered > _REMEMBERED:
                self._places.clear()
                self._remembered = 0
            self._remembered += 1
            place = self._places[key] = Place(flow)
        start = flow.start.timestamp()
        end = start if flow.end is None else flow.end.timestamp()
        self.fold_at(place, flow.path, start, end, flow.connections, flow.decision)

    def fold_at(  # noqa: C901, PLR0912, PLR0915  the hot path: one call for each flow
        self, place: Place, path: str | None, start: float, end: float, connections: int, decision: str | None
    ) -> None:
        """Fold one flow of a place in; times are seconds since 1970.

        1. What never had this shape before gets a record, within the share of its source.
        2. A session begins after a pause, and every hour of what goes on; what comes late begins one only in a minute
           (or hour) that has none.
        3. Outcomes, replicas and a few examples are kept.
        """
        # (1)
        shaped = self._shapes.get((path, place.flow.protocol))
        if shaped is None:
            shaped = self._shaped(path, place.flow.protocol)
        found = place.known.get(shaped[0])
        if found is None:
            found = self._find(place, shaped[0], path)
        kind, uses = found
        if place.good:
            if kind.wants:
                _sample(kind, path, shaped[1])
        elif len(uses.tried) < MAX_TRIED:
            uses.tried.add(zlib.crc32((path or "").encode("utf-8", "surrogatepass")))
        if start < self.first:
            self.first = start
        if end > self.last:
            self.last = end
        self.flows += 1
        if place.is_stranger:
            self.unattributed += connections
        if self.changed is not None and kind not in self.changed:
            self.changed[kind] = set()
        # (2)
        if start > kind.open_end + GAP_S or start > kind.cut or start < kind.open_start - GAP_S:
            self._begin_session(kind, start, end)
        elif end > kind.open_end:
            kind.open_end = end
        if end - start > LONGEST_S:
            active = range(int(start // 86_400), min(int(end // 86_400), int(start // 86_400) + MAX_DAYS) + 1)
            kind.active.update(active)
            if self.changed is not None:
                self.changed[kind].update(active)
        # (3)
        kind.flows += 1
        kind.connections += connections
        if start < kind.first:
            kind.first = start
        if end > kind.last:
            kind.last = end
        if start > uses.last + TURN_S:
            uses.turns += 1
        if start < uses.first:
            uses.first = start
        if end > uses.last:
            uses.last = end
        if not place.good:
            kind.failed += 1
            uses.failed += 1
            if place.is_denied:
                kind.denied += 1
            return
        kind.good += 1
        uses.good += 1
        kind.answered += connections
        if start < kind.first_good:
            kind.first_good = start
        if end > kind.last_good:
            kind.last_good = end
        if start < uses.first_good:
            uses.first_good = start
        if decision is not None and len(kind.decisions) < MAX_SAMPLES:
            kind.decisions.append(decision)

    def _begin_session(self, kind: Kind, start: float, end: float) -> None:
        bucket = self._bucket(start)
        kind.active.add(bucket // 1440)
        if self.changed is not None:
            self.changed[kind].add(bucket // 1440)
        if start >= kind.open_start:
            if kind.flows and (not kind.has_destination or len(kind.replicas) == 1):
                gap = start - kind.open_start
                kind.gaps = [kind.gaps[0] + 1, kind.gaps[1] + gap, kind.gaps[2] + gap * gap]
            kind.sessions[bucket] = kind.sessions.get(bucket, 0) + 1
            kind.open_start, kind.open_end = start, max(end, kind.open_end)
            kind.cut = self._cut(start)
        else:
            kind.sessions.setdefault(bucket, 1)

    def _cut(self, start: float) -> float:
        """Until when a session that began at a moment lasts at most."""
        if start - self.first < FINE_S:
            return start + GAP_S
        return max((start // LONGEST_S + 1) * LONGEST_S, start + GAP_S)

    def _bucket(self, moment: float) -> int:
        return int(moment // 60) if moment - self.first < FINE_S else int(moment // 3600) * 60

    def _shaped(self, path: str | None, protocol: FlowProtocol) -> tuple[str, tuple[str, ...]]:
        if len(self._shapes) > _REMEMBERED:
            self._shapes.clear()
        found = self._shapes[path, protocol] = shape_of(path, protocol)
        return found

    def _find(self, place: Place, shape: str, path: str | None) -> tuple[Kind, Uses]:
        """The record of a kind and the replica's part of it, new ones if there are none."""
        flow = place.flow
        kind = self._kind(place, shape, path)
        if place.good and flow.sensor is not None:
            kind.sensors.add(flow.sensor)
        uses = kind.replicas.get(flow.replica or "") or self._new_uses(kind, flow.replica or "")
        self._remembered += 1
        if self._remembered > _REMEMBERED:
            for other in self._places.values():
                other.known.clear()
            self._remembered = len(self._places)
        place.known[shape] = kind, uses
        return kind, uses

    def _new_uses(self, kind: Kind, replica: str) -> Uses:
        """The part of a replica that was not seen with a kind yet, within the share of its source."""
        count = self._uses.get(kind.source, 0)
        name = BEYOND if kind.replicas and count >= MAX_USES else replica
        found = kind.replicas.get(name)
        if found is None:
            found = kind.replicas[name] = Uses()
            self._uses[kind.source] = count + 1
        return found

    def _kind(self, place: Place, shape: str, path: str | None) -> Kind:
        flow = place.flow
        source = flow.source or self._stranger(flow.source_ip or "unknown")
        key: Key = (
            # a peer without an identity is known by its name rather than by one of its addresses
            source, flow.destination or flow.host or flow.destination_ip or "unknown", flow.destination_port,
            flow.protocol, flow.method or "", shape, flow.version or "",
        )  # fmt: skip
        kind = self.kinds.get(key)
        if kind is None:
            share = self._shares.setdefault(source, [0, 0])
            if share[place.good] >= (MAX_KINDS if place.good else MAX_FAILED_KINDS):
                key = (source, flow.destination or BEYOND, 0, "tcp", "", BEYOND, "")
                kind = self.kinds.get(key)
            else:
                share[place.good] += 1
        if kind is None:
            kind = self.kinds[key] = Kind(
                key, path or "", has_source=flow.source is not None, has_destination=flow.destination is not None
            )
        return kind

    def _stranger(self, address: str) -> str:
        if address not in self._strangers:
            if len(self._strangers) >= MAX_STRANGERS:
                return "others"
            self._strangers.add(address)
        return address


def _sample(kind: Kind, path: str | None, values: tuple[str, ...]) -> None:
    """Keep a path that was answered well while it shows identifiers that the kept ones do not."""
    if path is None:
        kind.wants = False
        return
    if not kind.examples:
        kind.path = path
        kind.values = kind.values or [set() for _ in values]
    is_new = not kind.examples
    for known, value in zip(kind.values, values, strict=True):
        if len(known) < MAX_SAMPLES and value not in known:
            known.add(value)
            is_new = True
    if is_new:
        kind.examples.append(path)
        kind.wants = any(len(known) < MAX_SAMPLES for known in kind.values)


def shape_of(path: str | None, protocol: str) -> tuple[str, tuple[str, ...]]:
    """A path with the types of its identifiers in their place, and the identifiers; an ambiguous one as it stands."""
    if path is None:
        return "", ()
    if protocol == "grpc":
        return path, ()
    found = canonical_path(path)
    if isinstance(found, Ambiguous):
        return f"?{path}", ()
    parts: list[str] = []
    values: list[str] = []
    for segment in found.segments:
        name = segment_type(segment)
        if name:
            values.append(segment)
            parts.append(f"{{{name}}}")
        else:
            # a word that looks like a type is no type
            parts.append(segment.replace("{", "{{") if "{" in segment else segment)
    return "/".join(parts), tuple(values)


def is_success(flow: Flow) -> bool:
    """Whether a contact was answered well: not refused, not denied, not an error of the caller's."""
    if flow.established is False or flow.verdict is Verdict.DENIED:
        return False
    return flow.status is None or flow.status not in _PROBES


def moment(seconds: float) -> dt.datetime:
    """A time of a kind as a moment."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
