"""Policies out to Istio: its documented semantics decide as Limen does, or stricter where the report says so."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from mesh.spiffe import SpiffeId, TrustDomain
from policyengine import model
from policyengine.compile.export import Workload
from policyengine.compile.istio import compile_istio
from policyengine.decide import Index
from policyengine.importers.istio import import_istio
from tests.examples import examples
from tests.policyengine.importers import test_istio as imports
from tests.policyengine.targets import trees
from tests.policyengine.targets.istio import Sidecar

TD = TrustDomain("corp.test")
WORKLOADS = {SpiffeId.parse("spiffe://corp.test/ns/shop/sa/db"): Workload(labels=(("app", "db"),))}


def applied(policies: model.PolicySet):
    """The export, and the sidecar of `db` that has it."""
    found = compile_istio(policies, TD, WORKLOADS)
    rows = [row for _, text in found.files for row in yaml.safe_load_all(text)]
    return found, Sidecar(rows, "shop", {"app": "db"}, domain="corp.test")


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(trees.policy_sets, st.lists(trees.calls, min_size=1, max_size=12))
def test_istio_never_allows_what_limen_denies_and_keeps_the_rest_where_nothing_is_said(policies, some) -> None:
    found, sidecar = applied(policies)
    is_exact = not {item.code for item in found.findings["db"]} & {"LM2510", "LM2511", "LM2513"}
    index = Index(policies, "s")
    issuers = sidecar.issuers()
    for call in some:
        if call.claims is not None and dict(call.claims)["iss"] not in issuers:
            continue  # a token that the mesh does not take
        ours = index.decide(call.request("db")).effect is Effect.ALLOW
        assert ours or not sidecar.allows(call), call
        if is_exact:
            assert ours == sidecar.allows(call), call


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(imports.meshes, st.lists(imports.calls, min_size=1, max_size=8))
def test_there_and_back_again_keeps_decisions(mesh, some) -> None:
    tree = imports.translate(mesh).policies
    found, sidecar = applied(tree)
    is_exact = not {item.code for item in found.findings[tree.service_for(imports.DB).name]} & {
        "LM2510",
        "LM2511",
        "LM2513",
    }
    again = import_istio(
        [("again.json", json.dumps({"kind": "List", "items": sidecar.mine})), ("db.yaml", imports.MANIFEST)], TD
    )
    codes = {item.code for item in again.documents for item in item.findings}
    first, second = Index(tree, "s"), Index(again.policies, "s")
    issuers = Sidecar(mesh, "shop", imports.LABELS, domain="corp.test").issuers()
    for call in some:
        if call.claims is not None and dict(call.claims)["iss"] not in issuers:
            continue
        ours, theirs = (index.decide(call.request(imports.DB)).effect is Effect.ALLOW for index in (first, second))
        if call.claims is None or dict(call.claims)["iss"] in sidecar.issuers():
            assert ours or not theirs, call
            if is_exact and not codes & {"LM2500", "LM2501"}:
                assert ours == theirs, call


def test_a_namespace_denies_what_nothing_allows() -> None:
    found, _ = applied(trees.tree([{"id": "r", "effect": "allow", "from": ["any"]}]))
    text = dict(found.files)["limen-default-deny.yaml"]
    assert yaml.safe_load(text)["spec"] == {}


def test_a_workload_without_labels_is_left_out_by_name() -> None:
    other = {SpiffeId.parse("spiffe://corp.test/ns/shop/sa/other"): Workload(labels=(("app", "other"),))}
    found = compile_istio(trees.tree([{"id": "r", "effect": "allow", "from": ["any"]}]), TD, other)
    assert not found.files
    assert [item.code for item in found.findings["db"]] == ["LM2512", "LM2513"]


def test_without_any_list_of_workloads_the_label_app_is_assumed_and_said() -> None:
    found = compile_istio(trees.tree([{"id": "r", "effect": "allow", "from": ["any"]}]), TD, {})
    assert "app: db" in dict(found.files)["limen-db.yaml"]
    assert {item.code for item in found.findings["db"]} == {"LM2512"}
    assert any("`app: db`" in str(item.facts["reason"]) for item in found.findings["db"])
    # a label that fits nothing opens nothing
    assert "limen-default-deny.yaml" in dict(found.files)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"when": {"hours": {"tz": "UTC", "from": "08:00", "to": "18:00"}}}, "no hours"),
        ({"to": [{"paths": ["/a/{x:int}"]}]}, "typed segments"),
        ({"to": [{"hosts": ["*.corp.test"]}]}, "one label"),
        ({"to": [{"paths": ["/%C3%A9"]}]}, "encoded bytes"),
        ({"when": {"forwarded_ip": ["10.0.0.0/8"]}}, "forwarded address"),
        ({"when": {"claims": {"issuer": "https://idp.test", "level": [3]}}}, "text"),
    ],
)
def test_what_istio_cannot_say_is_refused_by_name_in_an_allow_and_grows_in_a_deny(rule, reason) -> None:
    allow = compile_istio(trees.tree([{"id": "r", "effect": "allow", "from": ["any"], **rule}]), TD, WORKLOADS)
    (refused,) = (item for item in allow.findings["db"] if item.code == "LM2510")
    assert reason in refused.message
    assert "r" in str(refused.facts["what"])
    deny = compile_istio(
        trees.tree(
            [{"id": "a", "effect": "allow", "from": ["any"]}, {"id": "r", "effect": "deny", "from": ["any"], **rule}]
        ),
        TD,
        WORKLOADS,
    )
    assert [item.code for item in deny.findings["db"] if reason in item.message] == ["LM2511"]


def test_a_deny_of_a_host_holds_for_every_spelling_of_it() -> None:
    found, _ = applied(
        trees.tree(
            [
                {"id": "a", "effect": "allow", "from": ["any"]},
                {"id": "d", "effect": "deny", "from": ["any"], "to": [{"ports": [8080], "hosts": ["db.corp.test"]}]},
            ]
        )
    )
    assert "db.corp.test:*" in dict(found.files)["limen-db.yaml"]
