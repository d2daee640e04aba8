import jwt
import pytest
from cryptography import x509

from mesh.problems import Invalid
from tests.world import World


def test_a_person_gets_the_identity_and_it_is_recorded(world: World) -> None:
    found = world.app.by_hand.issue(
        "spiffe://world.test/ci/job", world.spki(), ttl_s=600, dns_names=["ci.test"], actor="ada"
    )
    leaf = x509.load_pem_x509_certificates(found["chain"].encode())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://world.test/ci/job"]
    assert names.get_values_for_type(x509.DNSName) == ["ci.test"]
    assert found["serial"] in {row["serial"] for row in world.app.identities()}
    (row,) = [row for row in world.app.records(after=0, kind="issuance", limit=9) if row.get("rule") == "by hand"]
    assert (row["actor"], row["serial"]) == ("ada", found["serial"])


def test_a_token_is_for_its_audience_and_recorded(world: World) -> None:
    found = world.app.by_hand.issue_jwt("spiffe://world.test/ci/job", ["a", "b"], ttl_s=120, actor="ada")
    claims = jwt.decode(found["token"], options={"verify_signature": False})
    assert (claims["sub"], claims["aud"], claims["jti"]) == ("spiffe://world.test/ci/job", ["a", "b"], found["jti"])
    (row,) = world.app.authorities.show(found["jti"])
    assert (row["kind"], row["valid"]) == ("jwt", True)


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://other.test/a",
        "spiffe://world.test",
        "spiffe://world.test/limen/agent/n1",
        "https://world.test/a",
        "spiffe://world.test/a b",
    ],
)
def test_what_nobody_may_have_by_hand_is_refused(world: World, text: str) -> None:
    with pytest.raises(Invalid, match="LM1315"):
        world.app.by_hand.issue(text, world.spki(), ttl_s=600, dns_names=[], actor="ada")
    with pytest.raises(Invalid, match="LM1315"):
        world.app.by_hand.issue_jwt(text, ["a"], ttl_s=600, actor="ada")


def test_bad_keys_and_names_leave_nothing_behind(world: World) -> None:
    before = len(world.app.identities())
    for spki, names, code in ((b"x", [], "LM1203"), (world.spki(), ["Not A Host"], "LM1224")):
        with pytest.raises(Invalid, match=code):
            world.app.by_hand.issue("spiffe://world.test/a", spki, ttl_s=600, dns_names=names, actor="ada")
    assert len(world.app.identities()) == before
