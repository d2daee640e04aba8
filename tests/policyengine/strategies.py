"""Generated policy sets and requests: small alphabets, so that rules and requests meet often."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random

from hypothesis import strategies as st

from mesh.request import Effect, Mode, Request
from mesh.spiffe import SpiffePattern
from policyengine import model
from policyengine.canonical import HostPattern, PathCase, PathPattern
from policyengine.reading import _network

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
TD = "spiffe://corp.test"
_HOUR, _MOMENT = dt.timedelta(hours=1), dt.timedelta(microseconds=1)

PRINCIPALS = (
    "any",
    f"{TD}/ns/shop/sa/cart",
    f"{TD}/ns/shop/sa/web",
    f"{TD}/ns/shop/**",
    f"{TD}/ns/**",
    f"{TD}/**",
    "spiffe://other.test/**",
    "group:auditors",
    "group:nobody",
    "group:missing",
    "group:outer",
    "service:web",
)
SOURCES = (
    f"{TD}/ns/shop/sa/cart",
    f"{TD}/ns/shop/sa/web",
    f"{TD}/ns/shop",
    f"{TD}/ns/shop-evil/sa/web",
    f"{TD}/ns/audit/sa/reader",
    "spiffe://other.test/ns/shop/sa/cart",
    f"{TD}",
    "spiffe://CORP.test/ns/shop/sa/cart",
    f"{TD}/ns/shop/sa/cart,{TD}/ns/shop/sa/web",
    None,
)
PATTERNS = (
    "/",
    "/**",
    "/a",
    "/a/",
    "/a/**",
    "/a/{x}",
    "/a/{x:int}",
    "/a/{x}/b",
    "/a/b",
    "/{x:uuid}/**",
    "/a/{x:hex}/**",
    "/A",
    "/a/B/**",
    "/É",
    "/{x:date}",
    "/{x:decimal}/**",
    "/{x:ulid}",
    "/a/{x:token}",
)
TARGETS = (
    "/", "/a", "/a/", "/a/b", "/a/12", "/a/12/b", "/a/b/b", "/a/zz/", "//a", "/a/./b", "/x/../a", "/%61", "/a?b=/x",
    "/a;x", "/a%2fb", "/../a", "a", "*", "/a.", "/c", "/123e4567-e89b-12d3-a456-426614174000/q",
    "/a/%C3%A9", "/\xff", "/A", "/A/b", "/a/B/%42", "/%C3%89", "/%C3%A9", "/a/%C4%B0", "/%E2%84%AA?x",
    "/2026-02-31", "/2026-13-31", "/-1.5/x", "/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/a/t~k.n-1", None,
)  # fmt: skip
HOSTS = ("db.corp.test", "DB.corp.test:8080", "x.corp.test", "x.y.corp.test", "", "a,b", "bad host", None)
METHODS = ("GET", "POST", "get", "G T", None)


def _tuple(values: st.SearchStrategy[object], most: int = 2) -> st.SearchStrategy[object]:
    return st.lists(values, min_size=1, max_size=most).map(tuple)


def _maybe(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | values


principals = _tuple(st.sampled_from(PRINCIPALS).map(model.Principal.parse))
operations = st.builds(
    model.Operation,
    ports=_maybe(_tuple(st.sampled_from((8080, 5432, 9000)))),
    methods=_maybe(_tuple(st.sampled_from(("GET", "POST")))),
    hosts=_maybe(_tuple(st.sampled_from(("db.corp.test", "*.corp.test")).map(HostPattern.parse))),
    paths=_maybe(_tuple(st.sampled_from(PATTERNS).map(PathPattern.parse), 3)),
)
_claims = st.builds(
    model.ClaimsCondition,
    issuer=st.just("https://idp.test"),
    values=st.just(()) | st.just((("roles", ("admin", 1, True)),)) | st.just((("sub", ("u1",)), ("roles", ("dev",)))),
)
_hours = st.sampled_from(
    (
        model.Hours(tz="UTC", start=dt.time(8), end=dt.time(18)),
        model.Hours(tz="Asia/Tokyo", start=dt.time(20), end=dt.time(4)),
    )
)
_networks = _tuple(st.sampled_from(("10.0.0.0/8", "10.1.2.0/24", "fd00::/8")).map(_network))


def _has_field(fields: dict[str, object]) -> bool:
    return any(value is not None for value in fields.values())


conditions = (
    st.fixed_dictionaries(
        {
            "claims": _maybe(_claims),
            "headers": _maybe(
                st.sampled_from(((("x-role", ("admin",)),), (("x-role", ("user", "dev")), ("x-t", ("a",)))))
            ),
            "peer_ip": _maybe(_networks),
            "forwarded_ip": _maybe(_networks),
            "hours": _maybe(_hours),
            "rego": _maybe(st.just("data.shop.extra")),
        }
    )
    .filter(_has_field)
    .map(lambda fields: model.Conditions(**fields))
)
_few_conditions = st.none() | st.none() | conditions
unlesses = (
    st.fixed_dictionaries({"from_": _maybe(principals), "when": _few_conditions})
    .filter(_has_field)
    .map(lambda fields: model.Unless(**fields))
)
_rules = st.lists(
    st.tuples(
        st.sampled_from(tuple(Effect)), principals, _maybe(_tuple(operations)), _few_conditions, st.none() | unlesses
    ),
    min_size=1,
    max_size=4,
).map(
    lambda rows: tuple(
        model.Rule(id=f"r{place}", effect=effect, from_=callers, to=to, when=when, unless=unless)
        for place, (effect, callers, to, when, unless) in enumerate(rows)
    )
)
_policies = st.lists(st.tuples(st.sampled_from(model.TIERS), _rules), max_size=4).map(
    lambda rows: tuple(
        model.Policy(name=f"p{place}", owner="", service="db", tier=tier, rules=rules)
        for place, (tier, rules) in enumerate(rows)
    )
)
_exceptions = st.lists(st.tuples(principals, _maybe(_tuple(operations)), st.sampled_from((-1, 0, 1))), max_size=2).map(
    lambda rows: tuple(
        model.ExceptionGrant(
            name=f"e{place}",
            owner="",
            service="db",
            from_=callers,
            to=to,
            until=NOW + dt.timedelta(hours=hours),
            reason="x",
        )
        for place, (callers, to, hours) in enumerate(rows)
    )
)


_GROUPS = st.fixed_dictionaries(
    {
        "auditors": st.sampled_from(((f"{TD}/ns/audit/**",), (f"{TD}/ns/shop/sa/cart", f"{TD}/ns/audit/**"))),
        "nobody": st.just(()),
        "outer": st.sampled_from((("group:auditors",), ("service:web", "group:auditors"), ("group:missing",))),
    }
)
_WEB = st.sampled_from((f"{TD}/ns/shop/sa/web", f"{TD}/ns/audit/**"))


def _set(
    policies: tuple,
    exceptions: tuple,
    mode: tuple[Mode, int | None],
    case: PathCase,
    members: dict[str, tuple[str, ...]],
    web: str,
) -> model.PolicySet:
    kind, hours = mode
    called = model.Service(
        name="db",
        owner="",
        identities=(SpiffePattern.parse(f"{TD}/ns/shop/sa/db"),),
        ports=(
            model.Port(port=8080, protocol="http"),
            model.Port(port=5432, protocol="tcp"),
            model.Port(port=9000, protocol="grpc"),
        ),
        mode=kind,
        path_case=case,
        until=None if hours is None else NOW + dt.timedelta(hours=hours),
    )  # fmt: skip
    calling = model.Service(
        name="web",
        owner="",
        identities=(SpiffePattern.parse(web),),
        ports=(model.Port(port=80, protocol="http"),),
    )
    groups = tuple(
        model.Group(name=name, owner="", members=tuple(map(model.Principal.parse, texts)))
        for name, texts in members.items()
    )
    return model.PolicySet(services=(called, calling), policies=policies, groups=groups, exceptions=exceptions)


policy_sets = st.builds(
    _set,
    _policies,
    _exceptions,
    st.sampled_from(((Mode.ENFORCE, None), (Mode.ENFORCE, None), (Mode.OBSERVE, 1), (Mode.OBSERVE, 0))),
    st.sampled_from(("sensitive", "sensitive", "insensitive")),
    _GROUPS,
    _WEB,
)

_headers = st.lists(
    st.tuples(
        st.sampled_from(("x-role", "X-Role", "x_role", "x-t", "host", "x-other")),
        st.sampled_from(("admin", "user", " dev ", "user,admin", "a", "db.corp.test", "\x01")),
    ),
    max_size=3,
).map(tuple)
_claim_sets = st.none() | st.sampled_from(
    (
        {"iss": "https://idp.test", "roles": ["admin", "dev"], "sub": "u1"},
        {"iss": "https://idp.test", "roles": True},
        {"iss": "https://idp.test", "roles": {"x": 1}},
        {"iss": "https://evil.test", "roles": ["admin"]},
        {"iss": 7},
        {},
    )
)
requests = st.builds(
    Request,
    service=st.sampled_from(("db", "db", "db", f"{TD}/ns/shop/sa/db", "nothing")),
    port=st.sampled_from((8080, 8080, 8080, 5432, 9000, 1)),
    protocol=st.sampled_from(("http", "http", "grpc", "tcp")),
    source=st.sampled_from(SOURCES),
    method=st.sampled_from(METHODS),
    host=st.sampled_from(HOSTS),
    path=st.sampled_from(TARGETS),
    headers=_headers,
    claims=_claim_sets,
    peer_ip=st.sampled_from(("10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "192.0.2.1", "x", None)),
    forwarded_ip=st.sampled_from(("10.1.2.3", None)),
    # what ends does so at NOW or an hour later; the last moment before is another case
    time=st.sampled_from((NOW, NOW, NOW + _HOUR, NOW + _HOUR - _MOMENT, NOW - _MOMENT, NOW + 8 * _HOUR, None)),
    unknown=st.frozensets(
        st.sampled_from(
            ("claims", "claims.roles", "headers.x-role", "peer_ip", "method", "host", "path", "source", "time")
        ),
        max_size=1,
    ),
)


def mixed(asked: list[Request], count: int, dice: random.Random) -> list[Request]:
    """More requests, with their fields from several of those: to generate one takes longer than to decide it."""
    names = ("source", "path", "method", "headers", "claims", "time")
    return [
        dataclasses.replace(
            dice.choice(asked), **{name: getattr(dice.choice(asked), name) for name in dice.sample(names, 4)}
        )
        for _ in range(count)
    ]


def folds(*versions: model.PolicySet) -> bool:
    """Whether some service compares paths without regard to case: patterns then stand there as nobody wrote them."""
    return any(service.path_case == "insensitive" for version in versions for service in version.services)
