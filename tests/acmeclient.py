"""An ACME client for tests: signs what it is told to, also what no client would."""

import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding

from ca.acme.jws import encode
from limen.acme.service import Acme
from mesh.problems import Problem

BASE = "https://limen.test"


def jwk_of(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    found = key.public_key().public_numbers()
    return {"kty": "EC", "crv": "P-256", "x": encode(found.x.to_bytes(32)), "y": encode(found.y.to_bytes(32))}


def sign(key: ec.EllipticCurvePrivateKey, header: dict[str, Any], payload: bytes) -> bytes:
    protected, body = encode(json.dumps(header).encode()), encode(payload)
    r, s = utils.decode_dss_signature(key.sign(f"{protected}.{body}".encode(), ec.ECDSA(hashes.SHA256())))
    signature = encode(r.to_bytes(32) + s.to_bytes(32))
    return json.dumps({"protected": protected, "payload": body, "signature": signature}).encode()


class Client:
    """One key, one account."""

    def __init__(self, acme: Acme) -> None:
        self.acme, self.key, self.kid = acme, ec.generate_private_key(ec.SECP256R1()), ""

    def body(self, path: str, payload: object | None, **header: Any) -> bytes:
        who: dict[str, Any] = {"kid": self.kid} if self.kid else {"jwk": jwk_of(self.key)}
        found = {"alg": "ES256", "nonce": self.acme.nonce(), "url": BASE + path, **who, **header}
        data = b"" if payload is None else json.dumps(payload).encode()
        return sign(self.key, {name: value for name, value in found.items() if value is not None}, data)

    def raw(self, path: str, payload: bytes) -> bytes:
        """A message of this account, well signed, around any bytes."""
        header = {"alg": "ES256", "nonce": self.acme.nonce(), "url": BASE + path, "kid": self.kid}
        return sign(self.key, header, payload)

    def post(self, path: str, payload: object | None = None, **header: Any) -> Any:
        return self.acme.call(self.body(path, payload, **header), BASE, path)

    def register(self, **fields: Any) -> Any:
        answer = self.post("/acme/new-account", fields)
        self.kid = answer[1]["Location"]
        return answer

    def code(self, path: str, payload: object | None = None, **header: Any) -> str:
        try:
            self.post(path, payload, **header)
        except Problem as problem:
            return problem.code
        return ""

    def order(self, *names: str) -> tuple[str, Any]:
        found = self.post("/acme/new-order", {"identifiers": [{"type": "dns", "value": name} for name in names]})
        return found[1]["Location"].removeprefix(BASE), found[2]

    def prove(self, order: Any) -> None:
        for url in order["authorizations"]:
            challenges = self.post(url.removeprefix(BASE))[2]["challenges"]
            self.post(challenges[0]["url"].removeprefix(BASE), {})
        for task in self.acme.due():
            self.acme.judge(task.id, None)

    def obtain(self, *names: str) -> bytes:
        _, order = self.order(*names)
        self.prove(order)
        done = self.post(order["finalize"].removeprefix(BASE), {"csr": encode(csr(*names))})[2]
        assert done["status"] == "valid"
        pem: bytes = self.post(done["certificate"].removeprefix(BASE))[2]
        return pem


def csr(*names: str, key: Any = None) -> bytes:
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(alternatives, False)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)
