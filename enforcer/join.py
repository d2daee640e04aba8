"""Joining: a token, a pin, and a server that proves itself with the pinned key before anything is told to it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import socket
import ssl
import urllib.parse
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from enforcer.nodestate import NodeState
from mesh.jointoken import JoinPins, read_pins
from mesh.problems import Forbidden, Invalid, Unavailable

SERVER_NAME = "limen-server"
TIMEOUT_S = 15.0
_MAX_ANSWER_BYTES = 1 << 20


def join(url: str, token: str) -> NodeState:
    """Join a trust domain.

    1. The pins are read from the token, which came by a trusted way.
    2. The server's certificate is fetched, and its key must have the pinned hash.
    3. Over TLS to exactly that key, the token and a fresh public key are sent.
    4. The answer is of the trust domain that the token names.

    Raises Invalid LM1207 or LM3441, Forbidden LM3442 for (2), Unavailable LM3443, and what the server answers.
    """
    # (1)
    pins = read_pins(token)
    host, port = _address(url)
    # (2)
    certificate = fetch_certificate(host, port, pins)
    # (3)
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    answer = _post(host, port, certificate, {"token": token, "spki": base64.b64encode(spki).decode()})
    # (4)
    if answer.get("trust_domain") != pins.trust_domain:
        raise Forbidden("LM3442", url=url)
    try:
        chain = tuple(base64.b64decode(item) for item in answer["chain"])
        leaf = x509.load_der_x509_certificate(chain[0])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        spiffe_id = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
        return NodeState(
            trust_domain=pins.trust_domain,
            url=url,
            node_api=str(answer["node_api"]),
            server_pin=pins.server,
            server_certificate=certificate,
            reviewers_pin=pins.reviewers,
            spiffe_id=spiffe_id,
            chain=chain,
            bundle=str(answer["bundle"]).encode(),
            key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            record_key=ed25519.Ed25519PrivateKey.generate().private_bytes_raw(),
        )
    except (KeyError, ValueError, TypeError, IndexError) as err:
        raise Unavailable("LM3443", url=url, reason="its answer cannot be read") from err


def fetch_certificate(host: str, port: int, pins: JoinPins) -> bytes:
    """Fetch the server's certificate and hold its key against the pin.

    Raises Forbidden LM3442 for another key, Unavailable LM3443 when nobody answers.
    """
    # nothing is said on this connection: it only shows which key the server has
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=TIMEOUT_S) as raw,
            context.wrap_socket(raw, server_hostname=SERVER_NAME) as tls,
        ):
            der = tls.getpeercert(binary_form=True)
    except OSError as err:
        raise Unavailable("LM3443", url=f"https://{host}:{port}", reason=err.strerror or str(err)) from err
    if der is None or not hmac.compare_digest(pin_of(der), pins.server):
        raise Forbidden("LM3442", url=f"https://{host}:{port}")
    return der


def pin_of(certificate: bytes) -> str:
    """The pin of a certificate's key."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + hashlib.sha256(spki).hexdigest()


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as err:
        raise Invalid("LM3441", url=url) from err
    if parts.scheme != "https" or not parts.hostname or port is None:
        raise Invalid("LM3441", url=url)
    return parts.hostname, port


def _post(host: str, port: int, certificate: bytes, body: dict[str, str]) -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    url = f"https://{host}:{port}"
    try:
        raw = socket.create_connection((host, port), timeout=TIMEOUT_S)
        connection.sock = context.wrap_socket(raw, server_hostname=SERVER_NAME)
        connection.request("POST", "/v1/node/join", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read(_MAX_ANSWER_BYTES))
    except (OSError, ValueError, http.client.HTTPException) as err:
        raise Unavailable("LM3443", url=url, reason=str(err)) from err
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise Unavailable("LM3443", url=url, reason="its answer cannot be read")
    problem = answer.get("problem")
    if response.status >= 300 or isinstance(problem, dict):
        told: dict[str, Any] = problem if isinstance(problem, dict) else {}
        facts: dict[str, Any] = {"reason": "it refuses", **told.get("facts", {}), "url": url}
        raise Forbidden(str(told.get("code", "LM3443")), **facts)
    return answer
