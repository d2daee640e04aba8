import datetime as dt

from ca.rotation import Kind
from tests.world import RULES, World


def listed(world: World) -> set[str]:
    return {row["serial"] for row in world.app.identities()}


def made(world: World) -> tuple[str, str]:
    """The serial numbers of an SVID and of a token of one workload's."""
    world.rules(RULES)
    node = world.join()
    before = listed(world)
    world.issue(node, unix__uid="1000")
    (certificate,) = listed(world) - before
    token = world.app.by_hand.issue_jwt("spiffe://world.test/job", ["a"], ttl_s=300, actor="ada")["jti"]
    return certificate, token


def test_what_was_revoked_or_has_ended_is_not_listed(world: World) -> None:
    certificate, token = made(world)
    assert {certificate, token} <= listed(world)
    kinds = {row["serial"]: row["kind"] for row in world.app.identities()}
    assert (kinds[certificate], kinds[token]) == ("x509", "jwt")
    world.app.authorities.revoke_svids(certificate, actor="ada", reason="lost", is_dry=False)
    assert certificate not in listed(world)
    assert token in listed(world)
    world.clock.advance(dt.timedelta(minutes=6))
    assert token not in listed(world)


def test_what_a_revoked_authority_signed_is_neither_listed_nor_valid(world: World) -> None:
    certificate, token = made(world)
    old = world.app._authority.active(Kind.ISSUING)
    serials = listed(world)
    world.app.authorities.rotate(Kind.ISSUING, actor="ada", is_forced=True)
    world.app.authorities.leave("revoke", old.id, actor="ada", reason="stolen", is_forced=True, is_dry=False)
    gone = serials - listed(world)
    assert certificate in gone
    assert token not in gone
    # the certificate of the authority itself, the workload's and the node's
    assert len(gone) == 3
    (row,) = world.app.authorities.show(certificate)
    assert (row["valid"], row["reason"]) == (False, f"authority {old.id} was revoked")
    assert row["revoked"] is not None
