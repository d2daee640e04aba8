"""OpenID Connect discovery for JWT-SVIDs: a common client library validates them, through a rotation of the JWT key."""

import datetime as dt
import ssl
import urllib.request
from collections.abc import Iterator

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca.jwtmint import JwtSigner, jwt_signer, mint_jwt_svid
from limen.api.wellknown import Documents
from limen.tlsport import context_of
from mesh.bundle import TrustBundle
from mesh.clock import SystemClock
from mesh.spiffe import SpiffeId, TrustDomain
from tests.bundleendpoint import Endpoint, serving
from tests.limen.api.test_wellknown import jwk
from tests.rsakeys import rsa_key

CA = trustme.CA()
CLIENT = ssl.create_default_context(cadata=CA.cert_pem.bytes().decode())
AUDIENCE = "https://cloud.test"
WORKLOAD = SpiffeId.parse("spiffe://corp.test/ci/build")


class Provider:
    """What the server publishes, over TLS; the authority's keys come and go."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.issuer = f"https://127.0.0.1:{endpoint.port}"
        self.keys: list[tuple[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]] = []
        self.documents = Documents(self._bundle, self.issuer)

    def _bundle(self) -> TrustBundle:
        return TrustBundle(
            trust_domain=TrustDomain.parse("corp.test"), jwt_authorities=tuple(jwk(kid, key) for kid, key in self.keys)
        )

    def publish(self, *keys: tuple[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]) -> None:
        self.keys = list(keys)
        for path, work in (
            ("/keys", self.documents.keys),
            ("/.well-known/openid-configuration", self.documents.configuration),
        ):
            self.endpoint.serve(work()[0], path)

    def token(self, signer: JwtSigner) -> str:
        now = SystemClock().now()
        life = dt.timedelta(minutes=5)
        return mint_jwt_svid(WORKLOAD, [AUDIENCE], signer, now=now, life=life, jti="1", issuer=self.issuer)[0]


@pytest.fixture
def provider() -> Iterator[Provider]:
    issued = CA.issue_cert("127.0.0.1")
    with serving(context_of(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())) as endpoint:
        yield Provider(endpoint)


def discovered(provider: Provider) -> dict[str, object]:
    url = f"{provider.issuer}/.well-known/openid-configuration"
    with urllib.request.urlopen(url, context=CLIENT, timeout=60) as answer:
        import json

        return dict(json.loads(answer.read()))


def validate(provider: Provider, client: jwt.PyJWKClient, token: str) -> str:
    algorithms = discovered(provider)["id_token_signing_alg_values_supported"]
    assert isinstance(algorithms, list)
    key = client.get_signing_key_from_jwt(token)
    claims = jwt.decode(
        token, key, algorithms=algorithms, audience=AUDIENCE, issuer=provider.issuer,
        options={"require": ["exp", "iss", "aud", "sub"]},
    )  # fmt: skip
    return str(claims["sub"])


def test_pyjwt_validates_a_jwt_svid_from_the_issuer_alone_while_the_key_rotates(provider: Provider) -> None:
    one, two = ("one", ec.generate_private_key(ec.SECP256R1())), ("two", ec.generate_private_key(ec.SECP256R1()))
    first, second = (jwt_signer(kid, key) for kid, key in (one, two))
    provider.publish(one)
    found = discovered(provider)
    assert found["issuer"] == provider.issuer
    client = jwt.PyJWKClient(str(found["jwks_uri"]), ssl_context=CLIENT, cooldown_duration=0)
    old = provider.token(first)
    assert validate(provider, client, old) == str(WORKLOAD)
    # prepared: published, not used; then active; then gone. A client that met an unknown key waits before
    # it asks again: as a key is published well before it signs, none has to
    provider.publish(one, two)
    assert validate(provider, client, provider.token(first)) == str(WORKLOAD)
    new = provider.token(second)
    assert validate(provider, client, new) == str(WORKLOAD)
    assert validate(provider, client, old) == str(WORKLOAD)
    provider.publish(two)
    fresh = jwt.PyJWKClient(str(found["jwks_uri"]), ssl_context=CLIENT)
    assert validate(provider, fresh, new) == str(WORKLOAD)
    with pytest.raises(jwt.PyJWKClientError):
        validate(provider, fresh, old)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa_key(),
    ],
    ids=["ES256", "ES384", "RS256"],
)
def test_keys_of_every_kind_are_validated(
    provider: Provider, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    provider.publish(("k", key))
    client = jwt.PyJWKClient(str(discovered(provider)["jwks_uri"]), ssl_context=CLIENT)
    assert validate(provider, client, provider.token(jwt_signer("k", key))) == str(WORKLOAD)


def test_a_token_for_somebody_else_or_of_another_key_is_refused(provider: Provider) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    provider.publish(("k", key))
    client = jwt.PyJWKClient(str(discovered(provider)["jwks_uri"]), ssl_context=CLIENT)
    with pytest.raises(jwt.InvalidSignatureError):
        validate(provider, client, provider.token(jwt_signer("k", other)))
    provider.issuer = "https://evil.test"
    token = provider.token(jwt_signer("k", key))
    provider.issuer = f"https://127.0.0.1:{provider.endpoint.port}"
    with pytest.raises(jwt.InvalidIssuerError):
        validate(provider, client, token)
