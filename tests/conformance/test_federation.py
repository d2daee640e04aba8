"""SPIFFE_Federation.md, statement by statement: each test carries the id of the one it shows (F-1 to F-18).

The other side is a real TLS endpoint on loopback; our side is the server's own code, with its fetcher. What we serve to
others is in test_federation_server.py.
"""

import asyncio
import datetime as dt
import pathlib
import secrets
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trustme

from ca.federation import WELL_KNOWN
from enforcer.federated import Federated
from limen import bundlefetch, tlsport
from limen.federations import poll_once
from mesh.bundle import TrustBundle, parse_bundle
from mesh.clock import SystemClock
from mesh.problems import Problem
from mesh.spiffe import TrustDomain
from mesh.x509svid import verify_x509_svid
from tests.bundleendpoint import PATH, Endpoint, serving, spiffe_endpoint
from tests.pki import Made, Pki
from tests.world import World, make_world

B = TrustDomain.parse("b.test")
CA = trustme.CA()
_NOW = SystemClock().now()
LIFE = {"begin": _NOW - dt.timedelta(hours=2), "end": _NOW + dt.timedelta(days=2)}


class Peer:
    """The other trust domain: its PKI, valid by the real clock that TLS looks at, and the document it serves."""

    def __init__(self) -> None:
        self.pki = Pki("b.test")
        self.roots = [self.root()]
        self.sequence = 1

    def root(self) -> Made:
        # names of their own: OpenSSL, without key identifiers, would take the first of two that are called the same
        return self.pki.signer(subject=f"root {secrets.token_hex(4)}", **LIFE)

    def leaf(self, path: str = "/endpoint", root: int = -1, **details: object) -> Made:
        return self.pki.leaf(path, issuer=self.roots[root], **{**LIFE, **details})

    def bundle(self) -> TrustBundle:
        roots = tuple(item.der for item in self.roots)
        return TrustBundle(trust_domain=B, x509_authorities=roots, sequence=self.sequence, refresh_hint=60)


class Ours:
    """Our server, polling when it is told to."""

    def __init__(self, world: World) -> None:
        self.world, self.federations = world, world.app.federations

    def add(self, endpoint: Endpoint, peer: Peer, kind: str, /, **change: Any) -> None:
        asked: dict[str, Any] = {
            "trust_domain": "b.test", "url": endpoint.url, "profile": kind, "endpoint_id": None, "web_roots": "",
            "bundle": None, "replace": False, "actor": "test",
        }  # fmt: skip
        if kind == "https_spiffe":
            asked |= {"endpoint_id": "spiffe://b.test/endpoint", "bundle": peer.bundle().to_json()}
        else:
            asked |= {"web_roots": CA.cert_pem.bytes().decode()}
        self.federations.add(**{**asked, **change})

    def poll(self) -> dict[str, Any]:
        self.world.clock.advance(dt.timedelta(minutes=6))

        async def fetch(relationship: Any, verifier: Any, now: Any) -> TrustBundle:
            # certificates are valid by the real clock, polls are due by the world's
            return await bundlefetch.fetch(relationship, verifier, SystemClock().now, 60)

        with ThreadPoolExecutor(1) as worker:
            asyncio.run(poll_once(self.federations, worker, fetch))
        return dict(self.federations.show("b.test"))

    def held(self) -> TrustBundle | None:
        data = self.federations.bundles().get("b.test")
        return None if data is None else parse_bundle(B, data)


@pytest.fixture
def ours(tmp_path: pathlib.Path) -> Iterator[Ours]:
    world = make_world(tmp_path / "state")
    yield Ours(world)
    world.app.close()


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def web() -> Iterator[Endpoint]:
    issued = CA.issue_cert("127.0.0.1", "localhost")
    with serving(tlsport.context_of(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())) as found:
        yield found


def spiffe(peer: Peer, path: str = "/endpoint", **details: object) -> Any:
    return spiffe_endpoint(peer.pki, path, issuer=peer.roots[-1], **{**LIFE, **details})


def code(work: Callable[[], object]) -> str:
    with pytest.raises(Problem) as found:
        work()
    return found.value.code


F = pytest.mark.parametrize


@F("profile", ["https_web", "https_spiffe"], ids=["F-1-https_web", "F-1-https_spiffe"])
def test_the_client_supports_both_profiles(ours: Ours, peer: Peer, web: Endpoint, profile: str) -> None:
    with spiffe(peer) as other:
        endpoint = web if profile == "https_web" else other
        endpoint.serve(peer.bundle().to_json())
        ours.add(endpoint, peer, profile)
        assert ours.poll()["failed_polls"] == 0
        assert ours.held() == peer.bundle()


@F("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["F-2-tls-1.2", "F-2-tls-1.3"])
def test_tls_1_2_and_newer_are_spoken(ours: Ours, peer: Peer, version: ssl.TLSVersion) -> None:
    issued = CA.issue_cert("127.0.0.1")
    context = tlsport.context_of(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    context.minimum_version = context.maximum_version = version
    with serving(context) as endpoint:
        endpoint.serve(peer.bundle().to_json())
        ours.add(endpoint, peer, "https_web")
        assert ours.poll()["failed_polls"] == 0


@F("suite", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"], ids=lambda name: f"F-2-{name}")
def test_suites_below_mozillas_intermediate_are_not_spoken(ours: Ours, peer: Peer, suite: str) -> None:
    issued = CA.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    with serving(context) as endpoint:
        ours.add(endpoint, peer, "https_web")
        assert ours.poll()["code"] == "LM1508"
        assert endpoint.asked == []


@F("missing", ["trust_domain", "url", "profile", "endpoint_id"], ids=lambda name: f"F-3-{name}")
def test_every_parameter_is_given_and_none_inferred(ours: Ours, peer: Peer, web: Endpoint, missing: str) -> None:
    change: dict[str, Any] = {missing: None if missing == "endpoint_id" else ""}
    assert code(lambda: ours.add(web, peer, "https_spiffe", **change)) in {"LM1500", "LM1501", "LM1502"}
    assert ours.federations.every() == []


@F("profile", ["https_web", "https_spiffe"], ids=["F-3-web-to-spiffe", "F-3-spiffe-to-web"])
def test_no_profile_falls_back_to_the_other(ours: Ours, peer: Peer, web: Endpoint, profile: str) -> None:
    with spiffe(peer) as other:
        endpoint = other if profile == "https_web" else web
        endpoint.serve(peer.bundle().to_json())
        ours.add(endpoint, peer, profile)
        assert ours.poll()["code"] in {"LM1510", "LM1518"}
        assert endpoint.asked == []


@F("profile", ["https_web", "https_spiffe"], ids=["F-4-https_web", "F-4-https_spiffe"])
@F("url", ["http://b.test/x", "https://u@b.test/x", "https://u:p@b.test/x", "HTTP://b.test"], ids=str)
def test_the_url_is_https_without_userinfo(ours: Ours, peer: Peer, web: Endpoint, profile: str, url: str) -> None:
    assert code(lambda: ours.add(web, peer, profile, url=url)) == "LM1501"


@F("parameter", [pytest.param({}, id="F-5")])
def test_https_web_needs_nothing_more(ours: Ours, peer: Peer, web: Endpoint, parameter: dict[str, Any]) -> None:
    ours.add(web, peer, "https_web", web_roots="", **parameter)
    # the host's own roots do not know this CA, and it is not asked
    assert ours.poll()["code"] == "LM1518"


@F(
    ("names", "host", "is_trusted"),
    [
        pytest.param(["127.0.0.1"], "127.0.0.1", True, id="F-6-ip-san"),
        pytest.param(["localhost"], "localhost", True, id="F-6-dns-san"),
        pytest.param(["other.test"], "localhost", False, id="F-6-other-name"),
        pytest.param(["localhost"], "127.0.0.1", False, id="F-6-no-ip-san"),
    ],
)
def test_the_web_certificate_names_the_endpoint(
    ours: Ours, peer: Peer, names: list[str], host: str, *, is_trusted: bool
) -> None:
    issued = CA.issue_cert(*names)
    with serving(tlsport.context_of(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())) as endpoint:
        endpoint.serve(peer.bundle().to_json())
        ours.add(endpoint, peer, "https_web", url=endpoint.url.replace("127.0.0.1", host))
        assert (ours.poll()["failed_polls"] == 0) is is_trusted


@F("statement", ["F-7"])
def test_no_side_of_ours_sends_or_asks_for_client_authentication(
    ours: Ours, peer: Peer, web: Endpoint, statement: str
) -> None:
    web.serve(peer.bundle().to_json())
    ours.add(web, peer, "https_web")
    ours.poll()
    assert not web.has_client_certificate
    assert "authorization" not in web.asked[0][1]
    for context in (tlsport.server_side(), ours.world.app.svid.context):
        assert context.verify_mode is ssl.CERT_NONE


@F("statement", ["F-8"])
def test_a_get_on_the_path_brings_the_newest_bundle(ours: Ours, peer: Peer, web: Endpoint, statement: str) -> None:
    web.serve(peer.bundle().to_json())
    ours.add(web, peer, "https_web")
    ours.poll()
    peer.roots.append(peer.root())
    peer.sequence = 2
    web.serve(peer.bundle().to_json())
    ours.poll()
    assert ours.held() == peer.bundle()
    assert [path for path, _ in web.asked] == [WELL_KNOWN, WELL_KNOWN]


@F(
    "data",
    [
        pytest.param(b'{"keys": [], "x": "\xff"}', id="F-9-not-utf-8"),
        pytest.param('{"keys": []}'.encode("utf-16"), id="F-9-utf-16"),
    ],
)
def test_a_document_is_utf_8(ours: Ours, peer: Peer, web: Endpoint, data: bytes) -> None:
    web.serve(data)
    ours.add(web, peer, "https_web")
    assert ours.poll()["code"] == "LM1001"


@F("kind", [None, "text/plain", "application/octet-stream"], ids=lambda kind: f"F-9-{kind}")
def test_a_document_of_another_content_type_is_read(ours: Ours, peer: Peer, web: Endpoint, kind: str | None) -> None:
    web.answers[PATH] = (200, {} if kind is None else {"content-type": kind}, peer.bundle().to_json())
    ours.add(web, peer, "https_web")
    assert ours.poll()["failed_polls"] == 0


@F("target", ["F-10-same-rules", "F-10-http", "F-10-userinfo", "F-10-other-identity"])
def test_a_redirect_keeps_the_rules_and_is_not_stored(ours: Ours, peer: Peer, target: str) -> None:
    with spiffe(peer) as one, spiffe(peer, "/other" if target.endswith("identity") else "/endpoint") as two:
        two.serve(peer.bundle().to_json())
        one.redirect(
            {"F-10-http": "http://127.0.0.1/", "F-10-userinfo": f"https://u@127.0.0.1:{two.port}/"}.get(target, two.url)
        )
        ours.add(one, peer, "https_spiffe")
        is_good = target == "F-10-same-rules"
        for _ in range(2):
            assert (ours.poll()["failed_polls"] == 0) is is_good
        assert len(one.asked) == 2
        assert len(two.asked) == (2 if is_good else 0)
        assert ours.federations.show("b.test")["url"] == one.url


@F("form", ["F-11-spiffe", "F-11-pem", "F-11-none"])
def test_an_initial_bundle_is_taken_and_needed(ours: Ours, peer: Peer, form: str) -> None:
    with spiffe(peer) as endpoint:
        endpoint.serve(peer.bundle().to_json())
        first = {"F-11-spiffe": peer.bundle().to_json(), "F-11-pem": peer.roots[0].pem, "F-11-none": None}[form]
        if first is None:
            assert code(lambda: ours.add(endpoint, peer, "https_spiffe", bundle=None)) == "LM1502"
            return
        ours.add(endpoint, peer, "https_spiffe", bundle=first)
        assert ours.poll()["failed_polls"] == 0


@F("statement", ["F-11-non-self-serving"])
def test_an_endpoint_elsewhere_takes_a_bundle_of_its_own(ours: Ours, peer: Peer, statement: str) -> None:
    third = Pki("c.test")
    root = third.signer(subject="root of c", **LIFE)
    with spiffe_endpoint(third, "/endpoint", issuer=root, **LIFE) as endpoint:
        endpoint.serve(peer.bundle().to_json())
        # b's own bundle must not prove an endpoint of c
        ours.add(endpoint, peer, "https_spiffe", endpoint_id="spiffe://c.test/endpoint")
        assert ours.poll()["code"] == "LM1511"
        ours.add(endpoint, peer, "https_web", trust_domain="c.test", bundle=root.pem)
        assert ours.poll()["failed_polls"] == 0


@F(
    ("path", "details"),
    [
        pytest.param("/other", {}, id="F-12-other-identity"),
        pytest.param("", {}, id="F-12-root-path"),
        pytest.param("/endpoint", {"ca": True}, id="F-12-a-ca"),
        pytest.param("/endpoint", {"uris": ("spiffe://b.test/endpoint", "spiffe://b.test/x")}, id="F-12-two-ids"),
        pytest.param("/endpoint", {"end": _NOW - dt.timedelta(hours=1)}, id="F-12-expired"),
        pytest.param("/endpoint", {"uris": ("spiffe://c.test/endpoint",)}, id="F-12-other-domain"),
        pytest.param("/endpoint", {"uris": (), "dns": ("localhost",)}, id="F-12-no-id"),
    ],
)
def test_the_endpoint_shows_a_valid_svid_of_exactly_the_configured_id(
    ours: Ours, peer: Peer, path: str, details: dict[str, Any]
) -> None:
    with spiffe(peer, path, **details) as endpoint:
        endpoint.serve(peer.bundle().to_json())
        ours.add(endpoint, peer, "https_spiffe")
        assert ours.poll()["code"] == "LM1510"
        assert endpoint.asked == []


@F("statement", ["F-13"])
def test_the_latest_bundle_verifies_so_that_the_peers_root_rotates(ours: Ours, peer: Peer, statement: str) -> None:
    relationship_url = ""
    for step in range(4):
        with spiffe(peer) as endpoint:
            # the new root is published before it signs, the old one goes after
            peer.roots = [*peer.roots[-1:], peer.root()]
            peer.sequence += 1
            endpoint.serve(peer.bundle().to_json())
            ours.add(endpoint, peer, "https_spiffe", replace=bool(step), bundle=None if step else _first(peer))
            relationship_url = endpoint.url
            assert ours.poll()["failed_polls"] == 0, step
            assert ours.held() == peer.bundle()
    assert ours.federations.show("b.test")["url"] == relationship_url


def _first(peer: Peer) -> bytes:
    return peer.roots[0].pem


@F("statement", ["F-15"])
def test_polls_at_the_hint_keeps_the_last_good_and_orders_by_sequence(
    ours: Ours, peer: Peer, web: Endpoint, statement: str
) -> None:
    peer.sequence = 5
    web.serve(peer.bundle().to_json())
    ours.add(web, peer, "https_web")
    ours.poll()
    good = ours.held()
    asked = len(web.asked)
    web.answers[PATH] = (500, {}, b"")
    assert ours.poll()["failed_polls"] == 1
    # one try in each interval, also after a failure
    assert len(web.asked) == asked + 1
    peer.roots, peer.sequence = [peer.root()], 4
    web.serve(peer.bundle().to_json())
    assert ours.poll()["code"] == "LM1506"
    assert ours.held() == good


@F("statement", ["F-16"])
def test_a_bundle_vouches_for_its_own_domain_alone(ours: Ours, peer: Peer, web: Endpoint, statement: str) -> None:
    web.serve(peer.bundle().to_json())
    ours.add(web, peer, "https_web")
    ours.poll()
    held = ours.held()
    assert held is not None
    own = ours.world.app.bundle()
    # a certificate of our domain that the other side signed, and the other way round
    forged = peer.pki.leaf("", issuer=peer.roots[0], **{**LIFE, "uris": (f"spiffe://{own.trust_domain}/web",)})
    with pytest.raises(Problem):
        verify_x509_svid([forged.der], {own.trust_domain: own, B: held}, _NOW)
    verify_x509_svid([peer.leaf().der], {own.trust_domain: own, B: held}, _NOW)


@F("statement", ["F-17"])
def test_bundles_are_handed_out_under_the_name_of_their_domain(
    ours: Ours, peer: Peer, web: Endpoint, statement: str
) -> None:
    web.serve(peer.bundle().to_json())
    ours.add(web, peer, "https_web")
    ours.poll()
    state = ours.world.app.state(0)
    assert list(state.federated) == ["b.test"]
    own = parse_bundle(ours.world.app.bundle().trust_domain, state.bundle)
    assert own.digest == ours.world.app.bundle().digest


@F("statement", ["F-18"])
def test_ending_a_relationship_takes_the_bundle_from_validators(
    ours: Ours, peer: Peer, web: Endpoint, statement: str
) -> None:
    web.serve(peer.bundle().to_json())
    ours.add(web, peer, "https_web")
    ours.poll()
    told: list[None] = []
    ours.world.app.on_change(lambda: told.append(None))
    ours.federations.remove("b.test", actor="test")
    assert told == [None]
    assert ours.world.app.state(0).federated == {}


@F("statement", ["F-18-validators"])
def test_a_host_that_is_told_of_the_end_trusts_that_domain_no_longer(
    peer: Peer, tmp_path: pathlib.Path, statement: str
) -> None:
    held = Federated(tmp_path, TrustDomain.parse("a.test"))
    held.take({"b.test": peer.bundle().to_json()})
    leaf = peer.leaf().der

    def trusted() -> dict[TrustDomain, TrustBundle]:
        return {found.trust_domain: found for found in held.every().values()}

    assert verify_x509_svid([leaf], trusted(), _NOW)
    held.take({})
    with pytest.raises(Problem, match="LM1018"):
        verify_x509_svid([leaf], trusted(), _NOW)
    # nor does it after a restart
    assert Federated(tmp_path, TrustDomain.parse("a.test")).every() == {}
