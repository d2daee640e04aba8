"""Every object that is exported is one to the mesh that it is for: its own definitions, and its own types."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.spiffe import SpiffeId, TrustDomain
from policyengine.compile.cilium import compile_cilium
from policyengine.compile.consul import compile_consul
from policyengine.compile.export import Workload
from policyengine.compile.istio import compile_istio
from tests.examples import examples
from tests.policyengine.targets import schemas, trees
from tests.policyengine.targets.shapes import CONSUL_WORKLOADS, on_one_port

TD = TrustDomain("corp.test")
WORKLOADS = {SpiffeId.parse("spiffe://corp.test/ns/shop/sa/db"): Workload(labels=(("app", "db"),))}
ANY = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(autouse=True)
def _needs_schemas() -> None:
    schemas.folder()


def rows_of(files):
    return [row for _, text in files for row in yaml.safe_load_all(text)]


@settings(max_examples=examples(12), **ANY)
@given(trees.policy_sets | trees.l4_sets)
def test_what_is_written_for_istio_is_valid_to_its_definitions(policies) -> None:
    for row in rows_of(compile_istio(policies, TD, WORKLOADS).files):
        schemas.validate(row, "istio")


@settings(max_examples=examples(12), **ANY)
@given(trees.policy_sets | trees.l4_sets)
def test_what_is_written_for_cilium_is_valid_to_its_definitions(policies) -> None:
    for row in rows_of(compile_cilium(policies, TD).files):
        schemas.validate(row, "cilium")


@settings(max_examples=examples(3), **ANY)
@given(st.lists(trees.policy_sets.map(on_one_port), min_size=4, max_size=12))
def test_what_is_written_for_consul_has_the_fields_of_its_own_types(sets) -> None:
    entries = [text for found in sets for _, text in compile_consul(found, TD, CONSUL_WORKLOADS).files]
    assert schemas.consul_says(entries) == ["ok"] * len(entries)


ISTIO = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "a", "namespace": "b"},
    "spec": {"action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]},
}


@pytest.mark.parametrize(
    "spec",
    [
        {"action": "PERMIT"},
        {"rules": [{"to": [{"operation": {"method": ["GET"]}}]}]},
        {"rules": [{"to": [{"operation": {"methods": "GET"}}]}]},
        {"rule": []},
    ],
    ids=["no-such-action", "no-such-field", "no-list", "no-such-field-above"],
)
def test_an_object_that_is_none_is_found(spec) -> None:
    schemas.validate(ISTIO, "istio")
    with pytest.raises(jsonschema.ValidationError):
        schemas.validate({**ISTIO, "spec": spec}, "istio")


def test_an_entry_that_is_none_to_consul_is_found() -> None:
    good = {"Kind": "service-intentions", "Name": "db", "Sources": [{"Name": "web", "Action": "allow"}]}
    bad = {**good, "Sources": [{"Name": "web", "Actions": "allow"}]}
    other = {"Kind": "service-defaults", "Name": "db", "Protocol": "http"}
    answers = schemas.consul_says([json.dumps(entry) for entry in (good, bad, other)])
    assert answers[0] == "ok"
    assert "unknown field" in answers[1]
    assert "service-defaults" in answers[2]
