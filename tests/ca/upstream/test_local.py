import datetime as dt
import pathlib
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding

from ca.keys import KeyAlgorithm, SigningKey, generate
from ca.upstream.chain import accept, build_csr
from ca.upstream.local import LocalUpstream, open_disk, own_root, read_certificates, read_secret, token_key
from mesh.problems import Invalid, NotFound, Problem
from tests.ca.upstream.chains import DAY, DOMAIN, NOW, Made, below, root
from tests.tools import needs

KEY = generate(KeyAlgorithm.P256)
CSR = build_csr(KEY, DOMAIN)


def key_pem(key: SigningKey, password: bytes | None = None, *, old: bool = False) -> bytes:
    form = serialization.PrivateFormat.TraditionalOpenSSL if old else serialization.PrivateFormat.PKCS8
    sealed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.key.private_bytes(Encoding.PEM, form, sealed)


def put(path: pathlib.Path, data: bytes, mode: int = 0o600) -> pathlib.Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


ALGORITHMS = [found for found in KeyAlgorithm if found is not KeyAlgorithm.RSA_4096]


@pytest.mark.parametrize("below_", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048])
@pytest.mark.parametrize("above", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_3072])
def test_our_own_root_of_any_kind_signs_an_issuing_authority_of_any_kind(
    above: KeyAlgorithm, below_: KeyAlgorithm
) -> None:
    key, issuing = generate(above), generate(below_)
    upstream = LocalUpstream(DOMAIN, own_root(DOMAIN, key, now=NOW), key)
    found = accept(upstream.mint(build_csr(issuing, DOMAIN), NOW), issuing, DOMAIN, NOW, upstream="own")
    assert len(found.chain) == 1
    assert found.not_after == NOW + 90 * DAY


def test_an_issuing_certificate_never_outlives_its_issuer_and_has_no_room_below() -> None:
    above = root(end=NOW + 2 * DAY)
    found = x509.load_der_x509_certificate(LocalUpstream(DOMAIN, above.certificate, above.key).mint(CSR, NOW).chain[0])
    assert found.not_valid_after_utc == NOW + 2 * DAY
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    with pytest.raises(Invalid, match="LM1204"):
        LocalUpstream(DOMAIN, above.certificate, above.key).mint(CSR, NOW + 3 * DAY)


def test_a_request_only_brings_its_key() -> None:
    above = root()
    wish = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://other.test")]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=9), critical=True)
    )
    csr = wish.sign(KEY.key, KEY.hash).public_bytes(Encoding.DER)
    found = accept(LocalUpstream(DOMAIN, above.certificate, above.key).mint(csr, NOW), KEY, DOMAIN, NOW, upstream="own")
    assert len(found.chain) == 1


def test_a_key_that_is_not_the_certificates_is_refused() -> None:
    with pytest.raises(Invalid, match="LM1616"):
        LocalUpstream(DOMAIN, root().certificate, KEY)


@pytest.mark.parametrize("old", [False, True], ids=["PKCS8", "SEC1"])
@pytest.mark.parametrize("password", [None, b"correct horse"], ids=["plain", "encrypted"])
def test_a_root_on_disk_signs(tmp_path: pathlib.Path, old: bool, password: bytes | None) -> None:
    above = root()
    certificate = put(tmp_path / "root.pem", above.pem)
    key = put(tmp_path / "root.key", key_pem(above.key, password, old=old))
    secret = put(tmp_path / "passphrase", b"correct horse\n") if password else None
    upstream = open_disk(DOMAIN, certificates=certificate, key=str(key), passphrase=secret)
    assert accept(upstream.mint(CSR, NOW), KEY, DOMAIN, NOW, upstream="disk").roots == (above.der,)


def test_an_intermediate_on_disk_brings_its_chain(tmp_path: pathlib.Path) -> None:
    above = root()
    middle = below(above)
    key = put(tmp_path / "key", key_pem(middle.key))
    bundle = put(tmp_path / "roots.pem", above.pem)
    both, alone = put(tmp_path / "both.pem", middle.pem + above.pem), put(tmp_path / "alone.pem", middle.pem)
    for upstream in (
        open_disk(DOMAIN, certificates=both, key=str(key)),
        open_disk(DOMAIN, certificates=alone, key=str(key), bundle=bundle),
    ):
        found = accept(upstream.mint(CSR, NOW), KEY, DOMAIN, NOW, upstream="disk")
        assert (found.chain[1:], found.roots) == ((middle.der,), (above.der,))
    with pytest.raises(Invalid, match="LM1616"):
        open_disk(DOMAIN, certificates=alone, key=str(key))


@pytest.mark.peer
@needs("openssl")
def test_openssl_verifies_the_whole_chain(tmp_path: pathlib.Path) -> None:
    for kind in (KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.RSA_3072):
        key = generate(kind)
        issuing = generate(kind)
        upstream = LocalUpstream(DOMAIN, own_root(DOMAIN, key, now=NOW), key)
        answer = upstream.mint(build_csr(issuing, DOMAIN), NOW)
        for name, der in (("root", answer.roots[0]), ("issuing", answer.chain[0])):
            (tmp_path / name).write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
        at = str(int((NOW + dt.timedelta(hours=1)).timestamp()))
        command = ["openssl", "verify", "-x509_strict", "-attime", at, "-CAfile", "root", "issuing"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=30)


def test_files_that_are_something_else_are_refused(tmp_path: pathlib.Path) -> None:
    above = root()
    good, key = put(tmp_path / "root.pem", above.pem), put(tmp_path / "root.key", key_pem(above.key))
    nothing, empty = tmp_path / "nothing", put(tmp_path / "empty", b"")
    large = put(tmp_path / "large", b"x" * (2 << 20))
    other = put(tmp_path / "other.key", key_pem(KEY))
    loose = put(tmp_path / "loose.key", key_pem(above.key), 0o640)
    sealed = put(tmp_path / "sealed.key", key_pem(above.key, b"secret"))
    for certificates, private in (
        (nothing, key),
        (empty, key),
        (key, key),
        (large, key),
        (good, nothing),
        (good, empty),
        (good, large),
        (good, good),
        (good, other),
        (good, sealed),
        (good, loose),
    ):
        with pytest.raises(Invalid, match=r"LM1616|LM1607"):
            open_disk(DOMAIN, certificates=certificates, key=str(private))
    with pytest.raises(Invalid, match="LM1616"):
        open_disk(DOMAIN, certificates=good, key=str(sealed), passphrase=put(tmp_path / "wrong", b"wrong"))
    with pytest.raises(Invalid, match="LM1607"):
        read_secret(loose)
    assert len(read_certificates(good)) == 1


@pytest.mark.peer
def test_a_root_whose_key_is_in_a_token_signs(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pkcs11")
    from ca.pkcs11token import Token
    from ca.pkcs11uri import parse_token_uri
    from tests.ca.softhsm import make_token

    uri = make_token(tmp_path, "limen-root")
    key = Token(parse_token_uri(uri)).generate("offline-root", KeyAlgorithm.P256)
    made = Made(own_root(DOMAIN, key, now=NOW), key)
    certificate = put(tmp_path / "root.pem", made.pem)
    named = uri.replace("token=limen-root", "token=limen-root;object=offline-root")
    upstream = open_disk(DOMAIN, certificates=certificate, key=named)
    assert accept(upstream.mint(CSR, NOW), KEY, DOMAIN, NOW, upstream="disk").roots == (made.der,)
    for text, code in ((uri, "LM1608"), (named.replace("offline-root", "no-such"), "LM1600")):
        with pytest.raises(Problem, match=code):
            token_key(text)
    assert NotFound is not Invalid
