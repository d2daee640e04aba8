"""Fetching from real TLS endpoints on loopback: who is asked, what is refused, how long it takes."""

import asyncio
import datetime as dt
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca.federation import Profile, Relationship
from limen import bundlefetch, tlsport
from mesh.bundle import TrustBundle
from mesh.clock import SystemClock
from mesh.problems import Problem
from mesh.spiffe import SpiffeId, TrustDomain
from tests.bundleendpoint import PATH, Endpoint, serving, spiffe_endpoint
from tests.examples import examples
from tests.pki import Pki

B = TrustDomain.parse("b.test")
CA = trustme.CA()
NOW = SystemClock().now()
LIFE = {"begin": NOW - dt.timedelta(hours=1), "end": NOW + dt.timedelta(days=2)}


class FreshPki(Pki):
    """A trust domain whose certificates are valid now: TLS looks at the real clock."""

    def __init__(self, domain: str = "b.test") -> None:
        self.domain = TrustDomain.parse(domain)
        self.root = self.signer(subject=f"root of {domain}", **LIFE)

    def leaf(self, path: str = "/endpoint", issuer: object = None, **details: object) -> object:  # type: ignore[override]
        return super().leaf(path, **{**LIFE, **details})


PKI = FreshPki()
BUNDLE = TrustBundle(trust_domain=B, x509_authorities=(PKI.root.der,), sequence=4, refresh_hint=60)


def web(url: str, roots: str | None = None) -> Relationship:
    found = CA.cert_pem.bytes().decode() if roots is None else roots
    return Relationship(trust_domain=B, url=url, profile=Profile.HTTPS_WEB, web_roots=found)


def spiffe(url: str, path: str = "/endpoint") -> Relationship:
    endpoint = SpiffeId.parse(f"spiffe://b.test{path}")
    return Relationship(trust_domain=B, url=url, profile=Profile.HTTPS_SPIFFE, endpoint_id=endpoint)


def fetch(relationship: Relationship, verifier: TrustBundle | None = None, total_s: float = 60) -> TrustBundle:
    return asyncio.run(bundlefetch.fetch(relationship, verifier, SystemClock().now, total_s))


def code(relationship: Relationship, verifier: TrustBundle | None = None, total_s: float = 60) -> str:
    with pytest.raises(Problem) as found:
        fetch(relationship, verifier, total_s)
    return found.value.code


def web_context(*names: str) -> object:
    issued = CA.issue_cert(*names)
    return tlsport.context_of(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with serving(web_context("localhost", "127.0.0.1")) as found:  # type: ignore[arg-type]
        found.serve(BUNDLE.to_json())
        yield found


@pytest.fixture(autouse=True)
def _reset(endpoint: Endpoint) -> None:
    endpoint.answers.clear()
    endpoint.asked.clear()
    endpoint.serve(BUNDLE.to_json())


def test_asks_plainly_and_reads_the_document(endpoint: Endpoint) -> None:
    assert fetch(web(endpoint.url)) == BUNDLE
    assert fetch(web(endpoint.url.replace("127.0.0.1", "localhost"))) == BUNDLE
    path, headers = endpoint.asked[0]
    assert path == PATH
    assert headers["host"] == f"127.0.0.1:{endpoint.port}"
    assert "authorization" not in headers
    assert not endpoint.has_client_certificate


def test_a_name_or_root_that_does_not_fit_is_not_asked_anything(endpoint: Endpoint) -> None:
    assert code(web(endpoint.url, trustme.CA().cert_pem.bytes().decode())) == "LM1518"
    assert code(web(endpoint.url, roots="")) == "LM1518"
    with serving(web_context("other.test")) as other:  # type: ignore[arg-type]
        assert code(web(other.url)) == "LM1518"
        assert code(web(other.url.replace("127.0.0.1", "localhost"))) == "LM1518"
        assert other.asked == []
    assert endpoint.asked == []


def test_a_common_name_is_no_name() -> None:
    issued = CA.issue_cert(common_name="localhost")
    context = tlsport.context_of(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    with serving(context) as found:
        assert code(web(found.url.replace("127.0.0.1", "localhost"))) == "LM1518"


def test_a_spiffe_endpoint_is_asked_only_when_it_is_the_configured_one() -> None:
    with spiffe_endpoint(PKI, "/endpoint", **LIFE) as found:
        found.serve(BUNDLE.to_json())
        assert fetch(spiffe(found.url), BUNDLE) == BUNDLE
        assert fetch(spiffe(found.url.replace("127.0.0.1", "localhost")), BUNDLE) == BUNDLE
        assert len(found.asked) == 2
        assert code(spiffe(found.url, "/other"), BUNDLE) == "LM1510"
        assert code(spiffe(found.url), FreshPki().bundle()) == "LM1510"
        assert code(spiffe(found.url), None) == "LM1511"
        # no profile falls back to the other
        assert code(web(found.url)) == "LM1518"
        assert len(found.asked) == 2
        assert not found.has_client_certificate


def test_a_web_certificate_is_no_spiffe_endpoint(endpoint: Endpoint) -> None:
    assert code(spiffe(endpoint.url), BUNDLE) == "LM1510"
    assert endpoint.asked == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_and_not_remembered(endpoint: Endpoint, status: int) -> None:
    endpoint.redirect("/moved", status=status)
    endpoint.serve(BUNDLE.to_json(), "/moved")
    found = web(endpoint.url)
    for _ in range(2):
        assert fetch(found) == BUNDLE
    assert [path for path, _ in endpoint.asked] == [PATH, "/moved", PATH, "/moved"]


def test_a_redirect_is_held_to_the_same_rules(endpoint: Endpoint) -> None:
    for bad in ("http://127.0.0.1:1/", f"https://u@127.0.0.1:{endpoint.port}/", ""):
        endpoint.redirect(bad)
        assert code(web(endpoint.url)) in {"LM1501", "LM1509"}
    endpoint.redirect(PATH)
    assert code(web(endpoint.url)) == "LM1509"
    with serving(web_context("other.test")) as other:  # type: ignore[arg-type]
        endpoint.redirect(other.url)
        assert code(web(endpoint.url)) == "LM1518"
        assert other.asked == []


def test_a_redirect_of_a_spiffe_endpoint_leads_to_the_same_identity() -> None:
    with spiffe_endpoint(PKI, "/endpoint", **LIFE) as one, spiffe_endpoint(PKI, "/other", **LIFE) as two:
        one.redirect(two.url)
        two.serve(BUNDLE.to_json())
        assert code(spiffe(one.url), BUNDLE) == "LM1510"
        assert two.asked == []
    with spiffe_endpoint(PKI, "/endpoint", **LIFE) as one, spiffe_endpoint(PKI, "/endpoint", **LIFE) as two:
        one.redirect(two.url)
        two.serve(BUNDLE.to_json())
        assert fetch(spiffe(one.url), BUNDLE) == BUNDLE


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param((404, {}, b""), "LM1509", id="not-found"),
        pytest.param((500, {}, BUNDLE.to_json()), "LM1509", id="a-bundle-with-an-error"),
        pytest.param((204, {}, b""), "LM1509", id="nothing"),
        pytest.param((200, {}, b""), "LM1001", id="empty"),
        pytest.param((200, {}, b"{}"), "LM1001", id="no-keys"),
        pytest.param((200, {}, b'{"keys": [], "keys": []}'), "LM1001", id="a-key-twice"),
        pytest.param((200, {}, b'{"keys": [], "spiffe_sequence": 1.5}'), "LM1001", id="half-a-sequence"),
        pytest.param((200, {}, b"[" * 100_000), "LM1001", id="deep"),
        pytest.param((200, {}, b"\xff\xfe{}"), "LM1001", id="not-utf-8"),
        pytest.param((200, {}, b" " * (4 << 20) + b"{}   "), "LM1509", id="too-large"),
    ],
)
def test_what_is_no_bundle_is_refused(
    endpoint: Endpoint, answer: tuple[int, dict[str, str], bytes], expected: str
) -> None:
    endpoint.answers[PATH] = answer
    assert code(web(endpoint.url)) == expected


def _raw(data: bytes, pause_s: float = 0.0) -> object:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        for at in range(0, len(data), 1 if pause_s else max(1, len(data))):
            try:
                handler.wfile.write(data[at : at + (1 if pause_s else len(data))])
                handler.wfile.flush()
            except OSError:
                return
            time.sleep(pause_s)
        handler.close_connection = True

    return answer


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x00\x01\x02", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{", b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/9 200\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=range(8),
)  # fmt: skip
def test_an_answer_that_is_cut_or_no_http_is_refused(endpoint: Endpoint, data: bytes) -> None:
    endpoint.answers[PATH] = _raw(data)  # type: ignore[assignment]
    assert code(web(endpoint.url)) == "LM1509"


def test_an_endpoint_that_drips_takes_no_more_than_its_time(endpoint: Endpoint) -> None:
    endpoint.answers[PATH] = _raw(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 4000, 0.05)  # type: ignore[assignment]
    # cut by itself it would be another code, minutes later
    assert code(web(endpoint.url), total_s=0.4) == "LM1508"


def test_nobody_there_is_a_problem_and_no_more() -> None:
    assert code(web("https://127.0.0.1:1/x")) == "LM1508"
    assert code(spiffe("https://127.0.0.1:1/x"), BUNDLE) == "LM1508"
    assert code(web("https://" + "x" * 70 + ".test/")) == "LM1508"


@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400) | st.binary(max_size=60).map(lambda tail: BUNDLE.to_json()[:-30] + tail))
def test_no_bytes_become_a_bug(endpoint: Endpoint, data: bytes) -> None:
    endpoint.serve(data)
    try:
        found = fetch(web(endpoint.url))
    except Problem as problem:
        assert problem.code == "LM1001"
    else:
        assert found.trust_domain == B
