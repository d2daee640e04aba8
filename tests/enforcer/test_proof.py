import dataclasses
import os
import pathlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from enforcer import join, proof
from enforcer.proof import Method, attest, attest_again
from mesh.problems import Forbidden, Invalid, Unavailable
from tests.enforcer.test_nodestate import state
from tests.pki import make


@pytest.mark.parametrize(
    ("text", "attestor"),
    [
        ("x509pop:cert=/a,key=/b", "x509pop"),
        ("x509pop:cert=/a,key=/b,name=vm", "vm"),
        ("tpm", "tpm"),
        ("tpm:tcti=device", "tpm"),
        ("tpm:name=hw", "hw"),
        ("k8s:token=/t", "k8s"),
        ("oidc:token=/t", "oidc"),
        ("oidc:env=X,name=ci", "ci"),
    ],
)
def test_a_method_is_read(text: str, attestor: str) -> None:
    assert Method.parse(text).attestor == attestor


@pytest.mark.parametrize(
    "text",
    ["", "x", "x509pop", "x509pop:cert=/a", "x509pop:cert=,key=/b", "tpm:x=1", "k8s", "k8s:env=X", "oidc:token=a,env=b",
     "oidc:token=a,token=b", "k8s:token", "k8s:token=a,"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="LM3448"):
        Method.parse(text)


@given(st.text())
def test_no_text_is_a_bug(text: str) -> None:
    try:
        assert Method.parse(text).type in {"x509pop", "tpm", "k8s", "oidc"}
    except Invalid as problem:
        assert problem.code == "LM3448"


class Server:
    """Says yes to whatever is sent."""

    url, pin, certificate = "https://x:1", "sha256:0", b"c"

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        del body
        return {"nonce": "n"} if path.endswith("nonce") else {}


@pytest.mark.parametrize(
    ("method", "content"),
    [("oidc:token={}", None), ("oidc:token={}", b""), ("oidc:token={}", b"\xff"), ("k8s:token={}", b"x" * 20_000),
     ("oidc:env=LIMEN_NOT_SET", None), ("x509pop:cert={},key={}", None), ("x509pop:cert={},key={}", b"x")],
)  # fmt: skip
def test_what_cannot_be_read_is_said(method: str, content: bytes | None, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "f"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Unavailable, match="LM3447"):
        attest(
            Method.parse(method.format(path, path)), Server(), ec.generate_private_key(ec.SECP256R1()), is_fresh=True
        )  # type: ignore[arg-type]


def test_a_key_of_another_kind_is_said(tmp_path: pathlib.Path) -> None:
    key = ec.generate_private_key(ec.SECP256K1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key").write_bytes(pem)
    (tmp_path / "cert").write_bytes(make(subject="x").pem)
    method = Method.parse(f"x509pop:cert={tmp_path}/cert,key={tmp_path}/key")
    with pytest.raises(Unavailable, match="LM3447"):
        attest(method, Server(), ec.generate_private_key(ec.SECP256R1()), is_fresh=True)  # type: ignore[arg-type]


def test_a_host_that_is_taken_for_another_node_stays_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dataclasses.replace(state(), url="https://x:1")
    admission = join.Admission(
        trust_domain="td",
        spiffe_id="spiffe://td/limen/agent/vm.other",
        chain=(),
        bundle=b"",
        node_api="",
        server_certificate=b"",
        facts=(),
        key=ec.generate_private_key(ec.SECP256R1()),
        time=None,
    )
    monkeypatch.setattr(proof, "attest", lambda *_, **__: admission)
    with pytest.raises(Forbidden, match=r"LM3451.*vm\.other"):
        attest_again(Method.parse("tpm"), known, admission.key)


def test_a_token_of_the_environment_is_taken_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ID_TOKEN", "a.b.c")
    method = Method.parse("oidc:env=ID_TOKEN").settle()
    assert "ID_TOKEN" not in os.environ
    assert proof._token(method) == "a.b.c"
    assert "a.b.c" not in repr(method)
    assert Method.parse("tpm").settle() == Method.parse("tpm")
