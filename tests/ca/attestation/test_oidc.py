import pytest

from ca.attestation import oidc
from mesh.jwks import parse_jwks
from mesh.jwtproof import JwtTrust
from mesh.problems import Forbidden
from tests.ca.attestation.issuers import AUDIENCE, EC_KEY, ISSUER, NOW, key_set, token

KEYS = parse_jwks(key_set())
ATTESTOR = oidc.Oidc(
    name="ci",
    node="{oidc-run_id}",
    trust=JwtTrust(issuer=ISSUER, audiences=(AUDIENCE,)),
    keys="keys.json",
    claims=(("repository", "corp/shop"), ("ref", "refs/heads/*")),
    facts=("repository", "run_id", "protected"),
)
JOB = {"sub": "repo:corp/shop", "repository": "corp/shop", "ref": "refs/heads/main", "run_id": 77, "protected": True}


def test_a_job_of_the_project_is_attested() -> None:
    found = oidc.verify(ATTESTOR, token=token(**JOB), keys=KEYS, now=NOW)
    assert dict(found.facts) == {
        "node:oidc-issuer": ISSUER,
        "node:oidc-sub": "repo:corp/shop",
        "node:oidc-repository": "corp/shop",
        "node:oidc-run_id": "77",
        "node:oidc-protected": "true",
    }


def test_a_token_is_one_proof_however_its_signature_is_written() -> None:
    text = token(EC_KEY, "ES256", **JOB)
    head, _, signature = text.rpartition(".")
    again = token(EC_KEY, "ES256", **JOB)
    ids = {oidc.verify(ATTESTOR, token=item, keys=KEYS, now=NOW).proof_id for item in (text, again)}
    assert signature != again.rpartition(".")[2]
    assert head == again.rpartition(".")[0]
    assert len(ids) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"repository": "corp/other"},
        {"repository": "corp/shop2"},
        {"repository": None},
        {"repository": ["corp/shop"]},
        {"ref": "refs/tags/x"},
        {"run_id": None},
        {"run_id": 1.5},
        {"sub": None},
        {"run_id": "x" * 2000},
    ],
    ids=str,
)
def test_another_job_is_refused(other: dict[str, object]) -> None:
    with pytest.raises(Forbidden, match="LM1248"):
        oidc.verify(ATTESTOR, token=token(**{**JOB, **other}), keys=KEYS, now=NOW)
