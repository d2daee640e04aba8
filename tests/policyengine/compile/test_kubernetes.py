"""Policies out to NetworkPolicy: the documented semantics decide as Limen does on connections, or stricter."""

from __future__ import annotations

import kubernetes_validate
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from mesh.spiffe import SpiffeId, TrustDomain
from policyengine.compile.export import Workload
from policyengine.compile.kubernetes import compile_kubernetes
from policyengine.decide import Index
from tests.examples import examples
from tests.policyengine.targets import trees
from tests.policyengine.targets.kubernetes import Cluster
from tests.policyengine.targets.wire import identity

TD = TrustDomain("corp.test")
PODS = {
    "spiffe://corp.test/ns/shop/sa/db": {"app": "db"},
    "spiffe://corp.test/ns/shop/sa/cart": {"app": "cart", "team": "buy"},
    "spiffe://corp.test/ns/shop/sa/web": {"app": "web", "team": "buy"},
    "spiffe://corp.test/ns/ops/sa/admin": {"app": "admin"},
    "spiffe://corp.test/ns/ops/sa/probe": {"app": "probe"},
}
WORKLOADS = {SpiffeId.parse(name): Workload(labels=tuple(labels.items())) for name, labels in PODS.items()}


def applied(policies):
    found = compile_kubernetes(policies, TD, WORKLOADS)
    return found, Cluster([row for _, text in found.files for row in yaml.safe_load_all(text)])


def connects(cluster, call) -> bool:
    found = identity(call.caller)
    if found is None or found[0] != "corp.test":
        return cluster.connects((None, {}, call.peer_ip), ("shop", {"app": "db"}, "10.9.9.9"), call.port)
    caller = (found[1], PODS[call.caller], call.peer_ip)
    return cluster.connects(caller, ("shop", {"app": "db"}, "10.9.9.9"), call.port)


def connection_sets():
    return trees.l4_sets | trees.policy_sets


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(connection_sets(), st.lists(trees.calls, min_size=1, max_size=12))
def test_a_network_policy_never_opens_what_limen_denies_and_keeps_the_rest_where_nothing_is_said(
    policies, some
) -> None:
    found, cluster = applied(policies)
    is_exact = not {item.code for item in found.findings["db"]} & {"LM2510", "LM2511", "LM2513"}
    index = Index(policies, "s")
    for call in some:
        ours = index.decide(call.request("db")).effect is Effect.ALLOW
        assert ours or not connects(cluster, call), call
        if is_exact and call.caller in PODS:
            assert ours == connects(cluster, call), call


@settings(max_examples=examples(15), deadline=None, suppress_health_check=list(HealthCheck))
@given(connection_sets())
def test_what_is_written_is_valid_to_the_schema_of_kubernetes(policies) -> None:
    found = compile_kubernetes(policies, TD, WORKLOADS)
    for _, text in found.files:
        for row in yaml.safe_load_all(text):
            kubernetes_validate.validate(row, "1.34", strict=True)


def test_a_service_that_allows_nothing_is_isolated() -> None:
    found, _ = applied(trees.tree([{"id": "r", "effect": "deny", "from": ["any"]}]))
    row = yaml.safe_load(dict(found.files)["limen-db.yaml"])
    assert row["spec"]["ingress"] == []
    assert row["spec"]["policyTypes"] == ["Ingress"]


def test_a_rule_about_requests_is_refused_by_name() -> None:
    rule = {"id": "read", "effect": "allow", "from": ["any"], "to": [{"methods": ["GET"]}]}
    found, _ = applied(trees.tree([rule]))
    (refused,) = (item for item in found.findings["db"] if item.code == "LM2510")
    assert refused.facts["what"] == "p-app/read"
    assert "LM2510" in dict(found.files)["limen-db.yaml"]


@pytest.mark.parametrize("pattern", ["spiffe://other.test/ns/shop/sa/cart", "spiffe://corp.test/host/x"])
def test_a_caller_without_a_place_is_left_out_by_name(pattern) -> None:
    found, _ = applied(trees.tree([{"id": "r", "effect": "allow", "from": [pattern]}]))
    assert [str(item.facts["what"]) for item in found.findings["db"] if item.code == "LM2513"] == [pattern]
