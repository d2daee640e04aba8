"""Who is given which bundle of another trust domain: what rules and policies name, and no more."""

import datetime as dt
import pathlib

import pytest

from enforcer.federated import Federated, given_to, named_domains
from enforcer.identity import Identity
from mesh.bundle import TrustBundle
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.x509svid import X509Svid
from policyengine.loader import load_text
from policyengine.model import PolicySet
from tests.pki import NOW, Pki

OWN = TrustDomain.parse("a.test")


def bundle(name: str) -> TrustBundle:
    return TrustBundle(trust_domain=TrustDomain.parse(name), x509_authorities=(Pki(name).root.der,), sequence=3)


B, C = bundle("b.test"), bundle("c.test")
DOCUMENTS = {"b.test": B.to_json(), "c.test": C.to_json()}


def identity(path: str, *federates_with: str) -> Identity:
    svid = X509Svid(spiffe_id=SpiffeId.parse(f"spiffe://a.test{path}"), chain_der=(), key_pkcs8_der=b"", not_after=NOW)
    return Identity(
        svid=svid, rule="r", hint="", direct=False, renew_at=NOW + dt.timedelta(1), federates_with=federates_with
    )


def tree(text: str) -> PolicySet:
    found, findings = load_text(text, "tree.yaml")
    assert found is not None, findings
    return found


SERVICE = """
apiVersion: limen.dev/v1
kind: Service
metadata: {{name: {name}, owner: t}}
spec:
  identities: ["{identity}"]
  ports: [{{port: 8443, protocol: http}}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: {name}-p, owner: t}}
spec:
  service: {name}
  tier: app
  rules:
  - {{id: r, effect: {effect}, from: ["{source}"]}}
---
"""


def service(name: str, identity: str, source: str, effect: str = "allow") -> str:
    return SERVICE.format(name=name, identity=identity, source=source, effect=effect)


def test_takes_all_or_what_is_left_and_keeps_it_over_a_restart(tmp_path: pathlib.Path) -> None:
    found = Federated(tmp_path, OWN)
    assert found.every() == {}
    assert found.take(DOCUMENTS)
    assert not found.take(DOCUMENTS)
    assert Federated(tmp_path, OWN).every() == {"b.test": B, "c.test": C}
    assert found.take({"c.test": C.to_json()})
    assert found.every() == Federated(tmp_path, OWN).every() == {"c.test": C}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"b.test": 1}', '{"b.test": "x"}'], ids=range(5))
def test_a_file_that_cannot_be_read_believes_nobody(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "federated.json").write_text(text)
    assert Federated(tmp_path, OWN).every() == {}


def test_what_cannot_be_read_is_believed_no_longer_and_the_others_are(tmp_path: pathlib.Path) -> None:
    found = Federated(tmp_path, OWN)
    found.take(DOCUMENTS)
    assert found.take({"b.test": b'{"keys": [], "keys": []}', "c.test": C.to_json(), "NO": b"{}", "a.test": b"{}"})
    assert found.every() == {"c.test": C}


def test_our_own_domain_is_never_taken_from_there(tmp_path: pathlib.Path) -> None:
    found = Federated(tmp_path, OWN)
    assert not found.take({"a.test": bundle("a.test").to_json()})


def test_a_workload_is_given_what_its_rule_names() -> None:
    bundles = {"a.test": bundle("a.test"), "b.test": B, "c.test": C}
    assert set(given_to([identity("/x")], bundles)) == {"a.test"}
    assert set(given_to([identity("/x", "b.test", "z.test")], bundles)) == {"a.test", "b.test"}
    assert set(given_to([identity("/x", "b.test"), identity("/y", "c.test")], bundles)) == set(bundles)


def test_a_sidecar_is_given_what_its_policies_name_too(tmp_path: pathlib.Path) -> None:
    found = Federated(tmp_path, OWN)
    found.take(DOCUMENTS)
    policies = tree(service("db", "spiffe://a.test/db", "spiffe://b.test/**"))
    assert set(found.given(identity("/db"), policies)) == {"b.test"}
    assert set(found.given(identity("/db", "c.test"), policies)) == {"b.test", "c.test"}
    assert found.given(identity("/other"), policies) == {}
    assert found.given(identity("/db"), None) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(service("db", "spiffe://a.test/me", "spiffe://b.test/x"), {"b.test"}, id="called-by"),
        pytest.param(service("db", "spiffe://b.test/db", "spiffe://a.test/me"), {"b.test"}, id="may-call"),
        pytest.param(service("db", "spiffe://b.test/db", "any"), {"b.test"}, id="anybody-may-call"),
        pytest.param(service("db", "spiffe://a.test/me", "any"), set(), id="any-opens-nothing"),
        pytest.param(
            service("db", "spiffe://a.test/me", "spiffe://b.test/x", "deny"), set(), id="a-deny-opens-nothing"
        ),
        pytest.param(service("db", "spiffe://a.test/other", "spiffe://b.test/x"), set(), id="of-another-service"),
        pytest.param(service("db", "spiffe://b.test/db", "spiffe://a.test/other"), set(), id="others-may-call"),
    ],
)
def test_only_what_an_allow_names_together_with_the_workload(text: str, expected: set[str]) -> None:
    found = named_domains(tree(text), SpiffeId.parse("spiffe://a.test/me"))
    assert {str(item) for item in found} - {"a.test"} == expected


def test_groups_services_and_exceptions_count() -> None:
    text = (
        service("db", "spiffe://a.test/me", "group:partners")
        + "apiVersion: limen.dev/v1\nkind: Group\nmetadata: {name: partners, owner: t}\n"
        "spec: {members: ['spiffe://b.test/**', 'service:far']}\n---\n"
        + service("far", "spiffe://c.test/far", "spiffe://c.test/x")
        + "apiVersion: limen.dev/v1\nkind: Exception\nmetadata: {name: e, owner: t}\nspec:\n"
        "  rule: {service: db, from: ['spiffe://d.test/x']}\n  until: 2099-01-01T00:00:00Z\n  reason: r\n"
    )
    found = named_domains(tree(text), SpiffeId.parse("spiffe://a.test/me"))
    assert {str(item) for item in found} == {"b.test", "c.test", "d.test"}
