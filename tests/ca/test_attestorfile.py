import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.attestation import k8s, oidc, tpm, x509pop
from ca.attestorfile import Attestor, has_errors, load_attestors
from mesh.problems import Diagnostic
from tests.pki import make, usage

ROOT = make(subject="machines", ca=True, key_usage=usage(key_cert_sign=True), extended=None)
FILES = {"ca.pem": ROOT.pem, "keys.json": b'{"keys": []}', "empty.pem": b"no certificate"}
GOOD = """
attestors:
- {name: vm, type: x509pop, ca: ca.pem, node: "{x509-cn}"}
- name: hw
  type: tpm
  ek_ca: ca.pem
  ek_hashes: ["sha256:0c194abdbcdb781d26b3afcc42744b8467c6abf405ce5801556d62c323749c21"]
- name: prod
  type: k8s
  cluster: prod-eu
  issuer: https://kubernetes.default.svc.cluster.local
  audience: limen
  jwks: https://10.0.0.1:6443/openid/v1/jwks
  jwks_ca: ca.pem
  service_accounts: [limen/agent]
- name: github
  type: oidc
  issuer: https://token.actions.githubusercontent.com
  audience: limen
  jwks: keys.json
  algorithms: [RS256]
  claims: {repository: corp/shop, ref: "refs/heads/*", attempt: 1}
  facts: [repository, run_id]
  node: "{oidc-repository}-{oidc-run_id}"
"""


def read(name: str) -> bytes:
    if name not in FILES:
        raise FileNotFoundError(2, "No such file or directory")
    return FILES[name]


def load(text: str) -> tuple[tuple[Attestor, ...], list[Diagnostic]]:
    return load_attestors(text, "attestors.yaml", read)


def test_every_type_is_read() -> None:
    attestors, found = load(GOOD)
    assert found == []
    vm, hw, prod, github = attestors
    assert isinstance(vm, x509pop.X509Pop)
    assert vm.authorities == (ROOT.der,)
    assert isinstance(hw, tpm.Tpm)
    assert len(hw.ek_hashes) == 1
    assert isinstance(prod, k8s.K8s)
    assert (prod.node, prod.keys_ca) == ("{k8s-node}", ROOT.pem)
    assert isinstance(github, oidc.Oidc)
    assert github.claims == (("repository", "corp/shop"), ("ref", "refs/heads/*"), ("attempt", "1"))
    assert github.trust.algorithms == ("RS256",)


@pytest.mark.parametrize("text", ["", "attestors:\n", "attestors: []\n"], ids=["empty", "null", "list"])
def test_a_file_may_have_none(text: str) -> None:
    assert load(text) == ((), [])


OIDC = "name: a, type: oidc, issuer: i, audience: a, jwks: keys.json"
K8S = 'name: a, type: k8s, issuer: i, audience: a, jwks: keys.json, cluster: c, service_accounts: ["n/s"]'


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("[]", "LM1250"),
        ("{type: x509pop, ca: ca.pem}", "LM1253"),
        ("{name: a, ca: ca.pem}", "LM1253"),
        ("{name: a, type: x509pop}", "LM1253"),
        ("{name: a, type: x509pob, ca: ca.pem}", "LM1254"),
        ("{name: A, type: x509pop, ca: ca.pem}", "LM1254"),
        ("{name: a.b, type: x509pop, ca: ca.pem}", "LM1254"),
        ("{name: node, type: x509pop, ca: ca.pem}", "LM1254"),
        ("{name: a-very-long-name, type: x509pop, ca: ca.pem}", "LM1254"),
        ("{name: a, type: x509pop, ca: gone.pem}", "LM1254"),
        ("{name: a, type: x509pop, ca: empty.pem}", "LM1254"),
        ("{name: a, type: x509pop, ca: ca.pem, ek_ca: ca.pem}", "LM1251"),
        ('{name: a, type: x509pop, ca: ca.pem, node: "{x509-cm}"}', "LM1255"),
        ("{name: a, type: x509pop, ca: ca.pem, node: all}", "LM1254"),
        ('{name: a, type: x509pop, ca: ca.pem, node: "{x509-cn}}"}', "LM1254"),
        ("{name: a, type: tpm}", "LM1253"),
        ("{name: a, type: tpm, ek_hashes: [x]}", "LM1254"),
        ("{name: a, type: tpm, ek_hashes: []}", "LM1254"),
        (f"{{{OIDC}}}", "LM1253"),
        (f"{{{OIDC}, claims: {{}}}}", "LM1254"),
        (f'{{{OIDC}, claims: {{sub: "*"}}}}', "LM1254"),
        (f'{{{OIDC}, claims: {{sub: "a*b"}}}}', "LM1254"),
        (f'{{{OIDC}, claims: {{"a b": x}}}}', "LM1251"),
        (f"{{{OIDC}, claims: {{sub: x}}, algorithms: [HS256]}}", "LM1254"),
        (f"{{{OIDC}, claims: {{sub: x}}, facts: ['a b']}}", "LM1254"),
        (f"{{{OIDC}, claims: {{sub: x}}, node: '{{oidc-run_id}}'}}", "LM1255"),
        (f"{{{OIDC.replace('keys.json', 'http://evil/keys')}, claims: {{sub: x}}}}", "LM1254"),
        (f"{{{OIDC.replace('keys.json', 'https://:0x/')}, claims: {{sub: x}}}}", "LM1254"),
        (f"{{{K8S.replace('n/s', 'n')}}}", "LM1254"),
        (f"{{{K8S.replace('audience: a, ', '')}}}", "LM1253"),
    ],
)
def test_whatever_is_wrong_is_found_at_its_place(line: str, code: str) -> None:
    attestors, found = load(f"attestors:\n- {line}\n")
    assert attestors == ()
    assert code in {item.code for item in found}
    assert has_errors(found)
    for item in found:
        assert item.span is not None
        assert (item.span.file, item.span.line) == ("attestors.yaml", 2)
        assert item.message
        assert "?" not in item.help


def test_all_findings_come_at_once_and_the_nearest_name_is_said() -> None:
    _, found = load("atestors: []\nattestors:\n- {name: a, type: x509pop, cq: ca.pem, noed: x}\n- 7\n")
    assert [item.code for item in found] == ["LM1251", "LM1253", "LM1251", "LM1251", "LM1250"]
    assert "did you mean `attestors`?" in found[0].message
    assert "did you mean `node`?" in found[3].message


def test_a_name_is_one_attestors() -> None:
    line = "- {name: vm, type: x509pop, ca: ca.pem}\n"
    assert [item.code for item in load("attestors:\n" + line + line)[1]] == ["LM1252"]


@given(st.text(), st.integers(0, len(GOOD)), st.integers(0, 40))
def test_no_text_is_a_bug(text: str, at: int, cut: int) -> None:
    for changed in (text, GOOD[:at] + text + GOOD[at + cut :]):
        attestors, found = load(changed)
        assert isinstance(attestors, tuple)
        for item in found:
            assert item.message
