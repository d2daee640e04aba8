import datetime as dt
import pathlib
import subprocess
import sys
import textwrap

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from ca.keyledger import GRACE, LedgeredKeys
from ca.keys import KeyAlgorithm, spki_der
from ca.pkcs11source import TokenKeys
from ca.pkcs11token import Token
from ca.pkcs11uri import parse_token_uri
from mesh.clock import ManualClock
from mesh.database import migrate, sqlite_url
from mesh.problems import Conflict, NotFound
from tests.ca.softhsm import make_token
from tests.tools import needs

pytestmark = pytest.mark.peer
pytest.importorskip("pkcs11")
P256 = KeyAlgorithm.P256


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_token(tmp_path_factory.mktemp("softhsm"), "limen-source")


@pytest.fixture
def keys(uri: str) -> TokenKeys:
    return TokenKeys(Token(parse_token_uri(uri)))


def test_a_key_is_there_after_it_was_made(keys: TokenKeys) -> None:
    made = keys.new("one", P256)
    assert spki_der(keys.load("one").public_key) == spki_der(made.public_key)
    assert "one" in keys.names()
    with pytest.raises(Conflict, match="LM1601"):
        keys.new("one", P256)
    keys.delete("one")
    keys.delete("one")
    with pytest.raises(NotFound, match="LM1600"):
        keys.load("one")


def test_other_objects_of_the_partition_are_nobodys_business(keys: TokenKeys, uri: str) -> None:
    Token(parse_token_uri(uri)).generate("somebody-elses", P256)
    assert "somebody-elses" not in keys.names()
    keys.delete("somebody-elses")
    assert "somebody-elses" in Token(parse_token_uri(uri)).labels()


@needs("openssl")
@pytest.mark.parametrize("algorithm", [P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048])
def test_certificates_lists_and_requests_of_a_token_verify_with_openssl(
    keys: TokenKeys, tmp_path: pathlib.Path, now: dt.datetime, algorithm: KeyAlgorithm
) -> None:
    key = keys.new(f"root-{algorithm}", algorithm)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key)
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key.key, key.hash)
    )
    builder = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(now)
    revoked = builder.next_update(now + dt.timedelta(days=1)).sign(key.key, key.hash)
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key.key, key.hash)
    files = {"root": root, "crl": revoked, "csr": request}
    for file, found in files.items():
        (tmp_path / file).write_bytes(found.public_bytes(serialization.Encoding.PEM))
    at = str(int((now + dt.timedelta(hours=1)).timestamp()))
    for command in (
        ["verify", "-attime", at, "-check_ss_sig", "-CAfile", "root", "root"],
        ["crl", "-verify", "-noout", "-in", "crl", "-CAfile", "root"],
        ["req", "-verify", "-noout", "-in", "csr"],
    ):
        subprocess.run(["openssl", *command], cwd=tmp_path, check=True, capture_output=True, timeout=30)


CHILD = """
    import os, signal, sys
    import datetime as dt
    from ca.keyledger import LedgeredKeys
    from ca.keys import KeyAlgorithm
    from ca.pkcs11source import TokenKeys
    from ca.pkcs11token import Token
    from ca.pkcs11uri import parse_token_uri
    from mesh.clock import ManualClock
    from mesh.database import open_database

    keys = LedgeredKeys(
        TokenKeys(Token(parse_token_uri(sys.argv[1]))),
        open_database(sys.argv[2]),
        ManualClock(dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)),
    )
    keys.new("orphan", KeyAlgorithm.P256)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_kill_between_a_key_and_its_record_leaves_nothing_in_the_token(
    keys: TokenKeys, uri: str, tmp_path: pathlib.Path, engine: sa.Engine, now: dt.datetime
) -> None:
    migrate(engine, "ca")
    child = [sys.executable, "-c", textwrap.dedent(CHILD), uri, sqlite_url(tmp_path / "ca.db")]
    assert subprocess.run(child, check=False, timeout=60).returncode == -9
    assert "orphan" in keys.names()
    clock = ManualClock(now)
    ledgered = LedgeredKeys(keys, engine, clock)
    ledgered.new("next", P256)
    clock.advance(GRACE)
    assert ledgered.sweep({"next"}) == ("orphan",)
    assert "orphan" not in keys.names()
