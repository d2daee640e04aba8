import datetime as dt
import json
import pathlib

import httpx2
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca.keys import KeyAlgorithm, generate
from ca.upstream.chain import accept, build_csr
from ca.upstream.stepca import StepCaUpstream, printable, read_provisioner_key, thumbprint
from mesh.clock import SystemClock
from mesh.problems import Forbidden, Invalid, Problem, Unavailable
from tests.ca.upstream.chains import DAY, DOMAIN, NOW, Signs, below, root
from tests.ca.upstream.stepca import TEMPLATE, names, private_pem, public_jwk, running_step_ca
from tests.examples import examples

KEY = generate(KeyAlgorithm.P256)
CSR = build_csr(KEY, DOMAIN)
ROOT = root()
MIDDLE = below(ROOT)
PROVISIONER = ec.generate_private_key(ec.SECP256R1())


Files = tuple[pathlib.Path, pathlib.Path]


@pytest.fixture
def files(tmp_path: pathlib.Path) -> Files:
    roots, key = tmp_path / "roots.pem", tmp_path / "provisioner.key"
    roots.write_bytes(ROOT.pem)
    key.write_bytes(private_pem(PROVISIONER))
    key.chmod(0o600)
    return roots, key


def upstream(files: Files, answer: httpx2.Response | httpx2.HTTPError | None = None, **more: str) -> StepCaUpstream:
    asked: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer or good(request)

    facts = {"url": "https://ca.test", "provisioner": "limen", **more}
    found = StepCaUpstream(DOMAIN, roots=files[0], key=files[1], transport=httpx2.MockTransport(handle), **facts)
    found.asked = asked  # type: ignore[attr-defined]  # for the tests that look at the request
    return found


def good(request: httpx2.Request) -> httpx2.Response:
    csr = x509.load_pem_x509_csr(json.loads(request.content)["csr"].encode()).public_bytes(Encoding.DER)
    made = Signs(MIDDLE, ROOT).mint(csr, NOW)
    pems = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode() for der in made.chain]
    return httpx2.Response(201, json={"crt": pems[0], "ca": pems[1], "certChain": pems})


def test_a_request_carries_a_token_for_itself_alone(files: Files) -> None:
    found = upstream(files)
    accept(found.mint(CSR, NOW), KEY, DOMAIN, NOW, upstream=found.name)
    found.mint(CSR, NOW)
    tokens = [json.loads(request.content)["ott"] for request in found.asked]  # type: ignore[attr-defined]
    claims = [jwt.decode(token, options={"verify_signature": False}) for token in tokens]
    assert claims[0]["jti"] != claims[1]["jti"]
    assert (claims[0]["iss"], claims[0]["aud"]) == ("limen", "https://ca.test/1.0/sign")
    assert (claims[0]["sub"], claims[0]["sans"]) == ("Limen issuing authority of corp.test", ["spiffe://corp.test"])
    assert claims[0]["exp"] - claims[0]["iat"] <= 330
    assert jwt.get_unverified_header(tokens[0])["kid"] == thumbprint(PROVISIONER.public_key())


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(httpx2.ConnectError("refused"), "LM1613", id="refused"),
        pytest.param(httpx2.ReadTimeout("late"), "LM1613", id="late"),
        pytest.param(httpx2.Response(503, json={}), "LM1613", id="503"),
        pytest.param(
            httpx2.Response(302, json={}, headers={"location": "https://other.test"}), "LM1613", id="redirect"
        ),
        pytest.param(httpx2.Response(401, json={"message": "no\x1b[2J way"}), "LM1612", id="401"),
        pytest.param(httpx2.Response(403, json={"message": 7}), "LM1612", id="403"),
        pytest.param(httpx2.Response(200, text="<html>"), "LM1614", id="html"),
        pytest.param(httpx2.Response(200, text="[" * 100_000), "LM1614", id="deep"),
        pytest.param(httpx2.Response(200, json=[]), "LM1614", id="list"),
        pytest.param(httpx2.Response(200, json={}), "LM1614", id="nothing"),
        pytest.param(httpx2.Response(200, json={"certChain": []}), "LM1614", id="empty"),
        pytest.param(httpx2.Response(200, json={"certChain": [1]}), "LM1614", id="numbers"),
        pytest.param(httpx2.Response(200, json={"certChain": ["x"]}), "LM1614", id="no-pem"),
        pytest.param(httpx2.Response(200, content=b" " * (2 << 20)), "LM1614", id="large"),
    ],
)
def test_any_other_answer_has_its_code(files: Files, answer: httpx2.Response | httpx2.HTTPError, code: str) -> None:
    with pytest.raises((Unavailable, Forbidden, Invalid), match=code) as caught:
        upstream(files, answer).mint(CSR, NOW)
    assert "\x1b" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.text() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["certChain", "message", "crt"]), inner),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(25))
@given(
    st.integers(min_value=200, max_value=599),
    st.one_of(st.binary(max_size=200), JSON.map(lambda found: json.dumps(found).encode())),
)
def test_any_bytes_are_a_problem_with_a_code(files: Files, status: int, body: bytes) -> None:
    with pytest.raises(Problem, match=r"LM161[1234]"):
        accept(upstream(files, httpx2.Response(status, content=body)).mint(CSR, NOW), KEY, DOMAIN, NOW, upstream="x")


@pytest.mark.parametrize("url", ["http://ca.test", "ca.test", "https://", "https://ca.test?x=1", "https://u:p@ca.test"])
def test_an_address_that_is_not_plain_https_is_refused(files: Files, url: str) -> None:
    with pytest.raises(Invalid, match="LM1610"):
        upstream(files, url=url)


def test_a_provisioners_key_is_read_as_jwk_or_pem(tmp_path: pathlib.Path) -> None:
    secret = PROVISIONER.private_numbers().private_value.to_bytes(32, "big")
    import base64

    jwk = {**public_jwk(PROVISIONER.public_key()), "d": base64.urlsafe_b64encode(secret).rstrip(b"=").decode()}
    for content, kid in (
        (json.dumps(jwk).encode(), jwk["kid"]),
        (json.dumps({**jwk, "kid": "named"}).encode(), "named"),
        (private_pem(PROVISIONER), jwk["kid"]),
    ):
        path = tmp_path / "key"
        path.write_bytes(content)
        path.chmod(0o600)
        assert read_provisioner_key(path)[1] == kid


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b'{"kty": "EC"}',
        json.dumps(public_jwk(PROVISIONER.public_key())).encode(),
        private_pem(ec.generate_private_key(ec.SECP384R1())),
        b"-----BEGIN PRIVATE KEY-----",
    ],
    ids=["empty", "brace", "object", "half", "public", "P-384", "cut"],
)
def test_any_other_file_is_no_provisioners_key(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(Invalid, match="LM1616"):
        read_provisioner_key(path)
    assert rsa is not None
    assert printable("a\nb") == "a b"


@pytest.mark.peer
def test_a_real_step_ca_signs_an_issuing_authority(tmp_path: pathlib.Path, files: Files) -> None:
    now = SystemClock().now().replace(microsecond=0)
    above = root(begin=now - DAY, end=now + 30 * DAY)
    middle = below(above, begin=now - DAY, end=now + 30 * DAY, path_length=1)
    folder = tmp_path / "step"
    folder.mkdir()
    files[0].write_bytes(above.pem)
    with running_step_ca(folder, above, middle, PROVISIONER.public_key(), template=TEMPLATE) as url:
        now = SystemClock().now()
        found = StepCaUpstream(DOMAIN, url=url, roots=files[0], provisioner="limen", key=files[1])
        answer = accept(found.mint(CSR, now), KEY, DOMAIN, now + dt.timedelta(seconds=1), upstream=found.name)
        assert (len(answer.chain), answer.roots) == (2, (above.der,))
        assert names(answer.chain[0]) == ["spiffe://corp.test"]
        # another key, another provisioner: refused; another root: not reached
        other = tmp_path / "other.key"
        other.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
        other.chmod(0o600)
        for bad in ({"key": other}, {"provisioner": "nobody"}):
            facts = {"provisioner": "limen", "key": files[1], **bad}
            with pytest.raises(Forbidden, match="LM1612"):
                StepCaUpstream(DOMAIN, url=url, roots=files[0], **facts).mint(CSR, now)  # type: ignore[arg-type]
        files[0].write_bytes(ROOT.pem)
        with pytest.raises(Unavailable, match="LM1613"):
            StepCaUpstream(DOMAIN, url=url, roots=files[0], provisioner="limen", key=files[1]).mint(CSR, now)
    files[0].write_bytes(above.pem)
    with pytest.raises(Unavailable, match="LM1613"):
        StepCaUpstream(DOMAIN, url=url, roots=files[0], provisioner="limen", key=files[1]).mint(CSR, now)


@pytest.mark.peer
def test_a_step_ca_without_the_template_gives_a_leaf_that_is_not_used(tmp_path: pathlib.Path, files: Files) -> None:
    now = SystemClock().now().replace(microsecond=0)
    above = root(begin=now - DAY, end=now + 30 * DAY)
    middle = below(above, begin=now - DAY, end=now + 30 * DAY, path_length=0)
    folder = tmp_path / "step"
    folder.mkdir()
    files[0].write_bytes(above.pem)
    for template, reason in ((None, "does not say whether it may sign"), (TEMPLATE, "path length")):
        with running_step_ca(folder, above, middle, PROVISIONER.public_key(), template=template) as url:
            now = SystemClock().now()
            found = StepCaUpstream(DOMAIN, url=url, roots=files[0], provisioner="limen", key=files[1])
            with pytest.raises(Invalid, match=reason):
                accept(found.mint(CSR, now), KEY, DOMAIN, now + dt.timedelta(seconds=1), upstream=found.name)
