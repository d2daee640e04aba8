"""From an authority above, through an issuing key in a token, to an SVID that other implementations accept."""

import contextlib
import datetime as dt
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca import mint
from ca.keyledger import LedgeredKeys
from ca.keys import KeyAlgorithm, generate
from ca.keysource import DatabaseKeys, KeySource
from ca.mint import Issuer
from ca.pkcs11source import TokenKeys
from ca.pkcs11token import Token
from ca.pkcs11uri import parse_token_uri
from ca.upstream.chain import Upstream
from ca.upstream.local import LocalUpstream, own_root
from ca.upstream.request import Prepared, UpstreamRequests
from ca.upstream.spire import SpireUpstream
from ca.upstream.stepca import StepCaUpstream
from mesh.bundle import TrustBundle
from mesh.clock import SystemClock
from mesh.database import migrate, transaction
from mesh.problems import Forbidden
from mesh.spiffe import SpiffeId
from mesh.wrapping import WrappingKey
from mesh.x509svid import verify_x509_svid
from tests.ca.softhsm import make_token
from tests.ca.upstream.chains import DAY, DOMAIN, below, root
from tests.ca.upstream.spireserver import running_spire
from tests.ca.upstream.stepca import TEMPLATE, binary, private_pem, running_step_ca

pytestmark = [pytest.mark.peer, pytest.mark.slow]
pytest.importorskip("pkcs11")
NAME = SpiffeId.parse("spiffe://corp.test/ns/shop/sa/web")
CLOCK = SystemClock()


@contextlib.contextmanager
def own(folder: pathlib.Path) -> Iterator[Upstream]:
    del folder
    key = generate(KeyAlgorithm.P384)
    yield LocalUpstream(DOMAIN, own_root(DOMAIN, key, now=CLOCK.now()), key)


@contextlib.contextmanager
def step_ca(folder: pathlib.Path) -> Iterator[Upstream]:
    now = CLOCK.now().replace(microsecond=0)
    above = root(begin=now - DAY, end=now + 30 * DAY)
    middle = below(above, begin=now - DAY, end=now + 30 * DAY, path_length=1)
    key = ec.generate_private_key(ec.SECP256R1())
    for name, data in (("roots.pem", above.pem), ("provisioner.key", private_pem(key))):
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    with running_step_ca(folder, above, middle, key.public_key(), template=TEMPLATE) as url:
        files = {"roots": folder / "roots.pem", "key": folder / "provisioner.key"}
        yield StepCaUpstream(DOMAIN, url=url, provisioner="limen", **files)


@contextlib.contextmanager
def spire(folder: pathlib.Path) -> Iterator[Upstream]:
    with running_spire(folder) as found:
        found.entry("/limen", "-downstream")
        yield SpireUpstream(DOMAIN, address=found.address, workload_api=found.workload_api, clock=CLOCK)


def prepare(maker: UpstreamRequests) -> Prepared:
    """Get an authority; SPIRE's agent hears of its entry within five seconds."""
    for _ in range(400):
        try:
            return maker.prepare(CLOCK.now())
        except Forbidden as err:
            last = err
            time.sleep(0.25)
    raise last


@pytest.mark.parametrize("place", ["token", "database"])
@pytest.mark.parametrize("above", [own, step_ca, spire], ids=["own", "step-ca", "spire"])
def test_an_svid_below_any_authority_is_accepted_by_everybody(
    tmp_path: pathlib.Path,
    engine: sa.Engine,
    wrapping: WrappingKey,
    above: Callable[[pathlib.Path], contextlib.AbstractContextManager[Upstream]],
    place: str,
) -> None:
    migrate(engine, "ca")
    source: KeySource = DatabaseKeys(engine, wrapping)
    if place == "token":
        source = TokenKeys(Token(parse_token_uri(make_token(tmp_path, f"limen-{above.__name__}".replace("_", "-")))))
    keys = LedgeredKeys(source, engine, CLOCK)
    folder = tmp_path / "above"
    folder.mkdir()
    with above(folder) as upstream:
        maker = UpstreamRequests(engine=engine, keys=keys, upstream=upstream, trust_domain=DOMAIN)
        found = prepare(maker)
    with transaction(engine) as connection:
        maker.settle(connection, found.name)
    issuer = Issuer(certificate=x509.load_der_x509_certificate(found.chain[0]), key=keys.load(found.name).key)
    now = CLOCK.now()
    public = generate(KeyAlgorithm.P256).public_key
    leaf = mint.mint_svid(NAME, public, issuer, serial=77, now=now, life=dt.timedelta(minutes=10))
    bundle = TrustBundle(trust_domain=DOMAIN, x509_authorities=found.roots)
    assert verify_x509_svid([leaf, *found.chain], {DOMAIN: bundle}, CLOCK.now()).spiffe_id == NAME
    for name, ders in (
        ("roots", found.roots),
        ("leaf", [leaf]),
        ("above.pem", found.chain),
        ("chain", [leaf, *found.chain]),
    ):
        pems = (x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)
        (tmp_path / name).write_bytes(b"".join(pems))
    for command in (
        ["openssl", "verify", "-purpose", "sslserver", "-CAfile", "roots", "-untrusted", "above.pem", "leaf"],
        [binary("spiffe-verify"), "chain", "roots", "corp.test"],
    ):
        done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
