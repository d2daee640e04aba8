"""What conditions test, and the classes of values that their tests cannot tell apart.

A condition is a conjunction of tests, each of one attribute: a header, the token, a claim, an address, the moment, a
custom rule. Of every attribute there are finitely many classes of values that matter, the unknown among them, each with
a value to bring. That makes conditions decidable: a diagram branches on the classes (`policyengine.diagram`). A custom
rule is opaque: true, false or unknown of any request. Nothing here decides.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
import itertools
import zoneinfo
from collections.abc import Collection, Iterable, Mapping
from typing import cast

from policyengine.attributes import Truth, address_of
from policyengine.belief import Belief, Beliefs
from policyengine.model import Conditions, Hours, Network

TIME, TOKEN, PEER, FORWARDED, HEADER, CLAIM, REGO = (
    "time", "claims", "peer_ip", "forwarded_ip", "headers.", "claims.", "rego.",
)  # fmt: skip
_ORDER = (TIME, PEER, FORWARDED, HEADER, TOKEN, CLAIM, REGO)
BEFORE = " before"
"""Marks a custom rule that is another one in the earlier version: of other modules, or asked about other claims."""
BELIEVED = "believed"
"""What a token brings beside its claims: which versions believe it."""
BOTH: tuple[Belief, ...] = ("both",)
NO_BELIEFS: Beliefs = {}
_NO_HEADER_VALUE = "\x01"
_NETWORKS = (ipaddress.IPv4Network, ipaddress.IPv6Network)
_YEAR = dt.timedelta(days=366)


@dataclasses.dataclass(frozen=True, slots=True)
class Test:
    """One test of one attribute. What is ``wanted`` depends on the attribute: values, networks, hours or an end.

    ``is_before`` marks a test of claims, or a custom rule, of the earlier version, where it believes other tokens than
    the later one.
    """

    __test__ = False

    attribute: str
    wanted: tuple[object, ...]
    is_before: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A class of values. ``truths`` says how tests come out; a test that it does not name is still open.

    ``same`` names another test for one that comes out alike in this class: it is asked instead.
    ``said`` is what words are made of; ``bring`` what a request of the class has, by attribute.
    """

    truths: Mapping[Test, Truth]
    said: tuple[object, ...] = ()
    bring: tuple[tuple[str, object], ...] = ()
    is_unknown: bool = False
    same: Mapping[Test, Test] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """An attribute and its classes. The first one is that of the values that no test names, where there is one."""

    attribute: str
    values: tuple[Value, ...]
    has_default: bool = True

    @property
    def unknown(self) -> frozenset[int]:
        """The classes of what nobody can read."""
        return frozenset(index for index, value in enumerate(self.values) if value.is_unknown)


def conjuncts(when: Conditions, suffix: str = "", *, is_before: bool = False) -> tuple[Test, ...]:
    """The tests of a condition; ``suffix`` tells apart custom rules of the same name in different modules.

    ``is_before`` marks the tests of claims (`Test`).
    """
    found: list[Test] = []
    if when.claims is not None:
        found.append(Test(TOKEN, (when.claims.issuer,), is_before))
        found += [Test(CLAIM + name, tuple(map(_typed, allowed)), is_before) for name, allowed in when.claims.values]
    found += [Test(HEADER + name, allowed) for name, allowed in when.headers or ()]
    for attribute, networks in ((PEER, when.peer_ip), (FORWARDED, when.forwarded_ip)):
        if networks is not None:
            found.append(Test(attribute, networks))
    if when.hours is not None:
        found.append(Test(TIME, (when.hours,)))
    if when.rego is not None:
        if suffix or not is_before:
            found.append(Test(f"{REGO}{when.rego}{suffix}", (when.rego,)))
        else:
            found.append(Test(f"{REGO}{when.rego}{BEFORE}", (when.rego,), is_before))
    return tuple(found)


def _typed(value: object) -> tuple[str, object]:
    """A claim's value with its type: 1 and true are different claims and equal in Python."""
    return type(value).__name__, value


def before(end: dt.datetime) -> Test:
    """Whether the moment is before an end; an unknown moment is not (design D13)."""
    return Test(TIME, (end,))


def variables_of(tests: Iterable[Test], now: dt.datetime, beliefs: Beliefs = NO_BELIEFS) -> tuple[Variable, ...]:
    """The variables that tests speak of, in the order in which diagrams ask about them."""
    by_attribute: dict[str, dict[Test, None]] = {}
    same: dict[Test, Test] = {}
    for test in tests:
        by_attribute.setdefault(test.attribute, {})[test] = None
        if test.is_before and test.attribute.startswith(REGO):
            same[test] = later = Test(test.attribute.removesuffix(BEFORE), test.wanted)
            by_attribute.setdefault(later.attribute, {})[later] = None
            by_attribute.setdefault(TOKEN, {})
    claims = [test for name, found in by_attribute.items() if name.startswith(CLAIM) for test in found]
    found: list[Variable] = []
    for name in sorted(by_attribute, key=_place):
        listed = list(by_attribute[name])
        if name == TIME:
            found.append(_time(listed, now))
        elif name in {PEER, FORWARDED}:
            found.append(_addresses(name, listed))
        elif name.startswith(HEADER):
            found.append(_header(name, listed))
        elif name == TOKEN:
            found.append(_token(listed, claims, beliefs, same))
        elif name.startswith(REGO):
            found.append(_rego(name, listed))
        elif name != CLAIM + "iss":
            found += _claim(name, listed)
    return tuple(found)


def _place(name: str) -> tuple[int, str]:
    kind = next(index for index, found in enumerate(_ORDER) if name == found or (found[-1] == "." and found in name))
    return kind, name


def _grouped(tests: Collection[Test]) -> list[tuple[frozenset[Test], tuple[object, ...]]]:
    """The values that tests want, by the tests that want them."""
    found: dict[frozenset[Test], list[object]] = {}
    for value in dict.fromkeys(value for test in tests for value in test.wanted):
        found.setdefault(frozenset(test for test in tests if value in test.wanted), []).append(value)
    return [(holding, tuple(listed)) for holding, listed in found.items()]


def _truths(tests: Collection[Test], holding: Collection[Test]) -> dict[Test, Truth]:
    return {test: test in holding for test in tests}


def _unknown(attribute: str, tests: Collection[Test]) -> Value:
    return Value(truths=dict.fromkeys(tests), bring=(("unknown", attribute),), is_unknown=True)


def _header(name: str, tests: list[Test]) -> Variable:
    """Other values, and no header at all; the values that tests tell apart; a malformed one."""
    malformed = Value(truths=dict.fromkeys(tests), bring=((name, _NO_HEADER_VALUE),), is_unknown=True)
    values = [
        Value(truths=_truths(tests, holding), said=said, bring=((name, said[0]),)) for holding, said in _grouped(tests)
    ]
    return Variable(attribute=name, values=(Value(truths=_truths(tests, ())), *values, malformed))


def _token(tests: list[Test], claims: list[Test], beliefs: Beliefs, same: Mapping[Test, Test]) -> Variable:
    """No token, or another issuer's; a token of each issuer; one that does not verify, whose claims are unknown too.

    Of an issuer that versions declare in different ways there is a token for each of its ``beliefs``: to a version that
    does not believe it, it is one that does not verify. ``same`` are custom rules of both versions: where they believe
    the same, they say the same.
    """
    issuers = [*dict.fromkeys(issuer for test in tests for issuer in test.wanted)]
    issuers += [issuer for issuer in beliefs if issuer not in issuers]
    own = [test for test in claims if test.attribute == CLAIM + "iss"]

    def truths(issuer: object, belief: Belief = "both") -> dict[Test, Truth]:
        found: dict[Test, Truth] = {test: issuer in test.wanted for test in tests}
        found |= {test: ("str", issuer) in test.wanted for test in own}
        lost = {"both": None, "now": True, "before": False}[belief]
        return found | {test: None for test in (*tests, *claims) if test.is_before is lost}

    def tokens(issuer: object) -> Iterable[Value]:
        for belief in beliefs.get(str(issuer), BOTH):
            bring = ((CLAIM + "iss", issuer), (BELIEVED, belief))
            alike = same if belief == "both" else {}
            yield Value(truths=truths(issuer, belief), said=(issuer, belief), bring=bring, same=alike)

    return Variable(
        attribute=TOKEN,
        values=(
            Value(truths=truths(None), same=same),
            *(value for issuer in issuers for value in tokens(issuer)),
            dataclasses.replace(_unknown(TOKEN, [*tests, *claims]), same=same),
        ),
    )


def _claim(name: str, tests: list[Test]) -> list[Variable]:
    """Whether the claim can be read; then, of values that the same tests name, whether it has any of them.

    A claim may be a list, so it may have several: each is a variable of its own.
    """
    groups = _grouped(tests)
    found = [Variable(attribute=name, values=(Value(truths={}), _unknown(name, tests)))]
    for place, (holding, said) in enumerate(groups):
        later = {test for others, _ in groups[place + 1 :] for test in others}
        lost: dict[Test, Truth] = {test: False for test in holding if test not in later}
        values = tuple(cast("tuple[str, object]", pair)[1] for pair in said)
        has = Value(truths=dict.fromkeys(holding, True), said=values, bring=((name, values[0]),))
        found.append(Variable(attribute=f"{name}={place}", values=(Value(truths=lost), has)))
    return found


def _addresses(name: str, tests: list[Test]) -> Variable:
    """Addresses of no network; of every network, those that no smaller one of the networks holds.

    The first address of every network and the first behind it are looked at: between them nothing changes.
    """
    networks = sorted({found for test in tests for found in test.wanted if isinstance(found, _NETWORKS)}, key=str)
    edges: dict[str, None] = dict.fromkeys(("192.0.2.1", "2001:db8::1", "0.0.0.0", "::", "::1:0:0:0"))  # noqa: S104
    for network in networks:
        edges[str(network.network_address)] = None
        last = int(network.broadcast_address)
        if last + 1 < 2**network.max_prefixlen:
            edges[str(type(network.network_address)(last + 1))] = None
    samples: dict[Network | None, str] = {}
    for text in edges:
        inside = [network for network in networks if _is_in(text, (network,))]
        samples.setdefault(max(inside, key=lambda found: found.prefixlen, default=None), text)
    values = [
        Value(
            truths={test: _is_in(samples[network], test.wanted) for test in tests},
            said=(network,),
            bring=((name, samples[network]),),
        )
        for network in networks
        if network in samples
    ]
    default = []
    if name == FORWARDED or None in samples:
        bring = ((name, samples[None]),) if name == PEER else ()
        default = [Value(truths=dict.fromkeys(tests, False), bring=bring)]
    # a connection always has a peer; a proxy may report nonsense
    unknown = [] if name == PEER else [_unknown(name, tests)]
    return Variable(attribute=name, values=(*default, *values, *unknown), has_default=bool(default))


def _is_in(text: str, networks: tuple[object, ...]) -> bool:
    address = address_of(text)
    assert address is not None
    return any(
        isinstance(network, _NETWORKS) and address.version == network.version and address in network
        for network in networks
    )


def _rego(name: str, tests: list[Test]) -> Variable:
    """False, true and unknown: what a custom rule says of a request is not looked into."""
    values = tuple(
        Value(truths=dict.fromkeys(tests, truth), said=said, bring=((name, truth),), is_unknown=truth is None)
        for truth, said in ((False, ()), (True, tests[0].wanted), (None, ()))
    )
    return Variable(attribute=name, values=values)


# ---------------------------------------------------------------------- the moment


@dataclasses.dataclass(frozen=True, slots=True)
class Stretch:
    """From a moment on, until another or for ever; ``place`` orders them."""

    place: int
    start: dt.datetime
    end: dt.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """A part of the day in a zone between two edges of hours that tests name; it may wrap midnight."""

    tz: str
    place: int
    start: dt.time
    end: dt.time


def _time(tests: list[Test], now: dt.datetime) -> Variable:
    """Stretches between the ends that tests name, each cut by the windows that hours tell apart; and no known moment.

    1. Within a stretch the moments to look at are its start and the edges of all hours: on its first days, and on a day
       of every offset that its zones have within a year (summer time).
    2. Moments in the same windows are one class. An hour in a zone that this machine does not know is unknown.
    """
    ends = sorted({end for test in tests for end in test.wanted if isinstance(end, dt.datetime) and end > now})
    hours = [window for test in tests for window in test.wanted if isinstance(window, Hours)]
    zones = {window.tz: zone for window in hours if (zone := zone_of(window.tz)) is not None}
    edges = {tz: sorted({edge for w in hours if w.tz == tz for edge in (w.start, w.end)}) for tz in sorted(zones)}
    starts = [now, *ends]
    values: list[Value] = []
    for place, start in enumerate(starts):
        stretch = Stretch(place, start, starts[place + 1] if place + 1 < len(starts) else None)
        seen: set[tuple[Window, ...]] = set()
        # (1)
        for moment in _moments(stretch, zones, edges):
            windows = tuple(_window(tz, edges[tz], moment.astimezone(zones[tz]).time()) for tz in edges)
            # (2)
            if windows not in seen:
                seen.add(windows)
                truths = {test: _holds(test.wanted[0], moment, zones) for test in tests}
                values.append(Value(truths=truths, said=(stretch, *windows), bring=((TIME, moment),)))
    lost: dict[Test, Truth] = {test: None if isinstance(test.wanted[0], Hours) else False for test in tests}
    unknown = Value(truths=lost, bring=(("unknown", TIME),), is_unknown=True)
    return Variable(attribute=TIME, values=(*values, unknown), has_default=False)


def zone_of(tz: str) -> zoneinfo.ZoneInfo | None:
    """A time zone, None where this machine does not know it."""
    try:
        return zoneinfo.ZoneInfo(tz)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return None


def _holds(wanted: object, moment: dt.datetime, zones: Mapping[str, zoneinfo.ZoneInfo]) -> Truth:
    if isinstance(wanted, Hours):
        return wanted.contains(moment.astimezone(zones[wanted.tz]).time()) if wanted.tz in zones else None
    assert isinstance(wanted, dt.datetime)
    return moment < wanted


def _moments(
    stretch: Stretch, zones: Mapping[str, zoneinfo.ZoneInfo], edges: Mapping[str, list[dt.time]]
) -> Iterable[dt.datetime]:
    yield stretch.start
    if not edges:
        return
    last = stretch.start + _YEAR if stretch.end is None else min(stretch.end, stretch.start + _YEAR)
    offsets: set[tuple[object, ...]] = set()
    for number in itertools.count(-1):
        day = stretch.start + dt.timedelta(days=number)
        if day > last + dt.timedelta(days=1):
            return
        offset = tuple(day.astimezone(zone).utcoffset() for zone in zones.values())
        if number > 2 and offset in offsets and day < last - dt.timedelta(days=1):
            continue
        offsets.add(offset)
        for tz, zone in zones.items():
            for edge in edges[tz]:
                for date in (day.date(), (day + dt.timedelta(days=1)).date()):
                    moment = dt.datetime.combine(date, edge, tzinfo=zone).astimezone(dt.UTC)
                    if stretch.start <= moment and (stretch.end is None or moment < stretch.end):
                        yield moment


def _window(tz: str, edges: list[dt.time], local: dt.time) -> Window:
    place = sum(edge <= local for edge in edges) - 1
    return Window(tz, place % len(edges), edges[place], edges[(place + 1) % len(edges)])
