"""Joining and coming back: the server proves itself with the pinned key, then the node proves itself.

A new node shows a join token. One that was here before, for however long it was gone, signs with the key of its last
SVID. Either way the key to be certified is on the disk before it is sent, so that no kill leaves the server knowing a
key that the node has lost. This module saves nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from enforcer.door import SERVER_NAME, Door, pin_of, time_of
from enforcer.nodestate import NodeState
from mesh import nodeproof
from mesh.crl import UNREADABLE
from mesh.jointoken import JoinPins, read_pins
from mesh.problems import Forbidden, Unavailable

__all__ = ["SERVER_NAME", "Admission", "JoinPins", "begin", "join", "pin_of", "readmit", "spki_of"]

_NO_ANSWER = (*UNREADABLE, KeyError, IndexError, x509.ExtensionNotFound)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a node that was let in has: its SVID for the key it sent, and what goes with it."""

    trust_domain: str
    spiffe_id: str
    chain: tuple[bytes, ...]
    bundle: bytes
    node_api: str
    server_certificate: bytes
    facts: tuple[tuple[str, str], ...]
    key: ec.EllipticCurvePrivateKey = dataclasses.field(repr=False)
    time: dt.datetime | None

    def into(self, state: NodeState) -> None:
        """Put it into the state of a node that was here before."""
        state.chain, state.bundle, state.key = self.chain, self.bundle, key_der(self.key)
        state.node_api, state.server_certificate, state.facts = self.node_api, self.server_certificate, self.facts
        state.spiffe_id = self.spiffe_id


def join(url: str, token: str, key: ec.EllipticCurvePrivateKey | None = None) -> NodeState:
    """Join a trust domain with a token.

    1. The pins are read from the token, which came by a trusted way.
    2. Over TLS to exactly the pinned key, the token and a public key are sent.
    3. The answer is of the trust domain that the token names, and certifies that key.

    Raises Invalid LM1207 or LM3441, Forbidden LM3442 for another server, Unavailable LM3443, and what the server
    answers.
    """
    # (1)
    pins = read_pins(token)
    door = Door(url, pins.server)
    # (2)
    key = key or ec.generate_private_key(ec.SECP256R1())
    answer = door.post("/v1/node/join", {"token": token, "spki": _text(spki_of(key))})
    # (3)
    admission = read_admission(door, answer, key)
    if admission.trust_domain != pins.trust_domain:
        raise Forbidden("LM3442", url=url)
    return begin(url, pins.server, pins.reviewers, admission)


def begin(url: str, server_pin: str, reviewers_pin: str, admission: Admission) -> NodeState:
    """The state of a node that was let in for the first time."""
    return NodeState(
        trust_domain=admission.trust_domain,
        url=url,
        node_api=admission.node_api,
        server_pin=server_pin,
        server_certificate=admission.server_certificate,
        reviewers_pin=reviewers_pin,
        spiffe_id=admission.spiffe_id,
        chain=admission.chain,
        bundle=admission.bundle,
        key=key_der(admission.key),
        record_key=ed25519.Ed25519PrivateKey.generate().private_bytes_raw(),
        facts=admission.facts,
    )


def readmit(state: NodeState, key: ec.EllipticCurvePrivateKey) -> Admission:
    """Come back with a new key, by proof of the last one.

    1. The server gives a nonce.
    2. The key of the last SVID signs a statement over server, nonce, node and new key.
    3. The answer certifies the new key for the same SPIFFE ID.

    Raises Forbidden or Unavailable as `Door.post` does, Forbidden LM3451 for (3).
    """
    door = Door(state.url, state.server_pin)
    # (1)
    nonce = str(door.post("/v1/node/nonce", {}).get("nonce", ""))
    # (2)
    last = load_der_private_key(state.key, password=None)
    assert isinstance(last, ec.EllipticCurvePrivateKey)
    spki = spki_of(key)
    data = nodeproof.statement("readmit", server_pin=state.server_pin, nonce=nonce, name=state.name, spki=spki)
    body = {
        "node": state.name,
        "nonce": nonce,
        "spki": _text(spki),
        "key": _text(spki_of(last)),
        "signature": _text(nodeproof.sign_statement(last, data)),
    }
    answer = door.post("/v1/node/readmit", body)
    # (3)
    admission = read_admission(door, answer, key)
    if (admission.spiffe_id, admission.trust_domain) != (state.spiffe_id, state.trust_domain):
        raise Forbidden("LM3451", url=state.url, reason=f"it names {admission.spiffe_id}")
    return admission


def read_admission(door: Door, answer: Mapping[str, Any], key: ec.EllipticCurvePrivateKey) -> Admission:
    """Read the answer to a node that asked to be let in.

    Raises Unavailable LM3443 for one that cannot be read, Forbidden LM3451 for another key than the one sent.
    """
    try:
        chain = tuple(base64.b64decode(item, validate=True) for item in answer["chain"])
        leaf = x509.load_der_x509_certificate(chain[0])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        admission = Admission(
            trust_domain=str(answer["trust_domain"]),
            spiffe_id=names.get_values_for_type(x509.UniformResourceIdentifier)[0],
            chain=chain,
            bundle=str(answer["bundle"]).encode(),
            node_api=str(answer["node_api"]),
            server_certificate=door.certificate,
            facts=tuple((str(name), str(value)) for name, value in answer.get("facts", [])),
            key=key,
            time=time_of(answer),
        )
        is_ours = leaf.public_key() == key.public_key()
    except _NO_ANSWER as err:
        raise Unavailable("LM3443", url=door.url, reason="its answer cannot be read") from err
    if not is_ours:
        raise Forbidden("LM3451", url=door.url, reason="it certifies another key")
    return admission


def spki_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key's public half, SubjectPublicKeyInfo, DER."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key, PKCS#8, DER; for memory, and for the disk only wrapped."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
