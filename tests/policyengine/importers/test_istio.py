"""Istio's policies in: the tree decides as Istio's documented semantics do, or is stricter and says so."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from mesh.spiffe import TrustDomain
from policyengine.decide import Index
from policyengine.importers.imported import files_of
from policyengine.importers.istio import import_istio
from tests.examples import examples
from tests.policyengine.targets.istio import Sidecar
from tests.policyengine.targets.wire import Call

TD = TrustDomain("corp.test")
DB = "spiffe://corp.test/ns/shop/sa/db"
ISSUER, OTHER = "https://idp.test", "https://second.test"
LABELS = {"app": "db", "tier": "back"}
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: db, namespace: shop}
spec:
  template:
    metadata: {labels: {app: db, tier: back}}
    spec:
      serviceAccountName: db
      containers: [{name: db, ports: [{containerPort: 8080, name: web}, {containerPort: 5432, name: sql}]}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  selector: {app: db}
  ports: [{name: http-web, port: 80, targetPort: web}, {name: tcp-sql, port: 5432}]
"""

_some = lambda values, most=2: st.none() | st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True)  # noqa: E731
PRINCIPALS = ("*", "corp.test/ns/shop/sa/cart", "corp.test/ns/shop/*", "cluster.local/ns/ops/sa/admin", "*/sa/cart",
              "corp.test/ns/sh*", "corp.test/*", "*/ns/shop/sa/web")  # fmt: skip
NAMESPACES = ("shop", "ops", "*", "sh*")
REQUEST_PRINCIPALS = ("*", f"{ISSUER}/*", f"{ISSUER}/u1", "*/u2", f"{OTHER}/u1", f"{ISSUER}/u*")
BLOCKS = ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.1")
PATHS = ("/a", "/a*", "/a/*", "*", "/admin*", "/a/{*}", "/a/{*}/b", "/a/{**}", "/x/{**}/b", "*.html", "/healthz")
HOSTS = ("db.corp.test", "*.corp.test", "DB.corp.test", "api.*")
METHODS = ("GET", "POST", "*", "P*")


def _clean(fields):
    return {name: value for name, value in fields.items() if value is not None}


sources = st.fixed_dictionaries(
    {
        "principals": _some(PRINCIPALS),
        "notPrincipals": st.none() | _some(PRINCIPALS, 1),
        "namespaces": st.none() | _some(NAMESPACES),
        "notNamespaces": st.none() | st.none() | _some(NAMESPACES, 1),
        "serviceAccounts": st.none() | st.none() | _some(("cart", "ops/admin")),
        "requestPrincipals": st.none() | _some(REQUEST_PRINCIPALS),
        "notRequestPrincipals": st.none() | st.none() | _some(REQUEST_PRINCIPALS),
        "ipBlocks": st.none() | _some(BLOCKS),
        "notIpBlocks": st.none() | st.none() | _some(BLOCKS, 1),
        "remoteIpBlocks": st.none() | st.none() | st.none() | _some(BLOCKS, 1),
    }
).map(_clean)
operations = st.fixed_dictionaries(
    {
        "ports": st.none() | _some(("8080", "5432")),
        "notPorts": st.none() | st.none() | _some(("5432",)),
        "methods": _some(METHODS),
        "notMethods": st.none() | st.none() | _some(METHODS, 1),
        "paths": _some(PATHS),
        "notPaths": st.none() | _some(PATHS),
        "hosts": st.none() | _some(HOSTS, 1),
        "notHosts": st.none() | st.none() | st.none() | _some(HOSTS, 1),
    }
).map(_clean)
conditions = st.one_of(
    st.tuples(st.just("request.headers[x-role]"), st.sampled_from((["admin"], ["user", "admin"], ["adm*"]))),
    st.tuples(st.just("request.auth.claims[roles]"), st.sampled_from((["admin"], ["dev", "admin"]))),
    st.tuples(st.just("source.ip"), st.sampled_from((["10.0.0.0/8"],))),
    st.tuples(st.just("source.namespace"), st.sampled_from((["shop"], ["ops"]))),
    st.tuples(st.just("request.auth.principal"), st.sampled_from(([f"{ISSUER}/u1"], ["*"]))),
).flatmap(lambda pair: st.sampled_from(({"key": pair[0], "values": pair[1]}, {"key": pair[0], "notValues": pair[1]})))
rules = st.fixed_dictionaries(
    {
        "from": st.none() | st.lists(sources.filter(bool).map(lambda s: {"source": s}), min_size=1, max_size=2),
        "to": st.none() | st.lists(operations.filter(bool).map(lambda o: {"operation": o}), min_size=1, max_size=2),
        "when": st.none() | st.none() | st.lists(conditions, min_size=1, max_size=2),
    }
).map(_clean)
selectors = st.sampled_from(
    ({}, {"selector": {"matchLabels": {"app": "db"}}}, {"selector": {"matchLabels": {"app": "no"}}})
)
authorizations = st.builds(
    lambda action, selected, found, namespace: {
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": namespace},
        "spec": {**selected, "action": action, "rules": found},
    },
    st.sampled_from(("ALLOW", "ALLOW", "DENY", "DENY", "CUSTOM", "AUDIT")),
    selectors,
    st.lists(rules, max_size=2),
    st.sampled_from(("shop", "shop", "istio-system", "other")),
)
authentications = st.sampled_from(
    (
        (),
        ({"kind": "RequestAuthentication", "metadata": {"name": "r", "namespace": "shop"},
          "spec": {"jwtRules": [{"issuer": ISSUER}]}},),
        ({"kind": "RequestAuthentication", "metadata": {"name": "r", "namespace": "shop"},
          "spec": {"jwtRules": [{"issuer": ISSUER}, {"issuer": OTHER}]}},),
    )
)  # fmt: skip
peers = st.sampled_from(
    ((), ({"kind": "PeerAuthentication", "metadata": {"name": "d", "namespace": "istio-system"},
           "spec": {"mtls": {"mode": "STRICT"}}},))
)  # fmt: skip


def _named(found):
    return [{**item, "metadata": {**item["metadata"], "name": f"p{place}"}} for place, item in enumerate(found)]


meshes = st.builds(
    lambda some, jwt, mtls: [*_named(some), *jwt, *mtls], st.lists(authorizations, max_size=3), authentications, peers
)
CALLERS = (
    "spiffe://corp.test/ns/shop/sa/cart",
    "spiffe://corp.test/ns/shop/sa/web",
    "spiffe://corp.test/ns/ops/sa/admin",
    "spiffe://corp.test/ns/sharp/sa/x",
    "spiffe://corp.test/ns/other/sa/cart",
)
FOREIGN = ("spiffe://evil.test/ns/shop/sa/cart", None)
_tokens = st.none() | st.builds(
    lambda iss, sub, roles: (("iss", iss), ("sub", sub), *((("roles", roles),) if roles else ())),
    st.sampled_from((ISSUER, OTHER)),
    st.sampled_from(("u1", "u2")),
    st.sampled_from((None, "admin", "dev")),
)
calls = st.builds(
    Call,
    caller=st.sampled_from(CALLERS + CALLERS + FOREIGN),
    port=st.just(8080),
    method=st.sampled_from(("GET", "POST", "PUT")),
    host=st.sampled_from(("db.corp.test", "api.corp.test", "x.y.corp.test", "api.test")),
    path=st.sampled_from(
        ("/a", "/a/", "/a/x", "/a/x/b", "/ab", "/admin/x", "/healthz", "/x/y/b", "/i.html", "/a?q=/x")
    ),
    headers=st.sampled_from(((), (("x-role", "admin"),), (("X-Role", "user"),))),
    claims=_tokens,
    peer_ip=st.sampled_from(("10.0.0.1", "10.1.2.3", "192.0.2.1")),
    forwarded_ip=st.sampled_from((None, None, "10.1.2.3")),
) | st.builds(
    Call,
    caller=st.sampled_from(CALLERS + FOREIGN),
    port=st.just(5432),
    protocol=st.just("tcp"),
    peer_ip=st.sampled_from(("10.0.0.1", "192.0.2.1")),
)


def translate(mesh):
    text = json.dumps({"kind": "List", "items": mesh})
    return import_istio([("mesh.json", text), ("db.yaml", MANIFEST)], TD)


def is_taken(mesh, call) -> bool:
    """Whether the verifier that Limen is told of takes the call's token: one of an issuer of the mesh, or none."""
    issuers = Sidecar(mesh, "shop", LABELS, domain="corp.test").issuers()
    return call.claims is None or not issuers or dict(call.claims)["iss"] in issuers


def codes(found):
    return {item.code for document in found.documents for item in document.findings}


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(meshes, st.lists(calls, min_size=1, max_size=12))
def test_a_tree_never_allows_what_istio_denies_and_keeps_the_rest_where_nothing_is_said(mesh, some):
    found = translate(mesh)
    assert not found.unreadable
    files_of(found)  # what is written loads
    index = Index(found.policies, "s")
    sidecar = Sidecar(mesh, "shop", LABELS, domain="corp.test")
    is_exact = not codes(found) & {"LM2500", "LM2501"}
    for call in some:
        if not is_taken(mesh, call):
            continue
        ours = index.decide(call.request(DB)).effect is Effect.ALLOW
        theirs = sidecar.allows(call)
        assert theirs or not ours, call
        if is_exact and call.caller in CALLERS:
            assert ours == theirs, call


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "AuthorizationPolicy", "spec": {"action": "DENY", "selector": {"matchLabels": ["app"]}}},
        {"kind": "AuthorizationPolicy", "spec": {"action": "DENY", "rules": [{"form": []}]}},
        {"kind": "AuthorizationPolicy", "spec": {"action": "DENIED"}},
        {"kind": "RequestAuthentication", "spec": {"jwtRules": [{"issuers": "x"}]}},
        {"kind": "PeerAuthentication", "spec": {"mode": "STRICT"}},
    ],
)
def test_a_malformed_policy_allows_nothing_and_is_named(broken) -> None:
    found = translate([{**broken, "metadata": {"name": "bad", "namespace": "shop"}}])
    assert found.documents[0].status == "malformed"
    assert not found.policies.policies
    assert found.is_refused


def test_a_dry_run_an_audit_and_a_foreign_target_are_in_the_report() -> None:
    head = {"name": "p", "namespace": "shop"}
    dry = {"metadata": {**head, "annotations": {"istio.io/dry-run": "true"}}, "spec": {"action": "DENY", "rules": [{}]}}
    audit = {"metadata": head, "spec": {"action": "AUDIT", "rules": [{}]}}
    gateway = {"metadata": head, "spec": {"targetRefs": [{"kind": "Gateway", "name": "g"}], "rules": [{}]}}
    found = translate([{"kind": "AuthorizationPolicy", **item} for item in (audit, dry, gateway)])
    codes = [{item.code for item in document.findings} for document in found.documents[:3]]
    assert codes[0] >= {"LM2503"}
    assert codes[1] >= {"LM2503"}
    assert codes[2] == {"LM2500"}
    assert Index(found.policies, "s").decide(Call(caller=CALLERS[0]).request(DB)).effect is Effect.ALLOW


def test_an_issuer_without_mtls_or_a_port_without_it_allows_nothing() -> None:
    spec = {"mtls": {"mode": "STRICT"}, "portLevelMtls": {"8080": {"mode": "DISABLE"}}}
    found = translate([{"kind": "PeerAuthentication", "metadata": {"name": "p", "namespace": "shop"}, "spec": spec}])
    index = Index(found.policies, "s")
    assert index.decide(Call(caller=CALLERS[0]).request(DB)).effect is Effect.DENY
    assert index.decide(Call(caller=CALLERS[0], port=5432, protocol="tcp").request(DB)).effect is Effect.ALLOW
    assert found.documents[0].status == "refused"
