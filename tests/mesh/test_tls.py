"""TLS contexts: what they speak, whom they need, and that a key never touches a disk."""

from __future__ import annotations

import ssl

import pytest

from mesh.bundle import TrustBundle
from mesh.problems import Invalid
from mesh.spiffe import TrustDomain
from mesh.tls import client_context, peer_chain, server_context
from mesh.x509svid import X509Svid
from tests.enforcer.native.harness import DB, WEB, Realm
from tests.handles import handles, nothing_stays_open


@pytest.fixture(scope="module")
def realm() -> Realm:
    from mesh.clock import SystemClock

    return Realm("corp.test", SystemClock().now())


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a handshake in memory."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends


def test_both_sides_see_the_whole_chain_of_the_other(realm: Realm) -> None:
    bundles = {realm.trust_domain: realm.bundle}
    web, db = realm.svid(WEB), realm.svid(DB)
    client, server = shake(server_context(db, bundles), client_context(web, bundles))
    assert peer_chain(server) == web.chain_der
    assert peer_chain(client) == db.chain_der
    assert client.version() == "TLSv1.3"
    assert client.selected_alpn_protocol() is None


def test_there_is_no_ticket_to_resume_with(realm: Realm) -> None:
    bundles = {realm.trust_domain: realm.bundle}
    client, server = shake(server_context(realm.svid(DB), bundles), client_context(realm.svid(WEB), bundles))
    server.write(b"x")
    assert client.read(1) == b"x"
    assert client.session is None or not client.session.has_ticket


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_older_versions_are_refused(realm: Realm, version: ssl.TLSVersion) -> None:
    bundles = {realm.trust_domain: realm.bundle}
    client = client_context(realm.svid(WEB), bundles)
    client.minimum_version = client.maximum_version = version
    with pytest.raises(ssl.SSLError):
        shake(server_context(realm.svid(DB), bundles), client)


def test_a_client_without_a_certificate_is_refused(realm: Realm) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        shake(server_context(realm.svid(DB), {realm.trust_domain: realm.bundle}), client)


def test_an_empty_bundle_makes_no_context(realm: Realm) -> None:
    empty = TrustBundle(trust_domain=TrustDomain.parse("corp.test"))
    for make in (server_context, client_context):
        with pytest.raises(Invalid) as err:
            make(realm.svid(DB), {realm.trust_domain: empty})
        assert err.value.code == "LM3010"


@pytest.mark.parametrize("broken", ["key", "chain", "authority"])
def test_what_cannot_be_loaded_makes_no_context(realm: Realm, broken: str) -> None:
    good, other = realm.svid(DB), realm.svid(WEB)
    svid = X509Svid(
        spiffe_id=good.spiffe_id,
        chain_der=(b"junk",) if broken == "chain" else good.chain_der,
        key_pkcs8_der=other.key_pkcs8_der if broken == "key" else good.key_pkcs8_der,
        not_after=good.not_after,
    )
    bundle = realm.bundle
    if broken == "authority":
        bundle = TrustBundle(trust_domain=realm.trust_domain, x509_authorities=(b"junk",))
    with pytest.raises(Invalid) as err:
        server_context(svid, {realm.trust_domain: bundle})
    assert err.value.code == "LM3011"


def test_no_descriptor_is_left_open(realm: Realm) -> None:
    before = handles()
    server_context(realm.svid(DB), {realm.trust_domain: realm.bundle})
    assert nothing_stays_open(before)
