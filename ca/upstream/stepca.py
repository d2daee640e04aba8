"""A step-ca as the authority above ours, over its JSON API: one token for each request, and a template for CAs.

The token is a JWS of one of step-ca's JWK provisioners, whose key only this server needs to have; the provisioner's
template decides that an intermediate comes back. The server is verified by the root that we were given, and so is
the chain. Written for the API of step-ca 0.30 (`POST /1.0/sign`).
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import math
import pathlib
import secrets
import ssl
import urllib.parse
from collections.abc import Callable
from typing import Any

import httpx2
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca.upstream.chain import Upstreamed, ders
from ca.upstream.local import read_certificates, read_secret
from mesh.certpath import read_pem
from mesh.problems import Forbidden, Invalid, Unavailable
from mesh.spiffe import TrustDomain

TIMEOUT_S = 15.0
TOKEN_LIFE = dt.timedelta(minutes=5)
SKEW = dt.timedelta(seconds=30)
MAX_ANSWER_BYTES = 1 << 20


class StepCaUpstream:
    """One provisioner of one step-ca."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        *,
        url: str,
        roots: pathlib.Path,
        provisioner: str,
        key: pathlib.Path,
        random: Callable[[int], bytes] = secrets.token_bytes,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """Read root and key. Raises Invalid LM1610, LM1616 and LM1607."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise Invalid("LM1610", given=url, reason="`url` is https://HOST[:PORT]")
        self.name = f"step-ca:{url}"
        self._url, self._provisioner, self._random = url.rstrip("/"), provisioner, random
        self._trust_domain, self._transport = trust_domain, transport
        self._roots = ders(read_certificates(roots))
        self._key, self._kid = read_provisioner_key(key)
        self._tls = ssl.create_default_context(cafile=str(roots))
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2

    def mint(self, csr: bytes, now: dt.datetime) -> Upstreamed:
        """Send the request with a fresh token. Raises Unavailable LM1613, Forbidden LM1612, Invalid LM1614."""
        request = x509.load_der_x509_csr(csr)
        body = {"csr": request.public_bytes(Encoding.PEM).decode(), "ott": self._token(request, now)}
        answer = self._post("/1.0/sign", body)
        listed = answer.get("certChain")
        if not isinstance(listed, list) or not listed or not all(isinstance(item, str) for item in listed):
            raise Invalid("LM1614", upstream=self.name, reason="it has no list `certChain`")
        try:
            chain = [found for item in listed for found in read_pem(item.encode())]
        except ValueError as err:
            raise Invalid("LM1614", upstream=self.name, reason="`certChain` is not PEM certificates") from err
        return Upstreamed(chain=ders(chain), roots=self._roots)

    def _token(self, request: x509.CertificateSigningRequest, now: dt.datetime) -> str:
        """A token for one request: step-ca compares its subject and names with the request's, and takes it once."""
        (subject,) = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        claims = {
            "iss": self._provisioner,
            "aud": f"{self._url}/1.0/sign",
            "sub": str(subject.value),
            "sans": [str(self._trust_domain.id)],
            "jti": self._random(32).hex(),
            # a token from before its own start is refused by step-ca: never rounded down
            "iat": math.ceil(now.timestamp()),
            "nbf": int((now - SKEW).timestamp()),
            "exp": int((now + TOKEN_LIFE).timestamp()),
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._kid})

    def _post(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        try:
            with (
                httpx2.Client(
                    verify=self._tls, timeout=TIMEOUT_S, trust_env=False, transport=self._transport
                ) as client,
                client.stream("POST", self._url + path, json=body) as response,
            ):
                data = b""
                for piece in response.iter_bytes():
                    data += piece
                    if len(data) > MAX_ANSWER_BYTES:
                        raise Invalid("LM1614", upstream=self.name, reason="it is larger than 1 MiB")
        except httpx2.HTTPError as err:
            raise Unavailable("LM1613", upstream=self.name, reason=f"{err}"[:200] or type(err).__name__) from err
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as err:
            raise Invalid("LM1614", upstream=self.name, reason=f"status {response.status_code}, not JSON") from err
        if not isinstance(found, dict):
            raise Invalid("LM1614", upstream=self.name, reason="it is no JSON object")
        if response.status_code in {400, 401, 403}:
            said = found.get("message")
            reason = said if isinstance(said, str) else f"status {response.status_code}"
            raise Forbidden("LM1612", upstream=self.name, reason=printable(reason))
        if response.status_code not in {200, 201}:
            raise Unavailable("LM1613", upstream=self.name, reason=f"status {response.status_code}")
        return found


def printable(text: str) -> str:
    """What somebody else said, fit for one line of a message."""
    return "".join(found if found.isprintable() else " " for found in text[:300])


def read_provisioner_key(path: pathlib.Path) -> tuple[ec.EllipticCurvePrivateKey, str]:
    """A provisioner's private key, as JWK or PEM, and its id: the JWK's `kid`, or its thumbprint (RFC 7638).

    Raises Invalid LM1616 for anything but a P-256 key, LM1607 for a file that others may read.
    """
    data = read_secret(path)
    kid = None
    try:
        if data.lstrip().startswith(b"{"):
            document = json.loads(data)
            kid = document.get("kid")
            key: Any = jwt.PyJWK(document, algorithm="ES256").key
        else:
            key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, RecursionError, jwt.PyJWTError) as err:
        raise Invalid("LM1616", path=str(path), reason="it holds no private key as JWK or PEM") from err
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("LM1616", path=str(path), reason="a provisioner's key is a P-256 key with its private part")
    return key, kid if isinstance(kid, str) and kid else thumbprint(key.public_key())


def thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """The id that step-ca gives a P-256 key: the SHA-256 of its canonical JWK (RFC 7638 §3)."""
    numbers = key.public_numbers()
    x, y = (_b64url(value.to_bytes(32, "big")) for value in (numbers.x, numbers.y))
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    return _b64url(hashlib.sha256(canonical.encode()).digest())


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
