"""NetworkPolicies in: connections are decided as Kubernetes does among described pods, or stricter and said."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from mesh.spiffe import TrustDomain
from policyengine.decide import Index
from policyengine.importers.imported import files_of
from policyengine.importers.kubernetes import import_kubernetes
from tests.examples import examples
from tests.policyengine.targets.kubernetes import Cluster
from tests.policyengine.targets.wire import Call

TD = TrustDomain("corp.test")
PODS = {
    ("shop", "db"): ({"app": "db", "tier": "back"}, "10.0.0.1"),
    ("shop", "cart"): ({"app": "cart", "tier": "front"}, "10.0.0.2"),
    ("shop", "web"): ({"app": "web", "tier": "front"}, "10.0.1.3"),
    ("ops", "admin"): ({"app": "admin"}, "10.0.2.4"),
}
PORTS = {"web": 8080, "sql": 5432}


def manifest(namespace: str, account: str, labels: dict[str, str]) -> dict[str, object]:
    ports = [{"containerPort": number, "name": name} for name, number in PORTS.items()]
    spec = {"serviceAccountName": account, "containers": [{"name": "c", "ports": ports}]}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {"kind": "Deployment", "metadata": {"name": account, "namespace": namespace}, "spec": {"template": template}}


MANIFESTS = [manifest(namespace, account, labels) for (namespace, account), (labels, _) in PODS.items()]
selectors = st.sampled_from(
    (
        {},
        {"matchLabels": {"app": "db"}},
        {"matchLabels": {"tier": "front"}},
        {"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "cart"]}]},
        {"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]},
        {"matchLabels": {"tier": "back"}, "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]},
    )
)
spaces = st.sampled_from(
    (
        {},
        {"matchLabels": {"kubernetes.io/metadata.name": "ops"}},
        {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop", "ops"]}]},
    )
)
peers = (
    selectors.map(lambda found: {"podSelector": found})
    | spaces.map(lambda found: {"namespaceSelector": found})
    | st.tuples(spaces, selectors).map(lambda found: {"namespaceSelector": found[0], "podSelector": found[1]})
    | st.just({"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]}})
)
ports = st.sampled_from(
    (
        {"protocol": "TCP", "port": 8080},
        {"port": "sql"},
        {"port": 5000, "endPort": 6000},
        {"protocol": "UDP", "port": 8080},
        {"protocol": "TCP"},
        {"port": "nothing"},
    )
)


def _rules(field):
    row = st.fixed_dictionaries({}, optional={field: st.lists(peers, max_size=2), "ports": st.lists(ports, max_size=2)})
    return st.lists(row, max_size=2)


specs = st.fixed_dictionaries(
    {"podSelector": selectors},
    optional={
        "policyTypes": st.sampled_from((["Ingress"], ["Egress"], ["Ingress", "Egress"])),
        "ingress": _rules("from"),
        "egress": _rules("to"),
    },
)
policies = st.lists(st.tuples(st.sampled_from(("shop", "shop", "ops")), specs), max_size=3).map(
    lambda found: [
        {"kind": "NetworkPolicy", "metadata": {"name": f"p{place}", "namespace": namespace}, "spec": spec}
        for place, (namespace, spec) in enumerate(found)
    ]
)


def translate(found, manifests=MANIFESTS):
    return import_kubernetes([("all.json", json.dumps({"kind": "List", "items": [*found, *manifests]}))], TD)


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(policies)
def test_a_tree_never_connects_what_kubernetes_does_not_and_keeps_the_rest_where_nothing_is_said(found) -> None:
    done = translate(found)
    files_of(done)
    cluster, index = Cluster(found, tuple(PORTS.items())), Index(done.policies, "s")
    codes = {item.code for document in done.documents for item in document.findings}
    is_exact = not codes & {"LM2500", "LM2501"}
    for (namespace, account), (labels, address) in PODS.items():
        for (other, peer), (marks, home) in PODS.items():
            for port in PORTS.values():
                call = Call(
                    caller=f"spiffe://corp.test/ns/{namespace}/sa/{account}", port=port, protocol="tcp", peer_ip=address
                )
                request = call.request(f"spiffe://corp.test/ns/{other}/sa/{peer}")
                ours = index.decide(request).effect is Effect.ALLOW
                theirs = cluster.connects((namespace, labels, address), (other, marks, home), port)
                assert theirs or not ours, (call, other, peer)
                # being open to all is said for those without an identity; those with one are not denied by it
                if is_exact or (codes & {"LM2500", "LM2501"} == {"LM2501"} and _only_identity(done)):
                    assert ours == theirs, (call, other, peer)


def _only_identity(done) -> bool:
    reasons = [
        str(item.facts["reason"]) for document in done.documents for item in document.findings if item.code == "LM2501"
    ]
    return all("with an identity" in reason and "address" not in reason for reason in reasons)


@pytest.mark.parametrize(
    ("port", "what"),
    [
        ({"port": 9999}, ["port 9999"]),
        ({"port": 8000, "endPort": 9000}, ["the range of ports 8000 to 9000"]),
        ({"port": 5432, "endPort": 5432}, []),
        ({"port": 5432}, []),
        ({"protocol": "TCP"}, []),
        ({"port": "sql"}, []),
    ],
    ids=["undeclared", "range", "range-of-one", "declared", "every-port", "named"],
)
def test_ports_that_are_opened_and_that_no_manifest_declares_are_named(port, what) -> None:
    spec = {
        "podSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"from": [{"podSelector": {}}], "ports": [port]}],
    }
    policy = {"kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "shop"}, "spec": spec}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "db", "namespace": "shop", "labels": {"app": "db"}},
        "spec": {"containers": [{"name": "db", "ports": [{"containerPort": 5432, "name": "sql"}]}]},
    }
    done = translate([policy], [pod])
    said = [item.facts for document in done.documents for item in document.findings if item.code == "LM2501"]
    assert [facts["what"] for facts in said] == what
    assert all("`db` has only those that a manifest declares: 5432" in str(facts["reason"]) for facts in said)


def test_a_policy_alone_is_translated_with_assumed_workloads() -> None:
    policy = {
        "kind": "NetworkPolicy",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "cart"}}}], "ports": [{"port": 5432}]}],
        },
    }
    done = translate([policy], manifests=[])
    assert [item.name for item in done.policies.services] == ["db", "cart"]
    (rule,) = done.policies.policies_for("db")[0].rules
    assert str(rule.from_[0]) == "spiffe://corp.test/ns/shop/sa/cart"
    assert {item.code for item in done.documents[0].findings} >= {"LM2502"}


@pytest.mark.parametrize(
    "spec",
    [
        {"podSelector": {}, "ingres": []},
        {"podSelector": {"matchLabels": ["x"]}},
        {"podSelector": {}, "policyTypes": ["Inbound"]},
        {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "x"}}]}]},
        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
    ],
)
def test_a_malformed_policy_allows_nothing_and_is_named(spec) -> None:
    done = translate([{"kind": "NetworkPolicy", "metadata": {"name": "bad", "namespace": "shop"}, "spec": spec}])
    assert done.documents[0].status == "malformed"
    assert not done.policies.policies
    assert done.is_refused
