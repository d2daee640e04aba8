import datetime as dt
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority import NODE_LIFE, Authority, SvidOrder
from ca.issuance import IssuedSvid, WorkloadAsk, issue_node, issue_workload, issue_workloads, node_id
from ca.keys import KeyAlgorithm, SigningKey, generate, new_key, spki_der
from ca.mint import BACKDATING
from ca.registration import IdentityRule, Refusal, RuleSet, Selector
from ca.signing import OwnSigner, Signature
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.x509svid import verify_x509_svid
from tests.tools import needs

FACTS = {"unix:uid": ("1001",), "unix:basename": ("cart",)}
KEY = new_key()
SPKI = spki_der(KEY.public_key())


def rules(spiffe_id: str = "/ns/shop/sa/{unix:basename}", **more: object) -> RuleSet:
    match = (Selector.parse("unix:uid", "1001"),)
    return RuleSet(rules=(IdentityRule(id="shop", match=match, spiffe_id=spiffe_id, **more),))  # type: ignore[arg-type]


def issue(authority: Authority, now: dt.datetime, found: RuleSet, spki: bytes = SPKI) -> IssuedSvid | Refusal:
    return issue_workload(authority, found, facts=FACTS, spki=spki, node="n1", now=now)


def test_a_workload_gets_what_its_rule_says(authority: Authority, now: dt.datetime) -> None:
    found = issue(authority, now, rules(ttl=dt.timedelta(minutes=5), dns_names=("{unix:basename}.corp.test",)))
    assert isinstance(found, IssuedSvid)
    assert str(found.spiffe_id) == "spiffe://corp.test/ns/shop/sa/cart"
    assert found.entitlement is not None
    assert found.entitlement.rule == "shop"
    leaf = x509.load_der_x509_certificate(found.chain[0])
    assert leaf.serial_number == found.serial
    assert leaf.public_key() == KEY.public_key()
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (now, now + dt.timedelta(minutes=5)) or (
        leaf.not_valid_before_utc == now - BACKDATING
    )
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["cart.corp.test"]


def test_a_workload_without_a_rule_gets_nothing(authority: Authority, now: dt.datetime) -> None:
    found = issue(authority, now, RuleSet())
    assert isinstance(found, Refusal)
    assert found.code == "LM1210"


@pytest.mark.parametrize("path", ["/limen", "/limen/agent/n1", "/limen/{unix:basename}"])
def test_no_rule_gives_limens_own_identities(authority: Authority, now: dt.datetime, path: str) -> None:
    found = issue(authority, now, rules(path))
    assert isinstance(found, Refusal)
    assert found.code == "LM1231"


@pytest.mark.parametrize("path", ["/limens", "/limenx/agent/n1", "/ns/limen"])
def test_names_that_only_look_like_limens_are_free(authority: Authority, now: dt.datetime, path: str) -> None:
    assert isinstance(issue(authority, now, rules(path)), IssuedSvid)


@pytest.mark.parametrize("spki", [b"", SPKI[:-1], SPKI + b"\x00"], ids=["empty", "short", "long"])
def test_an_unfit_key_gets_nothing(authority: Authority, now: dt.datetime, spki: bytes) -> None:
    with pytest.raises(Invalid, match="LM1203"):
        issue(authority, now, rules(), spki)


def test_a_node_gets_a_short_lived_identity_of_its_own(authority: Authority, now: dt.datetime) -> None:
    found = issue_node(authority, name="n1", spki=SPKI, now=now)
    assert str(found.spiffe_id) == "spiffe://corp.test/limen/agent/n1"
    assert found.not_after == now + NODE_LIFE
    assert found.entitlement is None


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a/b", "a b", "a" * 64, "é", "a\n", "../x"])
def test_a_nodes_name_is_one_segment(domain: TrustDomain, name: str) -> None:
    with pytest.raises(Invalid, match="LM1230"):
        node_id(domain, name)


@pytest.mark.parametrize("name", ["a", "n1.corp-2_x", "a" * 63])
def test_other_names_are_good(domain: TrustDomain, name: str) -> None:
    assert SpiffeId.parse(str(node_id(domain, name))).segments == ("limen", "agent", name)


def test_all_serial_numbers_differ(authority: Authority, now: dt.datetime) -> None:
    found = [issue_node(authority, name="n1", spki=SPKI, now=now).serial for _ in range(50)]
    assert len(set(found)) == 50


def test_an_identity_ends_with_the_authority_at_the_latest(authority: Authority, now: dt.datetime) -> None:
    late = authority.issuer.certificate.not_valid_after_utc - dt.timedelta(minutes=1)
    found = issue(authority, late, rules())
    assert isinstance(found, IssuedSvid)
    assert found.not_after == late + dt.timedelta(minutes=1)
    assert now < late


def test_what_is_issued_verifies_for_its_whole_life_and_no_longer(authority: Authority, now: dt.datetime) -> None:
    found = issue_node(authority, name="n1", spki=SPKI, now=now)
    bundles = {authority.trust_domain: authority.bundle}
    for moment in (now - BACKDATING, now, found.not_after):
        assert verify_x509_svid(found.chain, bundles, moment).spiffe_id == found.spiffe_id
    for moment in (now - BACKDATING - dt.timedelta(seconds=1), found.not_after + dt.timedelta(seconds=1)):
        with pytest.raises(Invalid, match="LM1020"):
            verify_x509_svid(found.chain, bundles, moment)


class Mistaken(Authority):
    """An authority with a mistake in its profile."""

    mistake: ClassVar[dict[str, object]] = {}

    def sign_many(self, orders: Sequence[SvidOrder], *, now: dt.datetime) -> list[tuple[bytes, ...]]:
        mistake: dict[str, Any] = self.mistake
        return super().sign_many([order._replace(**mistake) for order in orders], now=now)


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param({"spiffe_id": SpiffeId.parse("spiffe://corp.test/ns/ops/sa/admin")}, id="another-identity"),
        pytest.param({"spki": spki_der(new_key().public_key())}, id="another-key"),
        pytest.param({"dns_names": ("db.corp.test",)}, id="a-name-too-many"),
        pytest.param({"life": dt.timedelta(hours=2)}, id="too-long-a-life"),
    ],
)
def test_a_certificate_that_says_something_else_is_never_given_out(
    authority: Authority, now: dt.datetime, mistake: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.__class__ = Mistaken
    assert isinstance(authority, Mistaken)
    assert isinstance(issue(authority, now, rules()), IssuedSvid)
    monkeypatch.setattr(Mistaken, "mistake", mistake)
    with pytest.raises(AssertionError, match="something else"):
        issue(authority, now, rules())
    with pytest.raises(AssertionError, match="something else"):
        issue_node(authority, name="n1", spki=SPKI, now=now)


class Faulty:
    """Signs in batches with faults: at some places of a batch a bit is wrong, or with a key that memory has changed."""

    def __init__(self, places: frozenset[int], *, key: SigningKey | None = None) -> None:
        self._own, self._places, self._key = OwnSigner(), places, key

    def use(self, key: SigningKey) -> None:
        self._own.use(self._key or key)

    def sign(self, parts: Sequence[bytes]) -> list[Signature]:
        found = self._own.sign(parts)
        for place in self._places & set(range(len(found))):
            data = bytearray(found[place].value)
            data[-1] ^= 1
            found[place] = Signature(bytes(data), is_verified=False)
        return found


@pytest.mark.parametrize(
    "faulty",
    [
        pytest.param(Faulty(frozenset({0})), id="the-first"),
        pytest.param(Faulty(frozenset({17})), id="one-in-the-middle"),
        pytest.param(Faulty(frozenset({39})), id="the-last"),
        pytest.param(Faulty(frozenset(range(40))), id="every-one"),
        pytest.param(Faulty(frozenset(), key=generate(KeyAlgorithm.P256)), id="another-key"),
    ],
)
def test_nothing_of_a_batch_with_a_wrong_signature_is_given_out(
    authority: Authority, now: dt.datetime, faulty: Faulty
) -> None:
    """ALL signatures are verified, whatever is wrong with one of them, by a fresh authority and by a warm one."""
    asks = [WorkloadAsk(FACTS, SPKI) for _ in range(40)]
    for _ in range(2):
        authority.sign_by(faulty)
        with pytest.raises(Invalid, match="LM1019"):
            issue_workloads(authority, rules(), asks, node="n1", now=now)
        authority.sign_by(OwnSigner())
        found = issue_workloads(authority, rules(), asks, node="n1", now=now)
        assert all(isinstance(item, IssuedSvid) for item in found)


def test_a_certificate_that_signs_is_no_identity(authority: Authority, now: dt.datetime) -> None:
    """X-14: neither the root nor the issuing certificate passes as somebody."""
    bundles = {authority.trust_domain: authority.bundle}
    for signer in (authority.bundle.x509_authorities[0], *authority.intermediates):
        with pytest.raises(Invalid):
            verify_x509_svid([signer, *authority.intermediates], bundles, now)


@pytest.mark.peer
@needs("openssl")
def test_openssl_accepts_what_is_issued(authority: Authority, now: dt.datetime, tmp_path: pathlib.Path) -> None:
    found = issue(authority, now, rules(dns_names=("cart.corp.test",)))
    assert isinstance(found, IssuedSvid)
    names = {"root": authority.bundle.x509_authorities[0], "issuing": found.chain[1], "leaf": found.chain[0]}
    for name, der in names.items():
        (tmp_path / name).write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
    for purpose in ("sslserver", "sslclient"):
        done = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-attime", str(int(now.timestamp())),
             "-CAfile", "root", "-untrusted", "issuing", "leaf"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.ML_DSA_65])
def test_a_leaf_of_another_kind_of_key_is_an_opt_in(
    authority: Authority, now: dt.datetime, algorithm: KeyAlgorithm
) -> None:
    spki = spki_der(generate(algorithm).public_key)
    facts: dict[str, Any] = {"facts": FACTS, "spki": spki, "node": "n1", "now": now}
    with pytest.raises(Invalid, match="LM1203"):
        issue_workload(authority, rules(), **facts)
    found = issue_workload(authority, rules(), **facts, leaf_algorithms={KeyAlgorithm.P256, algorithm})
    assert isinstance(found, IssuedSvid)
    verified = verify_x509_svid(found.chain, {authority.trust_domain: authority.bundle}, now)
    assert str(verified.spiffe_id) == "spiffe://corp.test/ns/shop/sa/cart"
    # what the opt-in does not name stays out
    with pytest.raises(Invalid, match="LM1203"):
        issue_workload(authority, rules(), **{**facts, "spki": SPKI}, leaf_algorithms={algorithm})
