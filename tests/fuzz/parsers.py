"""Every parser of bytes from outside in the identity half: good seeds, and how to run it on what came of them.

A target gives a value, or raises a Problem, or a ValueError where its contract says so; anything else is a bug. What is
signed is also changed before it is signed, by the very key that is trusted, so that what stands behind the signature is
reached too: an issuer or a client may be the attacker.
"""

import base64
import dataclasses
import datetime as dt
import functools
import json
from collections.abc import Callable
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509 import ocsp

from audit import issued
from ca import federation, keys, mint, revocation
from ca.acme import csr, jws, names
from ca.acme.nonces import Nonces as AcmeNonces
from ca.attestation import certificates, k8s, oidc, tpm, tpmwire, x509pop
from ca.attestation import token as join_token
from ca.attestation.nonce import Nonces
from ca.keys import KeyAlgorithm, generate
from ca.upstream import chain
from enforcer.door import Door
from enforcer.identity import read_issued
from enforcer.join import read_admission
from enforcer.jwtsvids import read_issued_jwt
from enforcer.native import wire
from enforcer.sds import Subscription
from mesh import bundle, crl, dnswire, jointoken, jwks, jwtsvid, nodeproof, truststate, x509svid
from mesh.clienthello import early_name
from mesh.jwtproof import JwtTrust, kid_of
from mesh.proto import node_pb2, workload_pb2
from mesh.spiffe import SpiffeId, TrustDomain
from tests.acmeclient import csr as new_csr
from tests.acmeclient import jwk_of, sign
from tests.ca.attestation import issuers
from tests.ca.attestation.chips import Chip, ak_public, ek_public
from tests.fuzz import watching
from tests.mesh.test_clienthello import hello
from tests.pki import BOTH, NOW, Pki

PKI = Pki()
DOMAIN = PKI.domain
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
ISSUING = PKI.signer(PKI.root, subject="issuing")
LEAF = PKI.leaf(issuer=ISSUING)
BUNDLE = bundle.TrustBundle(
    trust_domain=DOMAIN,
    x509_authorities=(PKI.root.der,),
    jwt_authorities=(json.dumps({**jwk_of(KEY), "kid": "k"}).encode(),),
    sequence=7,
    refresh_hint=300,
)
DOCUMENT = BUNDLE.to_json()
SERVER = mint.mint_server(KEY, serial=1, now=NOW, life=dt.timedelta(days=1))


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """``run`` takes changed seeds; ``values`` when a ValueError is part of its contract."""

    seeds: tuple[bytes, ...]
    run: Callable[[bytes], object]
    values: bool = False


def text(data: bytes) -> str:
    """Bytes as a caller may hand them on as text: UTF-8 where they are, one code point a byte elsewhere."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(header: bytes, claims: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> str:
    """A compact ES256 token of any two parts."""
    signed = f"{b64(header)}.{b64(claims)}"
    algorithm = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256)
    return f"{signed}.{b64(algorithm.sign(signed.encode(), key))}"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


HEADER = _json({"alg": "ES256", "kid": "k", "typ": "JWT"})
CLAIMS = _json(
    {
        "sub": f"spiffe://{DOMAIN}/a",
        "aud": ["me"],
        "exp": int(NOW.timestamp()) + 300,
        "nbf": int(NOW.timestamp()),
        "n": {"x": [1.5, None]},
    }
)
TRUSTED = {DOMAIN: BUNDLE}
ISSUER_KEYS = jwks.parse_jwks(_json({"keys": [{**jwk_of(KEY), "kid": "k"}]}))
TRUST = JwtTrust(issuer=issuers.ISSUER, audiences=(issuers.AUDIENCE,))
CLUSTER = k8s.K8s(name="c", node="{k8s-node}", trust=TRUST, keys="k", cluster="c", service_accounts=("n/s",))
JOBS = oidc.Oidc(name="o", node="{oidc-sub}", trust=TRUST, keys="k", claims=(("sub", "s*"),), facts=("n",))
POD = issuers.claims(
    sub="system:serviceaccount:n:s",
    **{
        "kubernetes.io": {
            "namespace": "n", "serviceaccount": {"name": "s", "uid": "u"},
            "pod": {"name": "p", "uid": "v"}, "node": {"name": "h", "uid": "w"},
        }
    },
)  # fmt: skip
JOB = issuers.claims(sub="s1", n=7)
MACHINE = PKI.leaf(subject="machine", extended=(BOTH[1],), key=KEY)
HOSTS = x509pop.X509Pop(name="x", node="{x509-cn}", authorities=(PKI.root.der,))
STATEMENT = nodeproof.statement("attest", server_pin="p", nonce="n", name="x", spki=SPKI)
CHIP = Chip()
QUOTE, QUOTE_SIGNATURE = CHIP.quote(STATEMENT)
CHIPS = tpm.Tpm(name="t", node="{tpm-ek}", ek_hashes=frozenset({"0" * 64}), authorities=(PKI.root.der,))
JOIN = join_token.make_token(
    KEY, server_pin="sha256:" + "0" * 64, reviewers_pin="sha256:" + "1" * 64, trust_domain=str(DOMAIN),
    now=NOW, ttl=dt.timedelta(minutes=5), random=bytes(16),
).text  # fmt: skip
STATE = truststate.TrustState(bundle=dataclasses.replace(BUNDLE, intermediates=frozenset({"a" * 64})), revoked=("a",))
CRL_ISSUER = mint.Issuer(certificate=PKI.root.certificate, key=PKI.root.key)  # type: ignore[arg-type]
CRL = (
    x509.CertificateRevocationListBuilder()
    .issuer_name(PKI.root.certificate.subject)
    .last_update(NOW)
    .next_update(NOW + dt.timedelta(days=1))
    .add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(7).revocation_date(NOW).build())
    .sign(PKI.root.key, hashes.SHA256())  # type: ignore[arg-type]
    .public_bytes(Encoding.DER)
)
OCSP = (
    ocsp.OCSPRequestBuilder()
    .add_certificate(LEAF.certificate, PKI.root.certificate, hashes.SHA1())
    .add_extension(x509.OCSPNonce(bytes(16)), critical=False)
    .build()
    .public_bytes(Encoding.DER)
)
ACME_HEADER = {"alg": "ES256", "nonce": "n", "url": "https://a/acme/new-account", "jwk": jwk_of(KEY)}
ACME = sign(KEY, ACME_HEADER, b'{"contact":["mailto:a@b.test"],"termsOfServiceAgreed":true}')
ACCOUNT = _json(jwk_of(KEY))
RSA_ACCOUNT = _json({"kty": "RSA", "n": b64(b"\xc1" + bytes(254) + b"\1"), "e": "AQAB"})
BINDING = sign(KEY, {"alg": "HS256", "kid": "a", "url": "u"}, ACCOUNT)
IDENTIFIERS = _json(
    [
        {"type": "dns", "value": "*.a.test"},
        {"type": "ip", "value": "::1"},
        {"type": "dns", "value": "xn--bcher-kva.test"},
    ]
)
ORDERED = (("dns", "a.test"), ("dns", "b.test"))
ACME_CSR = new_csr("a.test", "b.test", key=KEY)
UPSTREAM_KEY = generate(KeyAlgorithm.P256)
UPSTREAM_CSR = chain.build_csr(UPSTREAM_KEY, DOMAIN)
ADMISSION = _json(
    {
        "chain": [base64.b64encode(PKI.leaf(key=KEY).der).decode()], "trust_domain": str(DOMAIN),
        "bundle": DOCUMENT.decode(), "node_api": "127.0.0.1:1", "facts": [["a", "b"]], "time": "2026-11-24T12:00:00Z",
    }
)  # fmt: skip
ISSUED = node_pb2.IssuedSvid(
    ref="1", spiffe_id=f"spiffe://{DOMAIN}/ns/web/sa/front", chain=[LEAF.der, ISSUING.der], rule="r"
).SerializeToString()
ISSUED_JWT = node_pb2.IssuedJwt(
    ref="1", spiffe_id=f"spiffe://{DOMAIN}/a", token=compact(HEADER, CLAIMS), not_after="2026-11-24T12:05:00Z"
).SerializeToString()
VALIDATE = workload_pb2.ValidateJWTSVIDRequest(audience="me", svid=compact(HEADER, CLAIMS)).SerializeToString()
DNS_ASKED = dnswire.query("a.test", dnswire.TXT, 7)
DNS_HEARD = (
    b"\0\x07\x81\x80\0\x01\0\x02\0\0\0\0" + dnswire.query("a.test", dnswire.A, 7)[12:]
    + b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x05\x00\x04\x01b\xc0\x0e"
    + b"\xc0\x24\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xcb\x00\x71\x07"
)  # fmt: skip
DNS_ANSWER = (
    DNS_ASKED[:2] + b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + DNS_ASKED[12:]
    + b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x05\x00\x04\x03abc"
)  # fmt: skip


def _svid(data: bytes) -> object:
    return x509svid.verify_x509_svid(x509svid.split_chain(data), TRUSTED, NOW)


def _acme(data: bytes) -> object:
    found = jws.read(data)
    if found.jwk is not None:
        jws.verify(found, jws.key_of(found.jwk))
        jws.thumbprint(found.jwk)
    return found.body


def _sds(data: bytes) -> object:
    from envoy.service.discovery.v3 import discovery_pb2

    request = discovery_pb2.DiscoveryRequest.FromString(data)
    subscription = Subscription()
    subscription.take(request)
    return subscription.answer([_identity()], {str(DOMAIN): BUNDLE})


@functools.cache
def _identity() -> Any:
    return _issued(ISSUED)


def _issued(data: bytes) -> object:
    der = LEAF.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return _of_message(node_pb2.IssuedSvid, data, lambda message: read_issued(message, der, NOW))


def _issued_jwt(data: bytes) -> object:
    return _of_message(node_pb2.IssuedJwt, data, lambda message: read_issued_jwt([message], NOW))


def _of_message(kind: Any, data: bytes, read: Callable[[Any], object]) -> object:
    """What is read of a message; of bytes that are none there is nothing: gRPC refuses them."""
    from google.protobuf.message import DecodeError

    try:
        message = kind.FromString(data)
    except DecodeError:
        return None
    return read(message)


def _validated(data: bytes) -> object:
    from enforcer.jwtapi import validated

    return validated(_message(workload_pb2.ValidateJWTSVIDRequest, data), [_identity()], {str(DOMAIN): BUNDLE}, NOW)


def _message(kind: Any, data: bytes) -> Any:
    """A message; protobuf's own refusal is a ValueError here, and gRPC's business at a door."""
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(data)
    except DecodeError as err:
        raise ValueError(str(err)) from err


def _sds_message(data: bytes) -> object:
    from google.protobuf.message import DecodeError

    try:
        return _sds(data)
    except DecodeError as err:
        raise ValueError(str(err)) from err


def _sds_seed() -> bytes:
    from envoy.service.discovery.v3 import discovery_pb2

    names = ["default", "ALL", "ROOTCA", str(DOMAIN)]
    found: bytes = discovery_pb2.DiscoveryRequest(resource_names=names, response_nonce="").SerializeToString()
    return found


def _k8s(data: bytes) -> object:
    return k8s.verify(CLUSTER, token=text(data), keys=ISSUER_KEYS, now=NOW)


def _oidc(data: bytes) -> object:
    return oidc.verify(JOBS, token=text(data), keys=ISSUER_KEYS, now=NOW)


def _pop(data: bytes) -> object:
    return x509pop.verify(
        HOSTS, chain=[data], signature=nodeproof.sign_statement(KEY, STATEMENT), data=STATEMENT, now=NOW
    )


def _chip(**changed: bytes) -> object:
    shown = tpm.Keys(
        ek=changed.get("ek", ek_public()),
        ak=changed.get("ak", ak_public(CHIP.ak)),
        certificate=changed.get("certificate", b""),
    )
    return tpm.challenge(CHIPS, shown, secret=bytes(32), seed=bytes(32), now=NOW)


def _quote(data: bytes) -> object:
    tpmwire.is_signed(tpmwire.read_public(ak_public(CHIP.ak)), data, QUOTE)
    return tpmwire.read_quote(data)


def _names(data: bytes) -> object:
    found = jws.strict_object(b'{"identifiers":' + data + b"}", "payload")
    return names.identifiers(found["identifiers"])


def _admission(data: bytes) -> object:
    try:
        found = json.loads(data)
    except RecursionError as err:
        raise ValueError("too deep") from err
    if not isinstance(found, dict):
        raise ValueError("no object")
    return read_admission(Door("https://127.0.0.1:1", "sha256:0"), found, KEY)


def _of_token(
    verify: Callable[[str], object], *, header: bytes = HEADER, claims: bytes = CLAIMS
) -> tuple[Target, Target, Target]:
    """A token's verifier: changed as a whole, with changed claims signed again, with a changed header signed again."""
    return (
        Target((compact(header, claims).encode(),), lambda data: verify(text(data))),
        Target((claims,), lambda data: verify(compact(header, data))),
        Target((header,), lambda data: verify(compact(data, claims))),
    )


def _token_targets() -> dict[str, Target]:
    found = {}
    for name, verify, header, claims in (
        ("jwt-svid", lambda item: jwtsvid.verify_jwt_svid(item, "me", TRUSTED, NOW), HEADER, CLAIMS),
        ("k8s-token", lambda item: _k8s(item.encode()), HEADER, _json(POD)),
        ("oidc-token", lambda item: _oidc(item.encode()), HEADER, _json(JOB)),
        ("kid-of", kid_of, HEADER, _json(JOB)),
        ("join-pins", jointoken.read_pins, *_parts(JOIN)),
        ("join-token", lambda item: join_token.check_token(item, KEY.public_key(), NOW), *_parts(JOIN)),
        (
            "trust-state",
            lambda item: truststate.read_trust_state(item.encode(), DOMAIN, SERVER),
            *_parts(STATE.sign(KEY).decode()),
        ),
    ):
        whole, signed, headed = _of_token(verify, header=header, claims=claims)  # type: ignore[arg-type]
        found |= {name: whole, f"{name}-claims": signed, f"{name}-header": headed}
    return found


def _parts(token: str) -> tuple[bytes, bytes]:
    header, claims, _ = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    return header, claims


TARGETS: dict[str, Target] = {
    **_token_targets(),
    **watching.targets(Target),
    "issued-svid": Target((ISSUED,), _issued),
    "issued-jwt": Target((ISSUED_JWT,), _issued_jwt),
    "bundle": Target((DOCUMENT,), lambda data: bundle.parse_bundle(DOMAIN, data).to_json()),
    "bundle-map": Target((bundle.write_bundle_map([BUNDLE]),), bundle.parse_bundle_map),
    "first-bundle": Target((DOCUMENT, PKI.root.pem), lambda data: federation.first_bundle(DOMAIN, data)),
    "federation-url": Target(
        (b"https://a.test:8443/x?y", b"https://[::1]/b", b"https://1.2.3.4/"),
        lambda data: federation.check_url(text(data)),
    ),
    "x509-svid": Target((LEAF.der + ISSUING.der, PKI.leaf().der), _svid),
    "crl": Target((CRL,), lambda data: crl.is_listed(7, data, PKI.root.certificate)),
    "trust-payload": Target((STATE.payload(),), lambda data: truststate.parse_payload(data, DOMAIN)),
    "spiffe-id": Target((b"spiffe://corp.test/ns/a/sa/b",), lambda data: SpiffeId.parse(text(data)), values=True),
    "trust-domain": Target((b"corp.test",), lambda data: TrustDomain.parse(text(data)), values=True),
    "spki": Target((SPKI,), keys.parse_spki),
    "leaf-key": Target((SPKI,), lambda data: keys.parse_leaf_key(data, frozenset(KeyAlgorithm))),
    "node-signature": Target(
        (nodeproof.sign_statement(KEY, STATEMENT),), lambda data: nodeproof.is_signed(KEY.public_key(), data, STATEMENT)
    ),
    "node-nonce": Target(
        (Nonces(bytes(32)).make(NOW, bytes(16)).encode(),), lambda data: Nonces(bytes(32)).use(text(data), NOW)
    ),
    "acme-jws": Target((ACME,), _acme),
    "acme-protected": Target((_json(ACME_HEADER),), lambda data: _acme(_flattened(data, b"{}"))),
    "acme-payload": Target(
        (b'{"contact":["mailto:a@b.test"]}',), lambda data: _acme(_flattened(_json(ACME_HEADER), data))
    ),
    "acme-jwk": Target((ACCOUNT, RSA_ACCOUNT), lambda data: jws.key_of(jws.strict_object(data, "jwk"))),
    "acme-binding": Target((BINDING,), lambda data: jws.read_binding(jws.strict_object(data, "binding"))),
    "acme-nonce": Target((AcmeNonces(bytes).make(9).encode(),), lambda data: AcmeNonces(bytes).take(text(data), 9)),
    "acme-names": Target((IDENTIFIERS,), _names),
    "acme-csr": Target((ACME_CSR,), lambda data: csr.read_csr(data, ORDERED)),
    "upstream-csr": Target((UPSTREAM_CSR,), chain.read_csr),
    "jwks": Target((issuers.key_set(), _json({"keys": [{**jwk_of(KEY), "kid": "k"}]})), jwks.parse_jwks),
    "pem": Target((PKI.root.pem + LEAF.pem,), certificates.read_certificates, values=True),
    "x509pop": Target((MACHINE.der,), _pop),
    "tpm-ek": Target((ek_public(),), lambda data: _chip(ek=data)),
    "tpm-ak": Target((ak_public(CHIP.ak),), lambda data: _chip(ak=data)),
    "tpm-certificate": Target((MACHINE.der,), lambda data: _chip(certificate=data)),
    "tpm-quote": Target((QUOTE, QUOTE_SIGNATURE), _quote, values=True),
    "ocsp": Target((OCSP,), lambda data: revocation.answer_ocsp(data, [CRL_ISSUER], lambda *_: (True, None), NOW)),
    "logged-certificate": Target(
        (LEAF.der, PKI.root.pem), lambda data: [_look(item) for item in issued.read_certificates(data)]
    ),
    "admission": Target((ADMISSION,), _admission, values=True),
    "validate-request": Target((VALIDATE,), _validated, values=True),
    "sds-request": Target((_sds_seed(),), _sds_message, values=True),
    "wire": Target((wire.encode({"type": "a", "x": [1, {"y": None}]}),), lambda data: wire.Decoder().feed(data)),
    "dns-answer": Target((DNS_ANSWER,), lambda data: dnswire.answers(data, DNS_ASKED, dnswire.TXT), values=True),
    "dns-heard": Target((DNS_HEARD,), dnswire.heard, values=True),
    "early-hello": Target((hello("a.test"),), early_name),
}


def _flattened(header: bytes, payload: bytes) -> bytes:
    signed = f"{b64(header)}.{b64(payload)}"
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(KEY.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return _json({"protected": b64(header), "payload": b64(payload), "signature": b64(r.to_bytes(32) + s.to_bytes(32))})


WATCH = issued.Watch(
    [
        (
            0,
            _json(
                {
                    "kind": "ca",
                    "event": "authority",
                    "authority": "a",
                    "certificate": base64.b64encode(PKI.root.der).decode(),
                }
            ),
        )
    ]
)


def _look(certificate: x509.Certificate) -> object:
    return WATCH.look(certificate)
