"""Circumstances in the words of policies, and as what a request brings.

A row's `when` has the fields that a condition has in a file, ANDed: `headers`, `claims`, `peer_ip`, `hours` …; and
beside them `time` (stretches), `unknown` (attributes that are there and cannot be read), `not` (none of these hold) and
`also` (these hold too, where one field is asked twice). What needs several of them is several rows. `rego` says that
the custom rule is true, whatever it looks at.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import cast

from mesh import canonicaljson
from mesh.clock import format_time
from policyengine.circumstances import (
    BEFORE,
    BELIEVED,
    CLAIM,
    FORWARDED,
    HEADER,
    PEER,
    REGO,
    TIME,
    TOKEN,
    Stretch,
    Variable,
    Window,
)
from policyengine.cover import Shapes, Term
from policyengine.model import Network

When = dict[str, object]


def whens_of(shapes: Shapes, shape: int) -> list[tuple[When, dict[int, int]]]:
    """A shape in words, each with a class of every variable.

    1. Term by term; terms that differ in the values of one claim are one.
    2. What can be said shorter by what it is not is said so.

    Raises TooLarge.
    """
    # (1)
    found = [(when, shapes.sample(term)) for term in shapes.terms(shape) for when, term in _said(shapes, term)]
    found = _joined(found)
    if len(found) < 2:
        return found
    # (2)
    outside = shapes.without(shape)
    excluded = _joined([(when, {}) for term in shapes.terms(outside) for when, _ in _said(shapes, term)])
    if len(excluded) < len(found) and not any(when.keys() & {"not", "also"} for when, _ in excluded):
        return [({"not": [when for when, _ in excluded]}, found[0][1])]
    return found


def _said(shapes: Shapes, term: Term) -> list[tuple[When, Term]]:
    """A term in words: every choice of a way to say each of its literals, with the part of the term that it is."""
    choices = [
        [(when, place, classes) for when, classes in literals_of(shapes.variables[place], term[place])]
        for place in sorted(term)
    ]
    found = []
    for chosen in itertools.product(*choices):
        when: When = {}
        for said, _, _ in chosen:
            _add(when, said)
        found.append((when, {**term, **{place: classes for _, place, classes in chosen}}))
    return found


def _add(when: When, said: When) -> None:
    """AND a literal to a `when`."""
    for key, value in said.items():
        if key not in when:
            when[key] = dict(value) if isinstance(value, dict) else list(value) if isinstance(value, list) else value
        elif key in {"not", "unknown"}:
            when[key] = [*cast("list[object]", when[key]), *cast("list[object]", value)]
        elif key in {"headers", "claims"} and not set(cast("When", value)) & set(cast("When", when[key])):
            when[key] = {**cast("When", when[key]), **cast("When", value)}
        else:
            when["also"] = [*cast("list[object]", when.get("also", [])), {key: value}]


def _joined(found: Iterable[tuple[When, dict[int, int]]]) -> list[tuple[When, dict[int, int]]]:
    """Without repetitions; what differs only in the values of one claim, or of one header, is one."""
    kept: list[tuple[When, dict[int, int]]] = []
    for when, sample in found:
        for place, (other, first) in enumerate(kept):
            both = _union(other, when)
            if both is not None:
                kept[place] = (both, first)
                break
        else:
            kept.append((when, sample))
    return kept


def _union(one: When, other: When) -> When | None:
    if canonicaljson.dumps(one) == canonicaljson.dumps(other):
        return one
    for field in ("claims", "headers"):
        mine, theirs = one.get(field), other.get(field)
        rest = ({k: v for k, v in found.items() if k != field} for found in (one, other))
        if not isinstance(mine, dict) or not isinstance(theirs, dict) or mine.keys() != theirs.keys():
            continue
        if len({canonicaljson.dumps(found) for found in rest}) > 1:
            continue
        differing = [name for name in mine if mine[name] != theirs[name]]
        if len(differing) == 1 and differing != ["issuer"]:
            name = differing[0]
            return {**one, field: {**mine, name: [*mine[name], *(v for v in theirs[name] if v not in mine[name])]}}
    return None


# ---------------------------------------------------------------------- one variable


def literals_of(variable: Variable, classes: frozenset[int]) -> list[tuple[When, frozenset[int]]]:
    """Ways to say that a variable has one of some classes; together they are all of them."""
    every = frozenset(range(len(variable.values)))
    if classes == every:
        return [({}, classes)]
    if variable.attribute == TIME:
        return _times(variable, classes)
    excluded_unknown: list[When] = [_unreadable(variable)] if variable.unknown - classes else []
    if variable.attribute in {PEER, FORWARDED}:
        found = _networks(variable, classes - variable.unknown, excluded_unknown)
    elif 0 in classes:
        listed = [when for when, _ in _positive(variable, every - classes - variable.unknown)]
        return [({"not": [*listed, *excluded_unknown]}, classes)]
    else:
        found = _positive(variable, classes - variable.unknown)
    if variable.unknown & classes and not any(variable.unknown & said for _, said in found):
        found.append((_unreadable(variable), variable.unknown))
    return found


def _unreadable(variable: Variable) -> When:
    name = variable.attribute
    if name.endswith(BEFORE):
        name = f"rego_before.{name.removeprefix(REGO).removesuffix(BEFORE)}"
    return {"unknown": [name]}


def _positive(variable: Variable, classes: frozenset[int]) -> list[tuple[When, frozenset[int]]]:
    """Values by name."""
    name = variable.attribute
    said = {index: variable.values[index].said for index in sorted(classes)}
    if not said:
        return []
    if name.startswith(HEADER):
        return [({"headers": {name.removeprefix(HEADER): [v for values in said.values() for v in values]}}, classes)]
    if name == TOKEN:
        return _tokens(variable, said)
    if name.startswith(CLAIM):
        claim = name.removeprefix(CLAIM).rpartition("=")[0]
        return [({"claims": {claim: list(values)}}, frozenset((index,))) for index, values in said.items()]
    assert name.startswith(REGO), name
    key = "rego_before" if name.endswith(BEFORE) else "rego"
    return [({key: values[0]}, frozenset((index,))) for index, values in said.items()]


def _tokens(variable: Variable, said: Mapping[int, tuple[object, ...]]) -> list[tuple[When, frozenset[int]]]:
    """Tokens by issuer; which versions believe them is said where only some kinds of an issuer's tokens are meant."""
    found: list[tuple[When, frozenset[int]]] = []
    for issuer in dict.fromkeys(values[0] for values in said.values()):
        every = frozenset(i for i, value in enumerate(variable.values) if value.said and value.said[0] == issuer)
        claims: When = {"claims": {"issuer": issuer}}
        if every <= said.keys():
            found.append((claims, every))
        else:
            own = every & said.keys()
            found += [({**claims, BELIEVED: said[index][1]}, frozenset((index,))) for index in sorted(own)]
    return found


def _networks(variable: Variable, classes: frozenset[int], excluded: list[When]) -> list[tuple[When, frozenset[int]]]:
    """Addresses by the outermost networks, each without the ones inside that are not meant."""
    name = variable.attribute
    networks: dict[int, Network] = {
        index: cast("Network", value.said[0]) for index, value in enumerate(variable.values) if value.said
    }
    default = 0 if variable.has_default else -1
    parents: dict[int, int] = {}
    for index, network in networks.items():
        around = [
            other
            for other, wide in networks.items()
            if other != index and wide.version == network.version and network.subnet_of(wide)  # type: ignore[arg-type]
        ]
        parents[index] = max(around, key=lambda other: networks[other].prefixlen, default=default)
    found: list[tuple[When, frozenset[int]]] = []
    clean: list[int] = []
    for root in sorted(index for index in classes if index == default or parents.get(index, default) not in classes):
        inside, lacking, waiting = {root}, [], [index for index, parent in parents.items() if parent == root]
        while waiting:
            child = waiting.pop()
            if child in classes:
                inside.add(child)
                waiting += [index for index, parent in parents.items() if parent == child]
            else:
                lacking.append(child)
        without: list[When] = [{name: sorted(str(networks[index]) for index in lacking)}] if lacking else []
        if root == default:
            own = frozenset(inside) | (variable.unknown if not excluded else frozenset())
            found.append(({"not": [*without, *excluded]} if without or excluded else {}, own))
        elif without:
            found.append(({name: [str(networks[root])], "not": without}, frozenset(inside)))
        else:
            clean.append(root)
    if clean:
        held = frozenset(i for i in classes if any(_is_below(i, root, parents) for root in clean))
        found.append(({name: sorted(str(networks[index]) for index in clean)}, held))
    return found


def _is_below(index: int, root: int, parents: Mapping[int, int]) -> bool:
    while index != root and index in parents:
        index = parents[index]
    return index == root


# ---------------------------------------------------------------------- the moment

Part = frozenset[tuple[Window, ...]]
Said = tuple[When, ...]


def _times(variable: Variable, classes: frozenset[int]) -> list[tuple[When, frozenset[int]]]:
    """Moments as stretches and hours: stretches with the same hours are said together."""
    if classes >= frozenset(range(len(variable.values))) - variable.unknown:
        return [({"not": [{"unknown": [TIME]}]}, classes)]
    of_stretch: dict[int, dict[tuple[Window, ...], int]] = {}
    stretches: dict[int, Stretch] = {}
    for index, value in enumerate(variable.values):
        if not value.is_unknown:
            stretch = cast("Stretch", value.said[0])
            stretches[stretch.place] = stretch
            of_stretch.setdefault(stretch.place, {})[cast("tuple[Window, ...]", value.said[1:])] = index
    grouped: dict[Part | None, list[int]] = {}
    for place, windows in of_stretch.items():
        meant = frozenset(found for found, index in windows.items() if index in classes)
        if meant:
            grouped.setdefault(None if len(meant) == len(windows) else meant, []).append(place)
    found: list[tuple[When, frozenset[int]]] = []
    for part, places in grouped.items():
        when: When = {} if len(places) == len(stretches) else {"time": _stretches(stretches, places)}
        every = frozenset(window for place in places for window in of_stretch[place])
        for said, own in [((), every)] if part is None else _hours(part, every):
            indices = frozenset(of_stretch[place][w] for place in places for w in own if w in of_stretch[place])
            hours: When = dict(when)
            for window in said:
                _add(hours, {"hours": window})
            found.append((hours, indices))
    if variable.unknown & classes:
        found.append(({"unknown": [TIME]}, variable.unknown))
    return found


def _stretches(stretches: Mapping[int, Stretch], places: Sequence[int]) -> list[When]:
    found: list[When] = []
    last = -2
    for place in sorted(places):
        end = stretches[place].end
        until = None if end is None else format_time(end)
        if place == last + 1:
            found[-1]["until"] = until
        else:
            found.append({"from": format_time(stretches[place].start), "until": until})
        last = place
    return found


def _hours(meant: Part, every: Part) -> list[tuple[Said, Part]]:
    """Windows of the day, zone by zone: in the first zone those that go with the same ones in the others."""
    if not meant or not next(iter(meant)):
        return [((), meant)]
    rests: dict[Window, set[tuple[Window, ...]]] = {}
    for first, *rest in meant:
        rests.setdefault(first, set()).add(tuple(rest))
    by_rest: dict[Part, set[Window]] = {}
    for first, followers in rests.items():
        by_rest.setdefault(frozenset(followers), set()).add(first)
    firsts = {windows[0] for windows in every}
    after = frozenset(windows[1:] for windows in every)
    found: list[tuple[Said, Part]] = []
    for others, own in by_rest.items():
        runs: list[tuple[Said, list[Window]]] = [((said,), run) for said, run in _runs(own)]
        if own == firsts:
            runs = [((), list(own))]
        below: list[tuple[Said, Part]] = [((), others)] if others == after else _hours(others, after)
        for (said, run), (more, part) in itertools.product(runs, below):
            held = frozenset((first, *rest) for first in run for rest in part if (first, *rest) in meant)
            found.append(((*said, *more), held))
    return found


def _runs(windows: Collection[Window]) -> list[tuple[When, list[Window]]]:
    """Neighbouring windows as one."""
    by_start = {window.start: window for window in windows}
    ends = {window.end for window in windows}
    found: list[tuple[When, list[Window]]] = []
    for window in sorted(windows, key=lambda item: item.place):
        if window.start in ends and len(by_start) > 1 and not _is_circle(by_start):
            continue
        run = [window]
        while run[-1].end in by_start and by_start[run[-1].end] is not window:
            run.append(by_start[run[-1].end])
        found.append(({"tz": window.tz, "from": _clock(window.start), "to": _clock(run[-1].end)}, run))
        if _is_circle(by_start):
            break
    return found


def _is_circle(by_start: Mapping[dt.time, Window]) -> bool:
    return all(window.end in by_start for window in by_start.values())


def _clock(time: dt.time) -> str:
    return time.isoformat("minutes" if not time.second and not time.microsecond else "auto")
