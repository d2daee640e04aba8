"""Rows of a plan: parts of a diagram with one answer, joined and said in the words of the policies.

Parts are joined into products (callers, ports, methods, paths, hosts, circumstances). A row speaks exactly of its part:
what a pattern in it holds and the row does not is named under `when` (`source_not_in`, `path_not_in` …; what conditions
test is in `policyengine.words`). What a part is in words: `policyengine.products`. This module decides nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mesh.clock import format_time
from mesh.request import Request
from policyengine.atoms import Callers
from policyengine.belief import Belief
from policyengine.diagram import Verdict
from policyengine.folding import Because, Words, enclosing, folded, sharing
from policyengine.products import PATH_WORDS, Key, Part, Said, names_in, said_of
from policyengine.regions import Region
from policyengine.witness import Supposed, believed, request_at, supposed

MANY = 20
"""So many rows that differ in their callers, and in words about paths, alone are read one by one; so many rows too
that share one rule among their reasons and name another one each."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Who gains or loses what. ``is_replayed`` only after both evaluators were run on the witness.

    ``supposed`` are the answers of custom rules under which the row speaks; ``belief`` says which versions believe the
    witness's token.
    """

    source: str
    service: str
    port: int
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    when: dict[str, object]
    witness: Request
    because: Because
    is_replayed: bool = False
    supposed: Supposed = dataclasses.field(default_factory=dict)
    belief: Belief = "both"
    beside: tuple[Row, ...] = ()
    """The other rows that were folded into this one: each has a witness, and it is replayed only if all were."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Whom it names: the source itself, or of the source those that stand under `when`."""
        named, own = self.when.get("source_in"), self.when.get("by_source")
        if isinstance(named, list):
            return tuple(named)
        return tuple(dict.fromkeys(item["source"] for item in own)) if isinstance(own, list) else (self.source,)

    def to_json(self) -> dict[str, object]:
        """The public JSON object."""
        return {
            "source": self.source,
            "service": self.service,
            "port": self.port,
            "methods": list(self.methods),
            "paths": list(self.paths),
            "when": self.when,
            "witness": request_to_json(self.witness),
            "replayed": self.is_replayed,
            "because": list(self.because),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A part that a region has, and the reasons there."""

    region: Region
    because: Because
    part: Part


@dataclasses.dataclass(slots=True, kw_only=True)
class _Draft:
    """A row whose callers are still being collected."""

    region: Region
    because: Because
    said: Said
    callers: dict[str, tuple[Callers, Said]]


class _Entry(NamedTuple):
    """A row of one caller: an outermost pattern, and what it leaves out."""

    draft: _Draft
    said: Said
    callers: Callers
    left_out: list[str]


def request_to_json(request: Request) -> dict[str, object]:
    """A request in its public JSON form."""
    forwarded = {} if request.forwarded_ip is None else {"forwarded_ip": request.forwarded_ip}
    return {
        "source": request.source,
        "service": request.service,
        "port": request.port,
        "protocol": request.protocol,
        "method": request.method,
        "host": request.host,
        "path": request.path,
        "headers": [list(pair) for pair in request.headers],
        "claims": None if request.claims is None else dict(request.claims),
        "peer_ip": request.peer_ip,
        **forwarded,
        "time": None if request.time is None else format_time(request.time),
        **({"unknown": sorted(request.unknown)} if request.unknown else {}),
    }


def reasons(old: Verdict, new: Verdict, service: str) -> Because:
    """The rules that make a difference: what decides now, and what decided before."""
    found: list[str] = []
    for verdict in (new, old):
        overridden = verdict.policy_effect is not verdict.effect
        if overridden:
            found.append(f"{service}: observe")
        if verdict.grant is not None:
            found.append(f"{verdict.grant.policy}/{verdict.grant.rule}")
    return tuple(dict.fromkeys(found))


def rows_of(differences: Iterable[Difference], now: dt.datetime, *, joins: bool = False) -> tuple[Row, ...]:
    """Join parts into rows.

    1. Per port and reason, parts fall into products of circumstances, hosts, methods and paths.
    2. The same product for several classes of callers is one row per outermost pattern, without what it leaves out.
    3. With ``joins`` more than MANY rows that share a rule among their reasons, and name as many others, are one row
       (a deny that meets a thousand allows): `policyengine.folding`.
    4. With ``joins`` more than MANY of what is left are one row, which names them under `when`: those of the same
       words in `source_in`, the others, which differ in words about paths, in `by_source` with words of their own each.

    Raises TooLarge.
    """
    drafts: dict[tuple[str, Because, Key], _Draft] = {}
    products: dict[int, list[Said]] = {}
    for difference in differences:
        # (1)
        part, region = difference.part, difference.region
        if id(part) not in products:
            products[id(part)] = said_of(part)
        names = names_in(part, region)
        for product in products[id(part)]:
            said = product.in_words_of(region, names) if names else product
            key = (region.service, difference.because, said.key)
            draft = drafts.get(key)
            if draft is None:
                draft = drafts[key] = _Draft(region=region, because=difference.because, said=said, callers={})
            for callers in region.callers:
                draft.callers.setdefault(callers.name, (callers, said))
    # (2)
    inside: dict[int, dict[str, list[str]]] = {}
    listed = [
        entry
        for draft in sorted(drafts.values(), key=lambda item: (item.region.service, *item.said.order))
        for entry in _entries(draft, _inside(draft, inside))
    ]
    # (3)
    found: list[Row] = []
    if joins:
        keys = [(entry.draft.region.service, entry.said.part.axes.port, entry.said.supposes) for entry in listed]
        shared = sharing(keys, [entry.draft.because for entry in listed], MANY)
        found = [_folded([_single(listed[place], now) for place in places]) for places in shared]
        gone = {place for places in shared for place in places}
        listed = [entry for place, entry in enumerate(listed) if place not in gone]
    # (4)
    groups: dict[object, list[_Entry]] = {}
    for place, entry in enumerate(listed):
        draft, said = entry.draft, entry.said
        alike = (draft.region.service, draft.because, said.kind, said.supposes)
        groups.setdefault(alike if joins and not entry.left_out else place, []).append(entry)
    return (*found, *(row for group in groups.values() for row in _joined(group, now)))


def _inside(draft: _Draft, known: dict[int, dict[str, list[str]]]) -> dict[str, list[str]]:
    """By the name of a class, the classes right inside of it."""
    classes = draft.region.classes
    if id(classes) not in known:
        found = known[id(classes)] = {}
        for callers in classes:
            if callers.parent is not None:
                found.setdefault(callers.parent, []).append(callers.name)
    return known[id(classes)]


def _entries(draft: _Draft, inside: Mapping[str, list[str]]) -> Iterable[_Entry]:
    """The rows of a draft: one for every outermost pattern (step 2 of `rows_of`)."""
    for name, (callers, said) in sorted(draft.callers.items()):
        if callers.parent in draft.callers:
            continue  # the row of the pattern around it speaks of it too
        left_out: list[str] = []
        waiting = list(inside.get(name, ()))
        while waiting:
            child = waiting.pop()
            if child in draft.callers:
                waiting.extend(inside.get(child, ()))
            else:
                left_out.append(child)
        yield _Entry(draft, said, callers, sorted(left_out))


def _joined(group: Sequence[_Entry], now: dt.datetime) -> Iterable[Row]:
    """Rows that differ in callers and in words about paths alone, joined where they are many (step 3 of `rows_of`)."""
    if group[0].left_out:
        # one entry: what it leaves out is its own
        (entry,) = group
        yield _single(entry, now)
        return
    by_words: dict[Key, list[_Entry]] = {}
    for entry in group:
        by_words.setdefault(entry.said.key, []).append(entry)
    few: list[_Entry] = []
    for members in by_words.values():
        if len(members) > MANY:
            names = sorted(entry.callers.name for entry in members)
            yield _row(members[0], now, enclosing(names), source_in=names)
        else:
            few += members
    if len(few) > MANY:
        yield _by_source(few, now)
        return
    for entry in few:
        yield _single(entry, now)


def _by_source(members: Sequence[_Entry], now: dt.datetime) -> Row:
    """One row of many callers, each with what is its own about paths."""
    first = members[0]
    own: list[dict[str, object]] = [{"source": entry.callers.name} for entry in members]
    when = dict(first.said.when)
    paths = first.said.paths
    if any(entry.said.paths != paths for entry in members):
        paths = tuple(sorted({text for entry in members for text in entry.said.paths}))
        for said, entry in zip(own, members, strict=True):
            said["paths"] = list(entry.said.paths)
    for name in PATH_WORDS:
        if all(entry.said.when.get(name) == when.get(name) for entry in members):
            continue
        when.pop(name, None)
        for said, entry in zip(own, members, strict=True):
            said.update({name: entry.said.when[name]} if name in entry.said.when else {})
    own.sort(key=lambda said: str(said["source"]))
    source = enclosing([entry.callers.name for entry in members])
    row = _row(first, now, source)
    return dataclasses.replace(row, paths=paths, when={**when, "by_source": own})


def _folded(rows: Sequence[Row]) -> Row:
    """Rows that one rule causes, as one."""
    words = folded([Words(row.source, row.methods, row.paths, row.when, row.because) for row in rows])
    return dataclasses.replace(
        rows[0],
        source=words.source,
        methods=words.methods,
        paths=words.paths,
        when=words.when,
        because=words.because,
        beside=tuple(rows[1:]),
    )


def _single(entry: _Entry, now: dt.datetime) -> Row:
    """The row of one caller."""
    left_out = {"source_not_in": entry.left_out} if entry.left_out else {}
    return _row(entry, now, entry.callers.name, **left_out)


def _row(entry: _Entry, now: dt.datetime, source: str, **more: object) -> Row:
    draft, said, callers = entry.draft, entry.said, entry.callers
    variables = said.part.shapes.variables
    axes, cell = said.placed()
    token = believed(cell, variables)
    return Row(
        source=source,
        service=draft.region.service,
        port=axes.port,
        methods=said.methods,
        paths=said.paths,
        when={**said.when, **more},
        witness=request_at(draft.region.service, axes, cell, variables, callers.witness, now),
        because=draft.because if token is None else (*draft.because, f"{token[0]}: issuer"),
        supposed=supposed(cell, variables),
        belief="both" if token is None else token[1],
    )
