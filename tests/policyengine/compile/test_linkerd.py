"""Policies out to Linkerd: its documented semantics decide as Limen does, or stricter where the report says so."""

from __future__ import annotations

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from mesh.spiffe import TrustDomain
from policyengine.compile.linkerd import compile_linkerd
from policyengine.decide import Index
from tests.examples import examples
from tests.policyengine.compile.test_kubernetes import WORKLOADS
from tests.policyengine.targets import trees
from tests.policyengine.targets.linkerd import Inbound

TD = TrustDomain("corp.test")


def applied(policies):
    found = compile_linkerd(policies, TD, WORKLOADS)
    return found, Inbound([row for _, text in found.files for row in yaml.safe_load_all(text)], {"app": "db"})


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(trees.policy_sets | trees.l4_sets, st.lists(trees.calls, min_size=1, max_size=12))
def test_linkerd_never_allows_what_limen_denies_and_keeps_the_rest_where_nothing_is_said(policies, some) -> None:
    found, inbound = applied(policies)
    is_exact = not {item.code for item in found.findings["db"]} & {"LM2510", "LM2511", "LM2513"}
    index = Index(policies, "s")
    for call in some:
        ours = index.decide(call.request("db")).effect is Effect.ALLOW
        assert ours or not inbound.allows(call), call
        if is_exact and call.caller is not None and "evil" not in call.caller:
            assert ours == inbound.allows(call), call


def test_a_prefix_does_not_hold_the_path_without_its_slash() -> None:
    rule = {"id": "r", "effect": "allow", "from": ["any"], "to": [{"paths": ["/a/**"]}]}
    _, inbound = applied(trees.tree([rule]))
    caller = "spiffe://corp.test/ns/shop/sa/cart"
    answers = [inbound.allows(trees.Call(caller=caller, path=path)) for path in ("/a", "/a/", "/a/b", "/b")]
    assert answers == [False, True, True, False]


def test_every_port_has_a_server_that_denies_what_nothing_authorizes() -> None:
    found, inbound = applied(trees.tree([], ports=((8080, "http"), (5432, "tcp"))))
    assert [item["spec"]["accessPolicy"] for item in inbound.servers] == ["deny", "deny"]
    assert "AuthorizationPolicy" not in inbound.by_kind
    assert [item.code for item in found.findings["db"]] == ["LM2512"]
