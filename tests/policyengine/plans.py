"""Versions of one service that tests of plans compare, and generators of versions and requests."""

import dataclasses
import datetime as dt
from typing import Any

from hypothesis import strategies as st

from mesh.request import Effect, Mode, Request
from mesh.spiffe import SpiffePattern
from policyengine.canonical import HostPattern, PathPattern
from policyengine.model import (
    Operation,
    Policy,
    PolicySet,
    Port,
    Principal,
    Rule,
    Service,
    Unless,
)

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(days=3)
ID = "spiffe://corp.test/ns/shop/sa/"


def paths(*texts: str) -> tuple[PathPattern, ...]:
    return tuple(PathPattern.parse(text) for text in texts)


def service(**fields: Any) -> Service:
    standard: dict[str, Any] = {
        "name": "db",
        "owner": "",
        "identities": (SpiffePattern.parse(ID + "db"),),
        "ports": (Port(port=8080, protocol="http"),),
    }
    return Service(**{**standard, **fields})


def rule(*callers: str, effect: Effect = Effect.ALLOW, id_: str = "r", **fields: Any) -> Rule:
    found = tuple(Principal.parse(text if ":" in text or text == "any" else ID + text) for text in callers)
    return Rule(id=id_, effect=effect, from_=found, **fields)


def policies(*rules: Rule, tier: Any = "app", **fields: Any) -> PolicySet:
    named = tuple(dataclasses.replace(found, id=f"{found.id}{index}") for index, found in enumerate(rules))
    listed = (Policy(name="p", owner="", service="db", tier=tier, rules=named),) if named else ()
    return PolicySet(**{"services": (service(),), "policies": listed, **fields})


def to(**fields: Any) -> tuple[Operation, ...]:
    return (Operation(**fields),)


def short(rows: Any) -> list[tuple[Any, ...]]:
    assert all(row.is_replayed for row in rows)
    return [(row.source.removeprefix(ID), row.port, row.methods, row.paths, row.when) for row in rows]


CALLERS = [ID + "cart", ID + "web", "spiffe://corp.test/ns/shop/**", "spiffe://corp.test/**", "spiffe://b.test/**"]
PATHS = ["/o", "/o/", "/o/{id}", "/o/{id:int}", "/o/**", "/{x}/7", "/**", "/o/{id:hex}/x", "/a%20b"]
METHODS = ["GET", "POST"]
HOSTS = ["db.corp.test", "*.corp.test"]


def some(values: list[str], parse: Any) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True).map(
        lambda found: tuple(parse(text) for text in found)
    )


OPERATIONS = st.builds(
    Operation,
    ports=st.none() | st.sampled_from([(8080,), (5432,)]),
    methods=some(METHODS, str),
    hosts=some(HOSTS, HostPattern.parse),
    paths=some(PATHS, PathPattern.parse),
)
PRINCIPALS = st.lists(st.sampled_from([*CALLERS, "any"]), min_size=1, max_size=2, unique=True).map(
    lambda found: tuple(Principal.parse(text) for text in found)
)
RULES = st.builds(
    Rule,
    id=st.just("r"),
    effect=st.sampled_from(Effect),
    from_=PRINCIPALS,
    to=st.none() | st.lists(OPERATIONS, min_size=1, max_size=2).map(tuple),
    unless=st.none() | st.builds(Unless, from_=PRINCIPALS),
)
TIERS = st.sampled_from(["guardrail", "app", "baseline"])
SETS = st.builds(
    lambda rules, mode, ports: PolicySet(
        services=(service(mode=mode, until=LATER if mode is Mode.OBSERVE else None, ports=ports),),
        policies=tuple(
            Policy(name=f"p{index}", owner="", service="db", tier=tier, rules=(found,))
            for index, (tier, found) in enumerate(rules)
        ),
    ),
    st.lists(st.tuples(TIERS, RULES), max_size=4),
    st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.OBSERVE]),
    st.sampled_from(
        [
            (Port(port=8080, protocol="http"),),
            (Port(port=8080, protocol="http"), Port(port=5432, protocol="tcp")),
        ]
    ),
)
SOURCES = st.sampled_from(
    [ID + "cart", ID + "web", ID + "x", "spiffe://corp.test/a", "spiffe://b.test/a/b", "spiffe://c.test/a"]
)
TARGETS = st.sampled_from(
    ["/", "/o", "/o/", "/o/7", "/o/ab/x", "/o/7/x", "/z/7", "/a%20b", "/q/r/s", "/o/x y".replace(" ", "+")]
)


@st.composite
def requests(draw: Any, ports: list[int]) -> Request:
    port = draw(st.sampled_from(ports))
    moment = draw(st.sampled_from([NOW, LATER, LATER + dt.timedelta(days=9)]))
    source = draw(SOURCES)
    if port == 5432:
        return Request(service="db", port=port, protocol="tcp", source=source, time=moment)
    return Request(
        service="db",
        port=port,
        protocol="http",
        source=source,
        method=draw(st.sampled_from([*METHODS, "PUT", "get"])),
        host=draw(st.sampled_from(["db.corp.test", "x.corp.test", "a.b.corp.test", "?", None])),
        path=draw(TARGETS),
        time=moment,
    )


WORDS = ["a", "b", "c", "12", "beef", "x@y"]
OWN = ["/{}", "/{}/**", "/{}/{}", "/{}/{{x}}", "/{{x}}/{}", "/{}/{{x:hex}}", "/{{x:int}}/**", "/{}/"]


@st.composite
def own_paths(draw: Any, callers: list[str]) -> tuple[PolicySet, PolicySet]:
    """Rules of one form for all callers, each with words of its own in its paths; and what changes for all of them."""
    forms = draw(st.lists(st.sampled_from(OWN), min_size=1, max_size=3))
    methods = draw(st.sampled_from([None, ("GET",)]))
    effect = draw(st.sampled_from([Effect.ALLOW, Effect.ALLOW, Effect.DENY]))
    rules = []
    for caller in callers:
        words = draw(st.lists(st.sampled_from(WORDS), min_size=2, max_size=2))
        own = paths(*(form.format(*words) for form in forms))
        rules.append(rule(caller, effect=effect, id_="own", to=to(methods=methods, paths=own)))
    others = tuple(
        Policy(
            name=f"p{tier}",
            owner="",
            service="db",
            tier=tier,
            rules=(rule("any", effect=kind, id_="wide", to=to(paths=paths(path))),),
        )
        for tier in ("guardrail", "app", "baseline")
        for kind in Effect
        for path in ("/**", "/a/**", "/{x}/{y:hex}")
    )
    beside = draw(st.lists(st.sampled_from(others), max_size=1))
    old = policies(*rules)
    old = dataclasses.replace(old, policies=(*old.policies, *beside))
    observed = (service(mode=Mode.OBSERVE, until=LATER),)
    changed = draw(st.sampled_from(others))
    new = draw(
        st.sampled_from(
            [
                dataclasses.replace(old, services=observed),
                dataclasses.replace(old, policies=(*policies(*rules).policies, changed)),
                dataclasses.replace(old, policies=old.policies[1:]),
            ]
        )
    )
    return draw(st.sampled_from([(old, new), (new, old)]))


ANSWERS = st.sampled_from([lambda *_: True, lambda *_: False, lambda *_: None])
