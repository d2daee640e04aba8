"""The server's own SVID is always one that the served bundle vouches for, and is renewed before half its life."""

import datetime as dt
import ssl

import pytest

from ca.authority import Authority
from ca.rotation import Kind
from mesh.problems import Invalid
from mesh.tls import peer_chain
from mesh.x509svid import verify_x509_svid
from tests.world import World


def shown(world: World) -> tuple[bytes, ...]:
    """The chain that a client is shown."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    server_in, server_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(server_out, server_in)
    there = world.app.svid.context.wrap_bio(server_in, server_out, server_side=True)
    for _ in range(6):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return peer_chain(here)


def test_shows_a_verified_svid_of_the_trust_domain(world: World) -> None:
    world.app.svid.renew()
    found = verify_x509_svid(shown(world), {world.app.bundle().trust_domain: world.app.bundle()}, world.clock.now())
    assert str(found.spiffe_id) == "spiffe://world.test/limen/server"


def test_is_renewed_before_half_its_life_and_recorded(world: World) -> None:
    assert world.app.svid.renew()
    first = shown(world)
    assert not world.app.svid.renew()
    world.clock.advance(dt.timedelta(minutes=23))
    assert not world.app.svid.renew()
    world.clock.advance(dt.timedelta(minutes=2))
    assert world.app.svid.renew()
    assert shown(world)[0] != first[0]
    rows = [row for row in world.app.records(after=0, kind="issuance", limit=100) if row["actor"] == "server"]
    assert len(rows) == 2


def test_is_renewed_at_once_when_another_authority_signs(world: World) -> None:
    world.app.svid.renew()
    before = shown(world)
    assert not world.app.svid.renew()
    world.app.authorities.rotate(Kind.ROOT, actor="test", is_forced=True)
    assert world.app.svid.renew()
    assert shown(world)[0] != before[0]


def test_goes_on_with_what_it_has_when_it_cannot_be_renewed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.app.svid.renew()
    before = shown(world)
    world.clock.advance(dt.timedelta(minutes=40))

    def refuse(*arguments: object, **named: object) -> None:
        raise Invalid("LM1204", end="then")

    monkeypatch.setattr(Authority, "sign", refuse)
    assert not world.app.svid.renew()
    assert shown(world) == before
