"""Lints say only what is sure."""

# ruff: noqa: E501  a table reads best with one case a line
import dataclasses
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.flow import Flow
from mesh.request import Effect, Request
from mesh.spiffe import SpiffeId
from policyengine import reference
from policyengine.compile.allowed import INVALID_TOKEN
from policyengine.issuer import Issuer
from policyengine.lint import lint, lint_tree
from policyengine.model import Group, Policy, PolicySet, Principal, Rule
from policyengine.usage import Known
from tests.examples import examples
from tests.policyengine.corners import (
    ADMIN,
    CART,
    CLAIM_ADMIN,
    FUTURE,
    NOW,
    PAST,
    ROLE_ADMIN,
    TD,
    WEB,
    allow,
    ask,
    deny,
    go_on,
    grant,
    tree,
)
from tests.policyengine.strategies import policy_sets, requests

IDP = Issuer(name="idp", owner="x", issuer="https://idp.test", audiences=("shop",), jwks_uri="https://idp.test/keys")


def codes(policies: PolicySet) -> set[str]:
    owned = tuple(dataclasses.replace(item, owner="x") for item in policies.policies)
    only_db = tuple(dataclasses.replace(item, owner="x") for item in policies.services if item.name == "db")
    declared = dataclasses.replace(policies, policies=owned, services=only_db, issuers=(IDP,))
    return {item.code for item in lint(declared, NOW)}


PLAIN = {"from": [CART]}


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param(tree(app=[allow(**PLAIN)]), set(), id="clean"),
        pytest.param(tree(), {"LM2101"}, id="service-without-allow"),
        pytest.param(tree(app=[allow()]), {"LM2108"}, id="allow-any"),
        pytest.param(tree(app=[allow(**{"from": [f"{TD}/**"]})]), {"LM2108"}, id="allow-trust-domain"),
        pytest.param(tree(app=[allow(**PLAIN)], observe=FUTURE), {"LM2109"}, id="observe"),
        pytest.param(tree(guardrail=[allow(**PLAIN)]), {"LM2110"}, id="guardrail-allow"),
        pytest.param(tree(baseline=[allow(**{"from": [WEB]}), go_on(**PLAIN)]), {"LM2107"}, id="pass-in-baseline"),
        pytest.param(tree(app=[allow(**PLAIN), deny(when=ROLE_ADMIN, **PLAIN)]), {"LM2105"}, id="deny-on-header"),
        pytest.param(tree(app=[allow(**PLAIN), deny(when=CLAIM_ADMIN, **PLAIN)]), {"LM2105"}, id="deny-on-claims"),
        pytest.param(tree(app=[allow(**PLAIN), deny(unless={"when": CLAIM_ADMIN}, **PLAIN)]), set(), id="deny-unless-claims"),
        pytest.param(tree(app=[allow(**PLAIN), deny()]), {"LM2104"}, id="allow-under-deny"),
        pytest.param(tree(app=[allow(**PLAIN), go_on()]), {"LM2104"}, id="allow-under-pass"),
        pytest.param(tree(app=[allow(**PLAIN), deny(to=[{"paths": ["/a"]}])]), set(), id="allow-partly-under-deny"),
        pytest.param(tree(app=[allow(**PLAIN, to=[{"paths": ["/a/{x:int}"]}]), deny(to=[{"paths": ["/a/**"]}])]), {"LM2104"}, id="path-under-subtree"),
        pytest.param(tree(app=[allow(**PLAIN, to=[{"paths": ["/a"]}]), deny(to=[{"paths": ["/a/**"]}])]), set(), id="path-beside-subtree"),
        pytest.param(tree(app=[allow(**PLAIN)], baseline=[allow(**PLAIN)]), {"LM2111"}, id="later-tier"),
        pytest.param(tree(app=[allow(**PLAIN), go_on(when=ROLE_ADMIN, **PLAIN)], baseline=[allow(**PLAIN)]), set(), id="later-tier-behind-a-pass"),
        pytest.param(tree(app=[allow(id="a", **PLAIN), allow(id="b", **PLAIN)]), {"LM2106"}, id="duplicate"),
        pytest.param(tree(app=[allow(id="a", **PLAIN, to=[{"paths": ["/**"]}])], baseline=[deny(**PLAIN, to=[{"paths": ["/x"]}])]), {"LM2112"}, id="deny-behind-allow-still-holds-for-unknown-paths"),
        pytest.param(tree(app=[allow(**{"from": [f"{TD}/ns/shop/**"]})]), {"LM2113"}, id="allow-anything-to-a-namespace"),
        pytest.param(tree(app=[allow(**{"from": [f"{TD}/ns/shop/**"]}, to=[{"methods": ["GET"]}])]), set(), id="namespace-with-methods"),
        pytest.param(tree(app=[allow(**PLAIN, to=[{"paths": ["/p.S/M"]}])], ports=[(9000, "grpc")]), {"LM2126"}, id="grpc-request"),
        pytest.param(tree(app=[allow(**PLAIN, to=[{"ports": [9000]}])], ports=[(9000, "grpc")]), set(), id="grpc-caller"),
        pytest.param(tree(app=[allow(**{"from": [f"{TD}/ns/shop/**"]})], ports=[(5432, "tcp")]), set(), id="namespace-on-tcp"),
        pytest.param(tree(app=[allow(**PLAIN)], observe=PAST), {"LM2115"}, id="observe-ended"),
        pytest.param(tree(app=[allow(**PLAIN)], exceptions=[{**grant(PAST), "owner": "x"}]), {"LM2114"}, id="exception-ended"),
        pytest.param(tree(app=[allow(**PLAIN)], exceptions=[{**grant(FUTURE, **{"from": [WEB]}), "owner": "x"}]), set(), id="exception-that-holds"),
        pytest.param(tree(app=[allow(**PLAIN, unless={"from": [f"{TD}/ns/**"]}), allow(**{"from": [WEB]})]), {"LM2123"}, id="unless-takes-everybody"),
    ],
)  # fmt: skip
def test_lint(policies: PolicySet, expected: set[str]) -> None:
    assert codes(policies) == expected


@pytest.mark.parametrize(("effect", "code"), [(Effect.ALLOW, "LM2102"), (Effect.DENY, "LM2103")])
def test_groups_that_resolve_to_nobody(effect: Effect, code: str) -> None:
    rule = Rule(id="r", effect=effect, from_=(Principal.parse("group:g"),))
    policies = dataclasses.replace(
        tree(app=[allow(**PLAIN)]),
        groups=(Group(name="g", owner="", members=()),),
        policies=(
            *tree(app=[allow(**PLAIN)]).policies,
            Policy(name="p", owner="", service="db", tier="app", rules=(rule,)),
        ),
    )
    assert codes(policies) == {code}


def test_owners_are_asked_for() -> None:
    found = lint(tree(app=[allow(**PLAIN)]), NOW)
    assert {(item.code, item.facts["name"]) for item in found if item.code == "LM2100"} == {
        ("LM2100", "web"),
        ("LM2100", "app-db"),
    }


# INVARIANT: a rule that is called shadowed never decides.
@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets, st.lists(requests, min_size=4, max_size=4))
def test_what_is_called_shadowed_never_decides(policies: PolicySet, asked: list[Request]) -> None:
    shadowed = {
        (item.facts["policy"], item.facts["rule"]) for item in lint(policies, NOW) if item.code in {"LM2104", "LM2111"}
    }
    for request in asked:
        found = reference.decide(policies, request, snapshot="s")
        if found.rule and request.source is not None and "source" not in request.unknown and request.port != 1:
            assert (found.policy, found.rule) not in shadowed or found.code == "LM2304" or _nobody(request)


def _nobody(request: Request) -> bool:
    return reference.decide(tree(app=[allow()]), ask(source=request.source), snapshot="").code == "LM2303"


def test_lint_tree_stops_at_errors(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.yaml").write_text("kind: Policy\n")
    assert {item.code for item in lint_tree(tmp_path, NOW).findings} == {"LM2003"}


OWNED = """\
apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: o}
spec: {identities: ["spiffe://corp.test/ns/shop/sa/db"], ports: [{port: 8080, protocol: http}]}
---
apiVersion: limen.dev/v1
kind: Policy
metadata:
  name: p
  owner: o
  suppress: [%s]
spec:
  service: db
  tier: app
  rules:
  - {id: wide, effect: allow, from: [any], to: [{methods: [GET]}]}
  - {id: narrow, effect: allow, from: ["spiffe://corp.test/ns/shop/sa/cart"], to: [{methods: [GET], paths: ["/a"]}]}
"""


@pytest.mark.parametrize(
    ("suppress", "left", "accepted"),
    [
        ("", {"LM2108", "LM2106"}, set()),
        ('{code: LM2108, reason: public, until: "2099-01-01"}', {"LM2106"}, {"LM2108"}),
        ('{code: LM2106, reason: r, until: "2099-01-01", rule: narrow}', {"LM2108"}, {"LM2106"}),
        ('{code: LM2106, reason: r, until: "2099-01-01", rule: wide}', {"LM2106", "LM2108", "LM2121"}, set()),
        ('{code: LM2108, reason: public, until: "2020-01-01"}', {"LM2106", "LM2108", "LM2120"}, set()),
        ('{code: LM2119, reason: quarterly, until: "2099-01-01"}', {"LM2106", "LM2108"}, set()),
    ],
    ids=["none", "of-a-document", "of-a-rule", "of-another-rule", "ended", "not-looked-for"],
)
def test_suppressions_stand_in_the_document(
    tmp_path: pathlib.Path, suppress: str, left: set[str], accepted: set[str]
) -> None:
    text = OWNED % suppress if suppress else OWNED.replace("  suppress: [%s]\n", "")
    (tmp_path / "x.yaml").write_text(text)
    report = lint_tree(tmp_path, NOW)
    assert {item.code for item in report.findings} == left
    assert {item.finding.code for item in report.accepted} == accepted


def test_a_finding_names_the_rule_that_decides_instead_with_file_and_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.yaml").write_text(OWNED.replace("  suppress: [%s]\n", ""))
    found = next(item for item in lint_tree(tmp_path, NOW).findings if item.code == "LM2106")
    assert found.span is not None
    assert found.span.line == 16
    assert f"`p/wide` ({tmp_path / 'x.yaml'}:15)" in found.message
    assert "delete the rule" in found.help


KNOWN = Known([SpiffeId.parse(CART), SpiffeId.parse(f"{TD}/ns/shop/sa/db")])


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param(tree(app=[allow(**PLAIN)]), set(), id="known"),
        pytest.param(tree(app=[allow(**{"from": [f"{TD}/ns/shop/**"]}, to=[{"methods": ["GET"]}])]), set(), id="known-below"),
        pytest.param(tree(app=[allow(**{"from": [ADMIN]})]), {"LM2116"}, id="nobody"),
        pytest.param(tree(app=[allow(**{"from": [f"{TD}/ns/ops/**"]}, to=[{"methods": ["GET"]}])]), {"LM2116"}, id="nobody-below"),
        pytest.param(tree(app=[allow(**{"from": [CART, ADMIN]})]), {"LM2117"}, id="some"),
        pytest.param(tree(app=[allow(**{"from": ["group:g"]})], groups={"g": [ADMIN]}), {"LM2116"}, id="group"),
        pytest.param(tree(app=[allow(**PLAIN), deny(**{"from": [f"{TD}/ns/ops/**"]}, to=[{"methods": ["GET"]}])]), set(), id="deny-as-a-precaution"),
        pytest.param(tree(app=[allow(**PLAIN), deny(**{"from": [ADMIN]})]), {"LM2116"}, id="deny-of-a-slip"),
    ],
)  # fmt: skip
def test_rules_for_workloads_that_nobody_knows(policies: PolicySet, expected: set[str]) -> None:
    owned = tuple(dataclasses.replace(item, owner="x") for item in policies.policies)
    only_db = tuple(item for item in policies.services if item.name == "db")
    found = lint(dataclasses.replace(policies, policies=owned, services=only_db), NOW, known=KNOWN)
    assert {item.code for item in found} == expected


def test_a_service_that_nobody_is(tmp_path: pathlib.Path) -> None:
    found = lint(tree(app=[allow(**PLAIN)]), NOW, known=KNOWN)
    assert {item.facts["service"] for item in found if item.code == "LM2118"} == {"web"}


def flow(**fields: object) -> Flow:
    plain: dict[str, object] = {
        "start": NOW, "source": CART, "destination": f"{TD}/ns/shop/sa/db", "destination_port": 8080,
        "protocol": "http", "method": "GET", "path": "/orders",
    }  # fmt: skip
    return Flow(**{**plain, **fields})  # type: ignore[arg-type]  # fields of Flow


def test_allows_that_no_recorded_request_can_have_used() -> None:
    policies = tree(
        app=[
            allow(id="used", **PLAIN, to=[{"paths": ["/orders"]}]),
            allow(id="idle", **PLAIN, to=[{"paths": ["/refunds"]}]),
            deny(id="quiet", **{"from": [WEB]}),
            allow(id="maybe", **PLAIN, to=[{"paths": ["/orders"], "hosts": ["x.test"]}], when=ROLE_ADMIN),
        ]
    )
    found = [item for item in lint(policies, NOW, flows=[flow(), flow()]) if item.code == "LM2119"]
    assert [item.facts["rule"] for item in found] == ["idle"]
    assert all(item.code != "LM2119" for item in lint(policies, NOW))


@pytest.mark.parametrize(
    ("issuers", "expected"),
    [
        ((), [""]),
        ((dataclasses.replace(IDP, issuer="https://elsewhere.example"),), [""]),
        ((dataclasses.replace(IDP, issuer="https://idp.test/"),), ["; did you mean `https://idp.test/`?"]),
        ((IDP,), []),
    ],
    ids=["none", "another", "a-likely-one", "declared"],
)
def test_an_issuer_that_a_rule_names_is_declared(issuers: tuple[Issuer, ...], expected: list[str]) -> None:
    for rule in (allow(when=CLAIM_ADMIN, **PLAIN), deny(unless={"when": CLAIM_ADMIN}, **PLAIN)):
        policies = dataclasses.replace(tree(app=[rule]), issuers=issuers)
        found = [item for item in lint(policies, NOW) if item.code == "LM2127"]
        assert [item.facts["hint"] for item in found] == expected
        assert all(item.facts["issuer"] == "https://idp.test" for item in found)


@pytest.mark.parametrize("issuer", ["authzen:user", INVALID_TOKEN])
def test_what_is_no_issuer_is_declared_nowhere(issuer: str) -> None:
    when = {"claims": {"issuer": issuer, "role": ["editor"]}}
    policies = dataclasses.replace(tree(app=[allow(when=when, **PLAIN)]), issuers=(IDP,))
    assert "LM2127" not in {item.code for item in lint(policies, NOW)}
