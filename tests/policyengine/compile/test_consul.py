"""Policies out to Consul: its documented semantics decide as Limen does, or stricter where the report says so."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from mesh.spiffe import TrustDomain
from policyengine.compile.consul import compile_consul
from policyengine.decide import Index
from tests.examples import examples
from tests.policyengine.targets import trees
from tests.policyengine.targets.consul import Intentions
from tests.policyengine.targets.shapes import CONSUL_NAMES as NAMES
from tests.policyengine.targets.shapes import CONSUL_WORKLOADS as WORKLOADS
from tests.policyengine.targets.shapes import on_one_port

TD = TrustDomain("corp.test")


def applied(policies):
    found = compile_consul(policies, TD, WORKLOADS)
    entry = json.loads(dict(found.files)["limen-db.json"])
    return found, Intentions(entry["Sources"], NAMES)


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(trees.policy_sets.map(on_one_port), st.lists(trees.calls, min_size=1, max_size=12))
def test_consul_never_allows_what_limen_denies_and_keeps_the_rest_where_nothing_is_said(policies, some) -> None:
    found, intentions = applied(policies)
    is_exact = not {item.code for item in found.findings["db"]} & {"LM2510", "LM2511", "LM2513"}
    index = Index(policies, "s")
    for call in some:
        if call.port != 8080:
            continue
        ours = index.decide(call.request("db")).effect is Effect.ALLOW
        for default in (False, True):
            theirs = Intentions(intentions.sources, NAMES, default=default).allows(call)
            assert ours or not theirs, call
            if is_exact and call.caller in NAMES:
                assert ours == theirs, call


def test_whoever_is_not_named_is_denied() -> None:
    _, intentions = applied(
        trees.tree([{"id": "r", "effect": "allow", "from": ["spiffe://corp.test/ns/shop/sa/cart"]}])
    )
    assert intentions.sources == [{"Name": "cart", "Action": "allow"}, {"Name": "*", "Action": "deny"}]


def test_a_deny_of_somebody_without_a_name_denies_everybody_else() -> None:
    rules = [
        {"id": "a", "effect": "allow", "from": ["any"]},
        {"id": "d", "effect": "deny", "from": ["spiffe://corp.test/ns/ops/sa/probe"]},
    ]
    found, intentions = applied(trees.tree(rules))
    assert {"Name": "*", "Action": "deny"} in intentions.sources
    assert [str(item.facts["what"]) for item in found.findings["db"]][:1] == ["spiffe://corp.test/ns/ops/sa/probe"]


def test_a_service_with_two_ports_is_left_out_by_name() -> None:
    rules = [{"id": "r", "effect": "allow", "from": ["any"]}]
    found = compile_consul(trees.tree(rules, ports=((8080, "http"), (9090, "http"))), TD, WORKLOADS)
    assert [item.code for item in found.findings["db"]] == ["LM2513"]
