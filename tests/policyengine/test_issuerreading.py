"""`Issuer` documents: what is taken, what is refused, and that both ways round they are the same."""

import dataclasses
import json
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from mesh.spiffe import TrustDomain
from policyengine.issuer import Issuer
from policyengine.issuerreading import issuer_to_json, read_issuer
from policyengine.loader import load_text
from policyengine.ownership import touched_services
from policyengine.reading import Reader
from policyengine.snapshot import Snapshot
from policyengine.wire import read_policy_set
from tests.ca.attestation.issuers import EC_KEY, RSA_KEY, jwk, key_set
from tests.policyengine.corners import CLAIM_ADMIN, allow, tree

URI = "https://idp.test/keys"
PEM = trustme.CA().cert_pem.bytes().decode()
PLAIN: dict[str, Any] = {"issuer": "https://idp.test", "audiences": ["shop"], "jwks_uri": URI}
INLINE = {"issuer": "i", "audiences": ["a"], "keys": json.loads(key_set())}


def read(spec: object) -> tuple[Issuer | None, list[str]]:
    reader = Reader()
    found = read_issuer(reader, "idp", "sec", spec, ())
    return found, [item.code for item in reader.findings]


@pytest.mark.parametrize(
    "spec",
    [
        PLAIN,
        INLINE,
        {**PLAIN, "ca": PEM},
        {**PLAIN, "algorithms": ["ES256"], "leeway": 0, "bind": ["certificate", "actor"]},
        {**PLAIN, "jwks_uri": "http://127.0.0.1:8080/keys?x=1"},
        {**PLAIN, "jwks_uri": "http://localhost/"},
        {**PLAIN, "jwks_uri": "https://[2001:db8::1]:8443/keys"},
    ],
    ids=["plain", "inline", "ca", "all", "loopback", "localhost", "ipv6"],
)
def test_an_issuer_is_read_and_written(spec: dict[str, Any]) -> None:
    found, codes = read(spec)
    assert codes == []
    assert found is not None
    again, _ = read(issuer_to_json(found))
    assert again == found


@pytest.mark.parametrize("leeway", [30, "30s", 60, "0s"])
def test_a_leeway_is_in_seconds(leeway: object) -> None:
    found, codes = read({**PLAIN, "leeway": leeway})
    assert codes == []
    assert found is not None
    assert found.leeway_s == int(str(leeway).rstrip("s"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"issuer": ""}, "LM2060", id="no-issuer"),
        pytest.param({"issuer": 7}, "LM2004", id="issuer-is-a-number"),
        pytest.param({"audiences": []}, "LM2005", id="no-audience"),
        pytest.param({"audiences": [""]}, "LM2060", id="empty-audience"),
        pytest.param({"jwks_uri": "http://idp.test/keys"}, "LM2060", id="http"),
        pytest.param({"jwks_uri": "http://127.0.0.1.evil.test/"}, "LM2060", id="http-of-a-loopback-look-alike"),
        pytest.param({"jwks_uri": "http://127.0.0.1@evil.test/"}, "LM2060", id="user"),
        pytest.param({"jwks_uri": "https://idp.test/#x"}, "LM2060", id="fragment"),
        pytest.param({"jwks_uri": "file:///etc/passwd"}, "LM2060", id="file"),
        pytest.param({"jwks_uri": "/etc/passwd"}, "LM2060", id="path"),
        pytest.param({"jwks_uri": "https://"}, "LM2060", id="no-host"),
        pytest.param({"jwks_uri": "https://idp.test:0/"}, "LM2060", id="port"),
        pytest.param({"jwks_uri": "https://idp.test:99999/"}, "LM2060", id="large-port"),
        pytest.param({"jwks_uri": "https://idp.test/a b"}, "LM2060", id="space"),
        pytest.param({"jwks_uri": "https://idp.test/a\r\nx: y"}, "LM2053", id="line-break"),
        pytest.param({"keys": {"keys": [jwk(RSA_KEY, "a")]}}, "LM2060", id="both"),
        pytest.param({"ca": "x"}, "LM2060", id="ca-is-no-pem"),
        pytest.param({"ca": PEM + "x"}, "LM2060", id="more-than-pem"),
        pytest.param({"algorithms": []}, "LM2005", id="no-algorithm"),
        pytest.param({"algorithms": ["HS256"]}, "LM2009", id="A43-shared-secret"),
        pytest.param({"algorithms": ["none"]}, "LM2009", id="A43-none"),
        pytest.param({"leeway": 61}, "LM2060", id="leeway"),
        pytest.param({"leeway": "5m"}, "LM2060", id="minutes"),
        pytest.param({"leeway": True}, "LM2060", id="leeway-is-true"),
        pytest.param({"bind": ["tls"]}, "LM2009", id="another-binding"),
    ],
)  # fmt: skip
def test_an_issuer_that_could_be_overheard_or_verifies_too_much_is_refused(change: dict[str, Any], code: str) -> None:
    found, codes = read({**PLAIN, **change})
    assert found is None
    assert code in codes


def test_a_field_that_nobody_knows_is_a_finding() -> None:
    assert read({**PLAIN, "jwks_url": URI})[1] == ["LM2002"]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"keys": []},
        {"keys": [{"kty": "oct", "k": "AA", "kid": "a"}]},
        {"keys": [jwk(EC_KEY, "a"), {"kty": "oct", "k": "AA"}]},
        {"keys": [jwk(EC_KEY, "a"), jwk(RSA_KEY, "a")]},
        {"keys": [{**jwk(EC_KEY, "a"), "d": "AA"}]},
        [],
    ],
    ids=["none", "empty", "secret", "one-is-secret", "kid-twice", "private", "list"],
)
def test_inline_keys_are_public_keys_for_signatures(keys: object) -> None:
    found, codes = read({**INLINE, "keys": keys})
    assert found is None
    assert codes


_FIELDS = st.sampled_from(("issuer", "audiences", "jwks_uri", "keys", "ca", "bind", "leeway"))
_PLAIN = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(_PLAIN, lambda inner: st.lists(inner) | st.dictionaries(_FIELDS, inner)))
def test_whatever_stands_there_is_read_or_refused(spec: object) -> None:
    found, codes = read(spec)
    assert found is not None or codes


DOCUMENT = """apiVersion: limen.dev/v1
kind: Issuer
metadata: {name: NAME, owner: sec}
spec: {issuer: https://idp.test, audiences: [shop], jwks_uri: https://idp.test/keys}
---
"""


def test_a_tree_has_issuers_and_each_once() -> None:
    policies, found = load_text(DOCUMENT.replace("NAME", "idp"), "f.yaml")
    assert found == []
    assert [item.issuer for item in policies.issuers] == ["https://idp.test"]
    assert read_policy_set(policies.to_json()).issuers == policies.issuers
    _, found = load_text(DOCUMENT.replace("NAME", "a") + DOCUMENT.replace("NAME", "b"), "f.yaml")
    assert [item.code for item in found] == ["LM2061"]


def test_another_issuer_touches_every_service() -> None:
    before = tree(app=[allow(when=CLAIM_ADMIN)])
    issuer, _ = read(PLAIN)
    assert issuer is not None
    after = dataclasses.replace(before, issuers=(issuer,))
    domain = TrustDomain("corp.test")
    snapshots = [Snapshot(trust_domain=domain, policies=found, reviewer_set="r") for found in (before, after)]
    assert touched_services(*snapshots) == {"db", "web"}
    assert Snapshot.from_bytes(snapshots[1].content).policies == after
