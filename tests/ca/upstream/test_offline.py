import pathlib
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.keys import KeyAlgorithm, generate
from ca.upstream.chain import UpstreamPending, accept, build_csr
from ca.upstream.offline import OfflineUpstream, split
from mesh.problems import Invalid, NotFound
from tests.ca.upstream.chains import DAY, DOMAIN, NOW, Made, Signs, below, root
from tests.tools import needs

KEY = generate(KeyAlgorithm.P256)
CSR = build_csr(KEY, DOMAIN)
ROOT = root()


@pytest.fixture
def offline(tmp_path: pathlib.Path) -> OfflineUpstream:
    return OfflineUpstream(tmp_path / "ca", DOMAIN)


def ask(offline: OfflineUpstream, csr: bytes = CSR) -> pathlib.Path:
    with pytest.raises(UpstreamPending, match="LM1615"):
        offline.mint(csr, NOW)
    return offline.pending()[-1]


def chain_file(path: pathlib.Path, issuer: Made, *above: Made, **facts: object) -> pathlib.Path:
    made = Signs(issuer, *above, **facts).mint(CSR, NOW)
    pems = (x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in (*made.chain, *made.roots))
    path.write_bytes(b"".join(pems))
    return path


def test_a_request_waits_until_its_chain_is_imported(offline: OfflineUpstream, tmp_path: pathlib.Path) -> None:
    request = ask(offline)
    assert ask(offline) == request
    assert x509.load_pem_x509_csr(request.read_bytes()).public_bytes(Encoding.DER) == CSR
    assert offline.put(chain_file(tmp_path / "chain.pem", below(ROOT), ROOT), NOW) == request
    assert offline.pending() == []
    found = accept(offline.mint(CSR, NOW), KEY, DOMAIN, NOW, upstream="offline")
    assert (len(found.chain), found.roots) == (2, (ROOT.der,))


def test_a_chain_in_another_order_of_the_root_is_read(offline: OfflineUpstream, tmp_path: pathlib.Path) -> None:
    ask(offline)
    path = chain_file(tmp_path / "chain.pem", ROOT)
    found = x509.load_pem_x509_certificates(path.read_bytes())
    assert split(found[::-1]) == split(found)


def test_a_chain_for_another_key_is_refused(offline: OfflineUpstream, tmp_path: pathlib.Path) -> None:
    path = chain_file(tmp_path / "chain.pem", ROOT)
    with pytest.raises(NotFound, match="LM1618"):
        offline.put(path, NOW)
    ask(offline, build_csr(generate(KeyAlgorithm.P256), DOMAIN))
    with pytest.raises(NotFound, match="LM1618"):
        offline.put(path, NOW)


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"ca": False, "signs": False}, id="leaf"),
        pytest.param({"end": NOW - DAY / 24}, id="expired"),
        pytest.param({"uri": "spiffe://other.test"}, id="another-trust-domain"),
    ],
)
def test_a_chain_that_breaks_a_rule_is_refused_before_it_is_kept(
    offline: OfflineUpstream, tmp_path: pathlib.Path, facts: dict[str, object]
) -> None:
    request = ask(offline)
    with pytest.raises(Invalid, match="LM1611"):
        offline.put(chain_file(tmp_path / "chain.pem", ROOT, **facts), NOW)
    assert offline.pending() == [request]


def test_an_answer_that_turned_out_wrong_may_be_replaced(offline: OfflineUpstream, tmp_path: pathlib.Path) -> None:
    ask(offline)
    limits = x509.NameConstraints(
        permitted_subtrees=[x509.UniformResourceIdentifier("other.test")], excluded_subtrees=None
    )
    offline.put(chain_file(tmp_path / "first.pem", below(ROOT, constraints=limits), ROOT), NOW)
    with pytest.raises(Invalid, match="LM1611"):
        accept(offline.mint(CSR, NOW), KEY, DOMAIN, NOW, upstream="offline")
    offline.put(chain_file(tmp_path / "second.pem", ROOT), NOW)
    assert accept(offline.mint(CSR, NOW), KEY, DOMAIN, NOW, upstream="offline").roots == (ROOT.der,)


@pytest.mark.parametrize(
    "content", [b"", b"nothing", ROOT.pem, b"\x00" * (2 << 20)], ids=["empty", "text", "root", "large"]
)
def test_a_file_without_a_chain_is_refused(offline: OfflineUpstream, tmp_path: pathlib.Path, content: bytes) -> None:
    ask(offline)
    path = tmp_path / "chain.pem"
    path.write_bytes(content)
    with pytest.raises((Invalid, NotFound), match=r"LM1616|LM1618"):
        offline.put(path, NOW)


def test_a_request_that_was_changed_by_hand_says_so(offline: OfflineUpstream, tmp_path: pathlib.Path) -> None:
    ask(offline).write_text("changed")
    with pytest.raises(Invalid, match="LM1616"):
        offline.put(chain_file(tmp_path / "chain.pem", ROOT), NOW)


@pytest.mark.peer
@needs("openssl")
def test_the_ceremony_with_openssl(offline: OfflineUpstream, tmp_path: pathlib.Path) -> None:
    """The commands of docs/guides/upstream.md."""
    import datetime as dt

    request = ask(offline)

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "root.key")
    openssl(
        *("req", "-x509", "-new", "-key", "root.key", "-sha256", "-days", "3650", "-subj", "/CN=Corp root"),
        *("-addext", "basicConstraints=critical,CA:TRUE,pathlen:1", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        *("-out", "root.pem"),
    )
    lines = (
        "basicConstraints=critical,CA:TRUE,pathlen:0",
        "keyUsage=critical,keyCertSign,cRLSign",
        "subjectAltName=URI:spiffe://corp.test",
        "subjectKeyIdentifier=hash",
        "authorityKeyIdentifier=keyid",
    )
    (tmp_path / "issuing.ext").write_text("\n".join(lines) + "\n")
    openssl(
        *("x509", "-req", "-in", str(request), "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial"),
        *("-sha256", "-days", "365", "-extfile", "issuing.ext", "-out", "issuing.pem"),
    )
    (tmp_path / "chain.pem").write_bytes((tmp_path / "issuing.pem").read_bytes() + (tmp_path / "root.pem").read_bytes())
    now = x509.load_pem_x509_certificate((tmp_path / "issuing.pem").read_bytes()).not_valid_before_utc
    now += dt.timedelta(minutes=1)
    offline.put(tmp_path / "chain.pem", now)
    assert accept(offline.mint(CSR, now), KEY, DOMAIN, now, upstream="offline").not_after > now + 300 * DAY
