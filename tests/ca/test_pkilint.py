"""pkilint, another implementation's idea of RFC 5280 and RFC 6960, over everything that an authority of ours signs.

Every finding from NOTICE on is a failure but the accepted ones, each with the reason why it is none. What is linted
comes from the authority, the server and the web authority as they issue, not from builders that tests call.
"""

import base64
import contextlib
import datetime as dt
import importlib
import io
import itertools
import json
import pathlib
import secrets
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.acme.names import Identifier
from ca.acme.profile import mint_crl, mint_issuing, mint_web
from ca.acme.profile import mint_root as mint_web_root
from ca.authority import Authority, open_authority
from ca.keys import KeyAlgorithm, generate, new_key
from ca.mint import SERVER_NAME, Issuer, mint_intermediate
from ca.rotation import Kind
from ca.upstream.local import own_root
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.wrapping import WrappingKey
from tests.ca.test_succession import revoke
from tests.world import RULES, make_world

# its command lines leave the files open that they read
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
WEB = SpiffeId.parse("spiffe://corp.test/ns/web/sa/front")
KINDS = [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.RSA_3072, KeyAlgorithm.ML_DSA_65]

# code: what its message begins with, and why what it says is no fault
ACCEPTED = {
    # it takes the authority of a URI for a host name with a top-level domain and refuses the scheme: a SPIFFE ID is
    # an RFC 3986 URI (SPIFFE-ID.md §2), and X509-SVID.md §2 demands it in the SAN
    "pkix.invalid_uri_syntax": 'Invalid URI syntax: "spiffe://',
    # one label is a name in the preferred syntax (RFC 5280 §4.2.1.6, RFC 1034 §3.5). It stands in no DNS on purpose:
    # agents send it as the server's name and believe the pinned key alone
    "pkix.invalid_domain_name_syntax": f'Invalid domain name syntax: "{SERVER_NAME}"',
}
# it knows no ML-DSA: it can neither verify such a signature nor see that a root is self-signed and needs no authority
# key id. `tests/ca/test_mldsa.py` and our own verifier, by OpenSSL, do
ML_DSA_65 = "2.16.840.1.101.3.4.3.18"
ACCEPTED_OF_ML_DSA = {
    "pkix.aki_absent_self_issued_and_unsupported_algorithm": (
        f"Self-issued CA certificate uses unsupported public key algorithm: {ML_DSA_65}"
    ),
    "pkix.unsupported_algorithm": "",
}


def lint(tool: str, *words: str) -> set[tuple[str, str]]:
    """What pkilint finds, from NOTICE on, and is not accepted."""
    main = importlib.import_module(f"pkilint.bin.{tool}").main
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["lint", "-s", "NOTICE", "-f", "JSON", *words])
    return {
        (found["code"], found.get("message") or "")
        for row in json.loads(out.getvalue())["results"]
        for found in row["finding_descriptions"]
    }


def faults(found: set[tuple[str, str]], issuer: bytes) -> set[tuple[str, str]]:
    """What is left when what is accepted is taken out. ``issuer`` is the certificate whose key signed."""
    key = x509.load_der_x509_certificate(issuer).public_key_algorithm_oid.dotted_string
    known = ACCEPTED | (ACCEPTED_OF_ML_DSA if key == ML_DSA_65 else {})
    return {(code, message) for code, message in found if code not in known or not message.startswith(known[code])}


@pytest.fixture
def check(tmp_path: pathlib.Path) -> Callable[..., None]:
    """Lint certificates: each by itself, and each with the one that signed it."""

    def work(*ders: bytes) -> None:
        files = []
        for number, der in enumerate(ders):
            files.append(tmp_path / f"{number}.der")
            files[-1].write_bytes(der)
        for file in files:
            assert faults(lint("lint_pkix_cert", str(file)), file.read_bytes()) == set(), file.name
        for subject, issuer in itertools.pairwise(files):
            found = lint("lint_pkix_signer_signee_cert_chain", str(issuer), str(subject))
            assert faults(found, issuer.read_bytes()) == set(), subject.name

    return work


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> KeyAlgorithm:
    return KeyAlgorithm(request.param)


@pytest.fixture
def of_kind(
    engine: sa.Engine, wrapping: WrappingKey, domain: TrustDomain, now: dt.datetime, kind: KeyAlgorithm
) -> Authority:
    return open_authority(engine, wrapping, trust_domain=domain, now=now, algorithm=kind)


def signed(authority: Authority, now: dt.datetime, *dns: str) -> tuple[bytes, ...]:
    return authority.sign(WEB, new_key().public_key(), now=now, life=HOUR, node="n1", dns_names=dns)


def test_root_intermediate_and_leaf_are_clean(
    of_kind: Authority, kind: KeyAlgorithm, now: dt.datetime, check: Callable[..., None]
) -> None:
    chain = signed(of_kind, now, "front.corp.test")
    check(*chain, of_kind.bundle.x509_authorities[0])


def test_what_crosses_between_roots_is_clean(of_kind: Authority, now: dt.datetime, check: Callable[..., None]) -> None:
    old = of_kind.bundle.x509_authorities[0]
    made = of_kind.succession.prepare(Kind.ROOT, now, actor="ada", reason="drill")
    of_kind.succession.activate(made.id, now, actor="ada", reason="drill")
    chain = signed(of_kind, now)
    assert len(chain) == 3, "leaf, intermediate, and the new root by the old one"
    check(*chain, old)


def test_lists_of_what_was_revoked_are_clean(of_kind: Authority, now: dt.datetime, tmp_path: pathlib.Path) -> None:
    chain = signed(of_kind, now)
    revoke(of_kind, chain, now)
    (listed,) = of_kind.bundle.crls
    serials = [item.serial_number for item in x509.load_der_x509_crl(listed)]
    assert serials == [x509.load_der_x509_certificate(chain[0]).serial_number]
    file = tmp_path / "list.crl"
    file.write_bytes(listed)
    assert lint("lint_crl", "-t", "CRL", "-p", "PKIX", str(file)) == set()


def test_the_servers_pinned_certificate_is_clean(authority: Authority, check: Callable[..., None]) -> None:
    check(authority.server_certificate)


def test_the_svids_of_nodes_of_the_server_and_of_workloads_are_clean(
    tmp_path: pathlib.Path, check: Callable[..., None]
) -> None:
    world = make_world(tmp_path / "state")
    try:
        token = world.app.create_token(ttl_s=60, actor="test")["token"]
        root = world.app.bundle().x509_authorities[0]
        node = [base64.b64decode(item) for item in world.app.join(token, world.spki())["chain"]]
        world.app.svid.renew()
        world.rules(RULES)
        workload = world.issue(world.join(), unix__uid="1000").chain
        for chain in (node, world.app.svid._chain, workload):
            check(*chain, root)
        check(world.app._authority.server_certificate)
    finally:
        world.app.close()


def test_a_constrained_intermediate_and_a_root_made_by_hand_are_clean(
    domain: TrustDomain, now: dt.datetime, check: Callable[..., None], kind: KeyAlgorithm
) -> None:
    key = generate(kind)
    root = own_root(domain, key, now=now)
    issuer = Issuer(certificate=root, key=key.key)
    below = mint_intermediate(
        domain, new_key().public_key(), issuer, serial=secrets.randbits(159), now=now, life=DAY, constrained=True
    )
    check(below, root.public_bytes(Encoding.DER))


@pytest.mark.parametrize("leaf", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048], ids=str)
def test_the_web_authority_and_what_it_signs_are_clean(
    leaf: KeyAlgorithm, now: dt.datetime, check: Callable[..., None], tmp_path: pathlib.Path
) -> None:
    def serial() -> int:
        return secrets.randbits(159)

    root_key, key = new_key(), new_key()
    root = mint_web_root("corp.test", root_key, serial=serial(), now=now, life=DAY)
    above = Issuer(certificate=x509.load_der_x509_certificate(root), key=root_key)
    issuing = mint_issuing("corp.test", key.public_key(), above, serial=serial(), now=now, life=DAY)
    issuer = Issuer(certificate=x509.load_der_x509_certificate(issuing), key=key)
    names: list[Identifier] = [("dns", "a.corp.example"), ("ip", "192.0.2.1"), ("ip", "2001:db8::1")]
    url = "http://crl.corp.example/acme.crl"
    web = mint_web(names, generate(leaf).public_key, issuer, serial=serial(), now=now, life=HOUR, crl_url=url)
    check(web, issuing, root)
    file = tmp_path / "list.crl"
    file.write_bytes(mint_crl([(5, now, 1), (6, now, 0)], issuer, number=1, now=now, life=HOUR))
    assert lint("lint_crl", "-t", "CRL", "-p", "PKIX", str(file)) == set()


def test_it_finds_faults(now: dt.datetime, tmp_path: pathlib.Path, domain: TrustDomain) -> None:
    """The linter is awake: a certificate without what RFC 5280 demands is not clean."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    made = (
        x509.CertificateBuilder()
        .issuer_name(name)
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + HOUR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "bad.der"
    file.write_bytes(made.public_bytes(Encoding.DER))
    assert faults(lint("lint_pkix_cert", str(file)), file.read_bytes())
