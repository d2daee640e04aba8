"""A real step-ca in a temporary directory, configured by files alone."""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.keys import SigningKey
from ca.upstream.stepca import thumbprint
from tests.ca.upstream.chains import Made
from tests.ports import free_port

TEMPLATE = """{
  "subject": {{ toJson .Subject }},
  "sans": {{ toJson .SANs }},
  "keyUsage": ["certSign", "crlSign"],
  "basicConstraints": {"isCA": true, "maxPathLen": 0}
}"""


def binary(name: str) -> str:
    folder = os.environ.get("LIMEN_PEERS", "")
    found = shutil.which(name, path=f"{folder}:{os.environ['PATH']}" if folder else None)
    if found is None:
        pytest.skip(f"{name} is not installed: .ci/run builds it")
    return found


def private_pem(key: SigningKey | ec.EllipticCurvePrivateKey) -> bytes:
    found = key.key if isinstance(key, SigningKey) else key
    return found.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers = key.public_numbers()
    x, y = (
        base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode() for value in (numbers.x, numbers.y)
    )
    return {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "x": x, "y": y, "kid": thumbprint(key)}


@contextlib.contextmanager
def running_step_ca(
    folder: pathlib.Path,
    root: Made,
    intermediate: Made,
    provisioner: ec.EllipticCurvePublicKey,
    *,
    template: str | None,
) -> Iterator[str]:
    """Start it; give its URL; end it."""
    program, port = binary("step-ca"), free_port()
    (folder / "root.pem").write_bytes(root.pem)
    (folder / "intermediate.pem").write_bytes(intermediate.pem)
    (folder / "intermediate.key").write_bytes(private_pem(intermediate.key))
    entry: dict[str, object] = {"type": "JWK", "name": "limen", "key": public_jwk(provisioner)}
    entry["claims"] = {"maxTLSCertDuration": "720h", "defaultTLSCertDuration": "168h"}
    if template is not None:
        entry["options"] = {"x509": {"template": template}}
    settings = {
        "root": str(folder / "root.pem"),
        "crt": str(folder / "intermediate.pem"),
        "key": str(folder / "intermediate.key"),
        "address": f"127.0.0.1:{port}",
        "dnsNames": ["127.0.0.1"],
        "db": {"type": "bbolt", "dataSource": str(folder / "db")},
        "authority": {"provisioners": [entry]},
    }
    (folder / "ca.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "ca.json")], stdout=log, stderr=log)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=100)


def names(der: bytes) -> list[str]:
    found = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return found.value.get_values_for_type(x509.UniformResourceIdentifier)
