"""Small policy sets and calls for the compilers: what targets can say often, and what they cannot sometimes."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from mesh.request import Effect
from policyengine import model
from policyengine.canonical import HostPattern, PathPattern
from policyengine.model import policy_set_from_json
from tests.policyengine.targets.wire import Call

TD = "spiffe://corp.test"
CALLERS = (
    f"{TD}/ns/shop/sa/cart",
    f"{TD}/ns/shop/sa/web",
    f"{TD}/ns/ops/sa/admin",
    f"{TD}/ns/ops/sa/probe",
    "spiffe://evil.test/ns/shop/sa/cart",
    None,
)
PRINCIPALS = (
    "any",
    f"{TD}/ns/shop/sa/cart",
    f"{TD}/ns/ops/sa/admin",
    f"{TD}/ns/shop/**",
    f"{TD}/ns/ops/**",
    f"{TD}/**",
)
ISSUER = "https://idp.test"


def tree(rules, ports=((8080, "http"),), tier="app", **more):
    """A policy set with the service `db`."""
    policies = [
        {"name": f"p-{name}", "owner": "", "service": "db", "tier": name, "rules": found}
        for name, found in ((tier, rules), *more.items())
        if found
    ]
    return policy_set_from_json(
        {
            "schema": 1,
            "services": [
                {
                    "name": "db",
                    "owner": "",
                    "identities": [f"{TD}/ns/shop/sa/db"],
                    "ports": [{"port": port, "protocol": protocol} for port, protocol in ports],
                },
                {
                    "name": "cart",
                    "owner": "",
                    "identities": [f"{TD}/ns/shop/sa/cart"],
                    "ports": [{"port": 80, "protocol": "http"}],
                },
            ],
            "policies": policies,
            "groups": [],
            "invariants": [],
            "exceptions": [],
        }
    )


def _some(values, most=2):
    return st.lists(values, min_size=1, max_size=most, unique=True).map(tuple)


_principals = _some(st.sampled_from(PRINCIPALS).map(model.Principal.parse))
_operations = st.builds(
    model.Operation,
    methods=st.none() | _some(st.sampled_from(("GET", "POST"))),
    hosts=st.none()
    | st.none()
    | st.none()
    | _some(st.sampled_from(("db.corp.test", "*.corp.test")).map(HostPattern.parse), 1),
    paths=st.none()
    | _some(
        st.sampled_from(("/a", "/a/", "/a/**", "/a/b", "/a/{x}", "/{x}/b", "/a/{x:int}", "/**")).map(PathPattern.parse)
    ),
)
_conditions = st.sampled_from(
    (
        model.Conditions(headers=(("x-role", ("admin",)),)),
        model.Conditions(claims=model.ClaimsCondition(issuer=ISSUER, values=(("roles", ("admin",)),))),
        model.Conditions(claims=model.ClaimsCondition(issuer=ISSUER)),
        model.Conditions(peer_ip=(__import__("ipaddress").ip_network("10.0.0.0/8"),)),
    )
)
_unless = st.builds(model.Unless, from_=_principals) | st.builds(model.Unless, when=_conditions)


def _rule(place, effect, callers, to, when, unless, is_tcp):
    if is_tcp:
        return model.Rule(id=f"r{place}", effect=effect, from_=callers, to=(model.Operation(ports=(5432,)),))
    operation = model.Operation(ports=(8080,), methods=to.methods, hosts=to.hosts, paths=to.paths)
    return model.Rule(id=f"r{place}", effect=effect, from_=callers, to=(operation,), when=when, unless=unless)


_rows = st.tuples(
    st.sampled_from((Effect.ALLOW, Effect.ALLOW, Effect.ALLOW, Effect.DENY, Effect.PASS)),
    _principals,
    _operations,
    st.none() | st.none() | _conditions,
    st.none() | st.none() | st.none() | _unless,
    st.sampled_from((False, False, False, True)),
)
_l4_rows = st.tuples(
    st.sampled_from((Effect.ALLOW, Effect.ALLOW, Effect.ALLOW, Effect.DENY, Effect.PASS)),
    _principals,
    st.just(model.Operation()),
    st.none(),
    st.none() | st.none() | st.none() | st.builds(model.Unless, from_=_principals),
    st.booleans(),
)


def _sets(rows):
    policies = st.lists(
        st.tuples(st.sampled_from(model.TIERS), st.lists(rows, min_size=1, max_size=3)), min_size=1, max_size=3
    )

    def build(found, case):
        listed = tuple(
            model.Policy(
                name=f"p{place}",
                owner="",
                service="db",
                tier=tier,
                rules=tuple(_rule(number, *row) for number, row in enumerate(some)),
            )
            for place, (tier, some) in enumerate(found)
        )
        base = tree([], ports=((8080, "http"), (5432, "tcp")))
        services = tuple(dataclasses.replace(item, path_case=case) for item in base.services)
        return model.PolicySet(services=services, policies=listed)

    return st.builds(build, policies, st.sampled_from(("sensitive", "sensitive", "insensitive")))


policy_sets = _sets(_rows)
l4_sets = _sets(_l4_rows)

_TOKEN = (("iss", ISSUER), ("sub", "u1"))
_tokens = st.none() | st.sampled_from((_TOKEN, (*_TOKEN, ("roles", "admin")), (*_TOKEN, ("roles", ["dev", "admin"]))))
calls = st.builds(
    Call,
    caller=st.sampled_from(CALLERS),
    method=st.sampled_from(("GET", "POST", "PUT")),
    host=st.sampled_from(("db.corp.test", "x.corp.test", "x.y.corp.test")),
    path=st.sampled_from(("/a", "/a/", "/a/b", "/a/12", "/x/b", "/c", "/a/b/c", "/", "/a?q=/a/b", "/A", "/A/B")),
    headers=st.sampled_from(((), (("x-role", "admin"),), (("x-role", "user"),))),
    claims=_tokens,
    peer_ip=st.sampled_from(("10.0.0.1", "192.0.2.1")),
) | st.builds(Call, caller=st.sampled_from(CALLERS), port=st.just(5432), protocol=st.just("tcp"))
