"""Policies out to Cilium: its documented semantics decide as Limen does, or stricter where the report says so."""

from __future__ import annotations

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from mesh.spiffe import TrustDomain
from policyengine.canonical import CanonicalPath, PathPattern, canonical_path
from policyengine.compile.cilium import compile_cilium, path_expression
from policyengine.decide import Index
from tests.examples import examples
from tests.policyengine.targets import trees
from tests.policyengine.targets.kubernetes import Cilium

TD = TrustDomain("corp.test")


def applied(policies):
    found = compile_cilium(policies, TD)
    rows = [row for _, text in found.files for row in yaml.safe_load_all(text)]
    return found, Cilium(rows, "shop", "db")


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(trees.policy_sets | trees.l4_sets, st.lists(trees.calls, min_size=1, max_size=12))
def test_cilium_never_allows_what_limen_denies_and_keeps_the_rest_where_nothing_is_said(policies, some) -> None:
    found, endpoint = applied(policies)
    said = [item for item in found.findings["db"] if item.code in {"LM2510", "LM2511", "LM2513"}]
    # the calls are all spelt in canonical form
    is_exact = all("canonical form" in item.message for item in said)
    index = Index(policies, "s")
    for call in some:
        ours = index.decide(call.request("db")).effect is Effect.ALLOW
        assert ours or not endpoint.allows(call), call
        if is_exact and call.caller is not None and "evil" not in call.caller:
            assert ours == endpoint.allows(call), call


_targets = st.text(alphabet="/ab1.%2fF;\\?#x~é-", max_size=12).map(lambda text: f"/{text}")


@settings(max_examples=examples(50), deadline=None)
@given(st.sampled_from(("/a", "/a/", "/a/**", "/a/{x}", "/a/{x:int}/b", "/{x:token}/**", "/**", "/")), _targets)
@example("/a/**", "/a/../b")
@example("/a/**", "/a//b")
@example("/a/{x:token}", "/a/..")
@example("/**", "/a;x")
def test_an_expression_holds_no_spelling_that_limen_reads_otherwise(pattern, target) -> None:
    import re

    parsed = PathPattern.parse(pattern)
    if re.fullmatch(path_expression(parsed), target) is not None:
        found = canonical_path(target)
        assert isinstance(found, CanonicalPath)
        assert parsed.matches(found.segments)


def test_accounts_and_namespaces_are_labels_of_cilium_and_need_no_list() -> None:
    found, _ = applied(trees.tree([{"id": "r", "effect": "allow", "from": ["spiffe://corp.test/ns/shop/sa/cart"]}]))
    row = yaml.safe_load(dict(found.files)["limen-db.yaml"])
    assert row["spec"]["endpointSelector"] == {"matchLabels": {"k8s:io.cilium.k8s.policy.serviceaccount": "db"}}
    assert not found.findings["db"]


def test_a_service_that_allows_nothing_accepts_nothing() -> None:
    found, _ = applied(trees.tree([{"id": "r", "effect": "deny", "from": ["any"]}]))
    assert yaml.safe_load(dict(found.files)["limen-db.yaml"])["spec"]["ingress"] == [{}]
