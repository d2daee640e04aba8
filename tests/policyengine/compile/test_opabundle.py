"""Bundles: equal content has equal bytes, signatures name every file, and a real OPA verifies them."""

import gzip
import io
import json
import pathlib
import tarfile

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from limen.decisions import decision_from_json
from limen.opa import running_opa
from mesh.problems import Unavailable
from policyengine import reference
from policyengine.compile.opabundle import SIGNATURES, claims_of, files_of, write_bundle
from policyengine.compile.rego import compile_rego
from policyengine.inputdoc import input_of
from tests.policyengine.corners import allow, ask, tree
from tests.tools import require_opa

# text that JSON libraries write in different ways; characters that hide are refused in every tree
ODD = tree(
    app=[allow(when={"claims": {"issuer": "https://idp.test", "n": ['<&>\u00e9\u4e16\U0001f512"\\/', 1, True]}})]
)
KEY = ec.generate_private_key(ec.SECP256R1())


def sign(claims: object) -> str:
    assert isinstance(claims, dict)
    return jwt.encode(claims, KEY, algorithm="ES256", headers={"kid": "limen"})


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as tar:
        return {entry.name.lstrip("/"): tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def test_equal_programs_have_equal_bytes() -> None:
    assert write_bundle(compile_rego(ODD, "s"), None) == write_bundle(compile_rego(ODD, "s"), None)
    assert unpacked(write_bundle(compile_rego(ODD, "s"), None)) == files_of(compile_rego(ODD, "s"))


def test_manifest_names_revision_and_roots() -> None:
    manifest = json.loads(files_of(compile_rego(ODD, "sha256:00"))[".manifest"])
    assert (manifest["revision"], manifest["roots"]) == ("sha256:00", ["limen"])


def test_a_signature_names_every_other_file() -> None:
    files = unpacked(write_bundle(compile_rego(ODD, "s"), sign))
    (token,) = json.loads(files.pop(SIGNATURES))["signatures"]
    claims = jwt.decode(token, KEY.public_key(), algorithms=["ES256"])
    assert claims == claims_of(files)
    assert [row["name"] for row in claims["files"]] == sorted(files)


@pytest.fixture
def public_key(tmp_path: pathlib.Path) -> pathlib.Path:
    pem = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    return tmp_path / "key.pem"


def verifying(bundle: pathlib.Path, key: pathlib.Path) -> list[str]:
    return [
        "--bundle", str(bundle), "--verification-key", str(key), "--verification-key-id", "limen",
        "--signing-alg", "ES256",
    ]  # fmt: skip


@pytest.mark.peer
def test_OPA_verifies_the_signature_and_decides(tmp_path: pathlib.Path, public_key: pathlib.Path) -> None:
    require_opa()
    path = tmp_path / "policies.tar.gz"
    path.write_bytes(write_bundle(compile_rego(ODD, "s"), sign))
    with running_opa(*verifying(path, public_key)) as opa:
        found = decision_from_json(opa.decide(input_of(ask())))
    assert found == reference.decide(ODD, ask(), snapshot="s")


@pytest.mark.peer
def test_OPA_refuses_what_was_changed_after_signing(tmp_path: pathlib.Path, public_key: pathlib.Path) -> None:
    require_opa()
    program, other = compile_rego(tree(), "s"), compile_rego(tree(app=[allow()]), "s")
    path = tmp_path / "policies.tar.gz"
    path.write_bytes(write_bundle(other, lambda _: sign(claims_of(files_of(program)))))
    with pytest.raises(Unavailable, match="does not begin"), running_opa(*verifying(path, public_key)):
        pass
