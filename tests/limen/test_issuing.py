import datetime as dt

import pytest

from limen.values import Ask, JwtAsk
from mesh.jwtsvid import verify_jwt_svid
from mesh.x509svid import verify_x509_svid
from tests.world import RULES, World

FACTS = (("unix:uid", "1000"),)


@pytest.fixture
def node(world: World) -> str:
    world.rules(RULES)
    return world.join()


def jwt_ask(**fields: object) -> JwtAsk:
    values: dict[str, object] = {"ref": "1", "facts": FACTS, "audiences": ("a",), "spiffe_id": "", **fields}
    return JwtAsk(**values)  # type: ignore[arg-type]


def test_a_batch_is_answered_one_by_one_and_recorded_with_one_write(world: World, node: str) -> None:
    size = world.app.status()["records"]
    asks = [
        Ask(ref="good", spki=world.spki(), facts=FACTS),
        Ask(ref="no-key", spki=b"x", facts=FACTS),
        Ask(ref="no-rule", spki=world.spki(), facts=(("unix:uid", "1001"),)),
        Ask(ref="good-too", spki=world.spki(), facts=FACTS),
    ]
    found = world.app.issue(node, asks)
    assert [(item.ref, item.code) for item in found] == [
        ("good", ""),
        ("no-key", "LM1203"),
        ("no-rule", "LM1210"),
        ("good-too", ""),
    ]
    bundle = world.app.bundle()
    for item in (found[0], found[3]):
        verified = verify_x509_svid(item.chain, {bundle.trust_domain: bundle}, world.clock.now())
        assert str(verified.spiffe_id) == item.spiffe_id == "spiffe://world.test/user/1000"
    rows = [row for row in world.app.records(after=size, kind="issuance", limit=99) if row.get("rule") == "user"]
    assert len({row["sha256"] for row in rows}) == 2
    (shown,) = world.app.authorities.show(rows[0]["serial"])
    assert shown["sha256"] == rows[0]["sha256"]


def test_a_node_does_not_say_what_it_is(world: World, node: str) -> None:
    world.rules('rules:\n- id: n\n  match: {"node:id": "else"}\n  spiffe_id: "/n"\n')
    found = world.app.issue(node, [Ask(ref="1", spki=world.spki(), facts=(("node:id", "else"),))])
    assert found[0].code == "LM1210"
    assert world.app.issue_jwts(node, [jwt_ask(facts=(("node:id", "else"),))])[0].code == "LM1210"


def test_a_token_verifies_with_the_bundle_and_is_recorded(world: World, node: str) -> None:
    (found,) = world.app.issue_jwts(node, [jwt_ask(audiences=("a", "b"))])
    bundle = world.app.bundle()
    verified = verify_jwt_svid(found.token, "b", {bundle.trust_domain: bundle}, world.clock.now())
    assert str(verified.spiffe_id) == "spiffe://world.test/user/1000"
    # the rule's hour is too long for what is whoever's holds it
    assert verified.claims["exp"] - verified.claims["iat"] == 300
    (row,) = [row for row in world.app.records(after=0, kind="issuance", limit=99) if "jti" in row]
    (shown,) = world.app.authorities.show(row["jti"])
    assert (shown["kind"], shown["node"], row["audience"]) == ("jwt", node, ["a", "b"])


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"audiences": ()}, "LM1270"),
        ({"audiences": ("",)}, "LM1270"),
        ({"audiences": ("a" * 1025,)}, "LM1270"),
        ({"audiences": tuple(str(number) for number in range(33))}, "LM1270"),
        ({"facts": ()}, "LM1210"),
        ({"spiffe_id": "spiffe://world.test/user/1"}, "LM3510"),
    ],
    ids=["none", "empty", "long", "many", "no-rule", "another"],
)
def test_what_is_refused_leaves_nothing_behind(world: World, node: str, fields: dict[str, object], code: str) -> None:
    before = len(world.app.identities())
    assert world.app.issue_jwts(node, [jwt_ask(**fields)])[0].code == code
    assert len(world.app.identities()) == before


def test_a_short_ttl_of_a_rule_holds_for_tokens(world: World, node: str) -> None:
    world.rules(RULES + "  ttl: 60s\n")
    (found,) = world.app.issue_jwts(node, [jwt_ask()])
    bundle = world.app.bundle()
    now = world.clock.now()
    verified = verify_jwt_svid(found.token, "a", {bundle.trust_domain: bundle}, now)
    assert verified.claims["exp"] == int((now + dt.timedelta(seconds=60)).timestamp())
