"""Policies out to Envoy: its documented matcher decides as Limen does, or stricter where the report says so.

`tests/limen/test_envoy.py` holds a real Envoy to the same.
"""

from __future__ import annotations

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from mesh.spiffe import SpiffeId
from policyengine import model
from policyengine.compile.envoy import CANONICAL, OTHER_CASE, TCP_SPEAKS_FIRST, compile_envoy, ports_of
from policyengine.compile.export import Findings, Workload
from policyengine.decide import Index
from tests.examples import examples
from tests.policyengine.strategies import policy_sets, requests
from tests.policyengine.targets import trees
from tests.policyengine.targets.envoy import decide, inputs_of
from tests.policyengine.targets.wire import Call

DB = SpiffeId.parse("spiffe://corp.test/ns/shop/sa/db")
AGENT = "/run/limen/agent.sock"
ALWAYS = (CANONICAL, TCP_SPEAKS_FIRST)


def matchers(policies: model.PolicySet, name: str = "db"):
    """The matcher of each port, and what the report says beside what it always says."""
    findings = Findings(name)
    ports = {port.port: port for port in ports_of(policies, policies.service_for(name), findings)}
    said = [item for item in findings.all() if item.code != "LM2512" and item.facts["reason"] not in ALWAYS]
    return ports, said


# INVARIANT: Envoy never allows what Limen denies, and names the same rule for what it allows.
@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(policy_sets, st.lists(requests, min_size=10, max_size=10))
def test_no_policy_allows_more_there(policies: model.PolicySet, some) -> None:
    index = Index(policies, "s")
    ports, _ = matchers(policies)
    for request in some:
        if request.service == "nothing" or request.port not in ports or request.source is None:
            continue
        if request.peer_ip in {None, "x"} or request.unknown:
            continue
        if ports[request.port].protocol != "tcp" and None in {request.path, request.method, request.host}:
            continue
        # two Hosts never come to the matcher: Envoy refuses them first, which tests/limen/test_envoy.py shows
        if any(field.lower() == "host" for field, _ in request.headers):
            continue
        name, action = decide(ports[request.port].matcher, inputs_of(request))
        if action == "ALLOW":
            ours = index.decide(request)
            if request.protocol == "tcp" and ports[request.port].protocol != "tcp":
                continue
            assert ours.policy_effect is Effect.ALLOW, request
            # exceptions are not exported; where one allows beside a rule, Limen names the exception
            assert name == f"{ours.tier}/{ours.policy}/{ours.rule}" or ours.rule == "exception"


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(trees.policy_sets, st.lists(trees.calls, min_size=1, max_size=20))
def test_what_is_said_in_full_decides_alike_under_the_same_names(policies: model.PolicySet, some) -> None:
    index = Index(policies, "s")
    ports, said = matchers(policies)
    for call in some:
        request = call.request("db")
        if request.source is None:
            continue
        name, action = decide(ports[request.port].matcher, inputs_of(request))
        ours = index.decide(request)
        assert action == "DENY" or ours.policy_effect is Effect.ALLOW, call
        if not said:
            assert (action == "ALLOW") == ours.is_allowed, call
            assert name == (f"{ours.tier}/{ours.policy}/{ours.rule}" if ours.rule else ours.code), call


REFUSED = [
    ({"claims": {"issuer": "https://idp.test", "roles": ["admin"]}}, "verifies tokens"),
    ({"hours": {"tz": "UTC", "from": "08:00", "to": "18:00"}}, "knows no hours"),
    ({"rego": "data.shop.extra"}, "evaluates no Rego"),
    ({"forwarded_ip": ["10.0.0.0/8"]}, "forwarded address"),
    ({"headers": {"x-forwarded-proto": ["https"]}}, "sets or changes the header"),
]


@pytest.mark.parametrize(("when", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_an_allow_that_hangs_on_what_envoy_cannot_know_is_refused_and_a_deny_is_larger(when, reason) -> None:
    rules = [
        {"id": "a", "effect": "allow", "from": ["any"], "to": [{"paths": ["/a"]}], "when": when},
        {"id": "d", "effect": "deny", "from": ["any"], "to": [{"ports": [8080], "paths": ["/b"]}], "when": when},
        {"id": "u", "effect": "allow", "from": ["any"], "to": [{"paths": ["/c"]}], "unless": {"when": when}},
        {"id": "all", "effect": "allow", "from": ["any"], "to": [{"paths": ["/b"]}]},
    ]
    ports, said = matchers(trees.tree(rules))
    assert sorted((item.code, item.facts["what"]) for item in said) == [
        ("LM2510", "p-app/a"), ("LM2510", "p-app/u"), ("LM2511", "p-app/d")
    ]  # fmt: skip
    assert all(reason in str(item.facts["reason"]) for item in said)
    found = [
        decide(ports[8080].matcher, inputs_of(Call(caller=trees.CALLERS[0], path=path).request("db")))
        for path in ("/a", "/b", "/c")
    ]
    assert found == [("LM2302", "DENY"), ("app/p-app/d", "DENY"), ("LM2302", "DENY")]


def test_a_header_that_envoy_refuses_is_one_that_no_request_has() -> None:
    when = {"headers": {"x_role": ["a"]}}
    rules = [
        {"id": "a", "effect": "allow", "from": ["any"], "to": [{"paths": ["/a"]}], "when": when},
        {"id": "u", "effect": "allow", "from": ["any"], "to": [{"paths": ["/c"]}], "unless": {"when": when}},
    ]
    ports, said = matchers(trees.tree(rules))
    assert [(item.code, item.facts["what"]) for item in said] == [("LM2510", "p-app/a")]
    call = Call(caller=trees.CALLERS[0], path="/c")
    assert decide(ports[8080].matcher, inputs_of(call.request("db"))) == ("app/p-app/u", "ALLOW")
    other = Call(caller=trees.CALLERS[0], path="/c", headers=(("x-role", "a"),))
    assert decide(ports[8080].matcher, inputs_of(other.request("db"))) == ("LM2304", "DENY")


def test_a_service_that_is_observed_or_ignores_case_is_said_to_be_stricter() -> None:
    import dataclasses
    import datetime as dt

    base = trees.tree([{"id": "a", "effect": "allow", "from": ["any"]}])
    changed = dataclasses.replace(
        base.services[0],
        path_case="insensitive",
        mode=model.Mode.OBSERVE,
        until=dt.datetime(2030, 1, 1, tzinfo=dt.UTC),
    )
    _, said = matchers(dataclasses.replace(base, services=(changed, *base.services[1:])))
    assert [item.code for item in said] == ["LM2511", "LM2511"]
    assert [str(item.facts["reason"]) for item in said][1] == OTHER_CASE


def exported(*rules, ports=((8080, "http"), (9000, "grpc"), (5432, "tcp")), workloads=None):
    found = compile_envoy(trees.tree(list(rules), ports=ports), workloads or {}, AGENT)
    return dict(found.files)["limen-db.yaml"], found.findings["db"]


ALLOW = {"id": "a", "effect": "allow", "from": ["any"]}


def test_a_file_is_yaml_that_says_what_it_does_not_say() -> None:
    text, findings = exported(
        ALLOW, {**ALLOW, "id": "h", "when": {"hours": {"tz": "UTC", "from": "08:00", "to": "18:00"}}}
    )
    body = yaml.load(text, yaml.CSafeLoader)
    assert {item["name"] for item in body["static_resources"]["listeners"]} == {
        "db-5432-0.0.0.0", "db-8080-0.0.0.0", "db-9000-0.0.0.0"
    }  # fmt: skip
    head = [line for line in text.splitlines() if line.startswith("#")]
    for item in findings:
        assert f"#   {item.code}: {item.message}" in head
    assert any("LM2510" in line and "knows no hours" in line for line in head)


def test_listeners_are_where_the_list_of_workloads_says() -> None:
    text, findings = exported(ALLOW, workloads={DB: Workload(addresses=("10.0.0.7", "fd00::7"))})
    listeners = yaml.load(text, yaml.CSafeLoader)["static_resources"]["listeners"]
    where = {
        (item["address"]["socket_address"]["address"], item["address"]["socket_address"]["port_value"])
        for item in listeners
    }
    assert where == {(host, port) for host in ("10.0.0.7", "fd00::7") for port in (5432, 8080, 9000)}
    assert not any("has no address" in item.message for item in findings)


def test_every_listener_takes_our_svids_alone_and_has_its_own_by_sds() -> None:
    text, _ = exported(ALLOW)
    for item in yaml.load(text, yaml.CSafeLoader)["static_resources"]["listeners"]:
        (chain,) = item["filter_chains"]
        context = chain["transport_socket"]["typed_config"]
        assert context["require_client_certificate"] is True
        common = context["common_tls_context"]
        assert common["tls_certificate_sds_secret_configs"][0]["name"] == str(DB)
        assert common["validation_context_sds_secret_config"]["name"] == "ALL"
        assert common["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_3"


def test_rules_of_envoys_own_are_in_no_file() -> None:
    text, _ = exported(
        ALLOW, {"id": "d", "effect": "deny", "from": ["any"], "to": [{"ports": [8080], "paths": ["/x"]}]}
    )
    assert '"rules"' not in text
    assert '"matcher_tree"' in text


def test_what_would_be_too_large_denies_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.compile.envoymatch.MAX_NODES", 1)
    ports, said = matchers(trees.tree([{**ALLOW, "to": [{"paths": ["/a"]}]}]))
    assert [item.code for item in said] == ["LM2513"]
    name, action = decide(ports[8080].matcher, inputs_of(Call(caller=trees.CALLERS[0], path="/a").request("db")))
    assert (name, action) == ("LM2302", "DENY")


def test_one_tree_gives_one_text() -> None:
    assert exported(ALLOW) == exported(ALLOW)
