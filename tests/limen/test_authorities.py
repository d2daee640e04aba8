import contextlib
import datetime as dt
import sqlite3

import prometheus_client
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ca.rotation import Kind
from ca.succession import Succession
from ca.trustmaking import fingerprint
from limen.authorities import WITHIN, Authorities
from mesh.clock import format_time, parse_time
from mesh.problems import Problem
from tests.world import RULES, START, World

SECOND = dt.timedelta(seconds=1)


def live(world: World) -> str:
    before = {row["node"] for row in world.app.identities()}
    world.join()
    (node,) = {row["node"] for row in world.app.identities()} - before
    world.app.watch_begins(node)
    return node


def report(world: World, node: str, *, rejected: tuple[str, ...] = (), newer: bytes = b"", trust: int = -1) -> bool:
    number = world.app._authority.trust.sequence if trust < 0 else trust
    return world.app.report_status(
        node, epoch=0, snapshot="", sidecars=0, handshakes=0, refusals=(), trust=number, rejected=rejected,
        newer_trust=newer,
    )  # fmt: skip


def rotate(world: World, kind: Kind = Kind.ISSUING, *, is_forced: bool = False) -> str:
    return str(world.app.authorities.rotate(kind, actor="ada", is_forced=is_forced)["authority"])


def state(world: World, name: str) -> str:
    return str(world.app.authorities.progress(name)["state"])


def code_of(work: object) -> str:
    with pytest.raises(Problem) as caught:
        work()  # type: ignore[operator]
    return caught.value.code


@pytest.mark.parametrize("kind", [Kind.ISSUING, Kind.ROOT, Kind.JWT], ids=str)
def test_it_signs_only_after_every_live_agent_reported_it(world: World, kind: Kind) -> None:
    first, second = live(world), live(world)
    report(world, first)
    report(world, second)
    made = rotate(world, kind)
    report(world, first)
    world.clock.advance(5 * SECOND)
    world.app.tick()
    found = world.app.authorities.progress(made)
    assert (found["state"], found["behind"], found["agents"]) == ("prepared", [second], 2)
    report(world, second)
    assert state(world, made) == "active"


def test_a_jwt_key_of_an_oidc_issuer_signs_when_no_client_has_only_older_ones(world: World) -> None:
    """What was fetched just before it was published may be used for `max-age`, and was a second old."""
    world.app.use_jwt_issuer("https://oidc.test")
    node = live(world)
    made = rotate(world, Kind.JWT)
    report(world, node)
    age = dt.timedelta(seconds=world.app.bundle().refresh_seconds)
    begins = world.clock.now() + age + 2 * SECOND
    assert age > WITHIN
    for moment in (begins - age, begins - SECOND / 1000):
        world.clock.advance(moment - world.clock.now())
        world.app.tick()
        found = world.app.authorities.progress(made)
        assert (found["state"], parse_time(found["signs_from"])) == ("prepared", begins)
    world.clock.advance(begins - world.clock.now())
    found = world.app.authorities.progress(made)
    assert (found["state"], found["signs_from"]) == ("active", None)


def test_nothing_else_waits_for_clients_of_an_oidc_issuer(world: World) -> None:
    world.app.use_jwt_issuer("https://oidc.test")
    assert state(world, rotate(world, Kind.JWT, is_forced=True)) == "active"
    for kind in (Kind.ISSUING, Kind.ROOT):
        made = rotate(world, kind)
        world.clock.advance(SECOND)
        assert state(world, made) == "active"


def test_an_agent_that_is_behind_ends_the_wait_for_clients(world: World) -> None:
    world.app.use_jwt_issuer("https://oidc.test")
    live(world)
    made = rotate(world, Kind.JWT)
    world.clock.advance(WITHIN + SECOND)
    world.app.tick()
    assert code_of(lambda: state(world, made)) == "LM1309"


def test_an_agent_that_is_gone_holds_nothing_up(world: World) -> None:
    gone = live(world)
    made = rotate(world)
    world.app.watch_ends(gone)
    world.clock.advance(SECOND)
    assert state(world, made) == "active"


def test_one_that_is_not_reported_in_time_is_withdrawn_and_says_who_is_behind(world: World) -> None:
    node = live(world)
    before = world.app._authority.active(Kind.ISSUING).id
    made = rotate(world)
    world.clock.advance(WITHIN + SECOND)
    world.app.tick()
    with pytest.raises(Problem) as caught:
        world.app.authorities.progress(made)
    assert (caught.value.code, caught.value.facts["nodes"]) == ("LM1309", node)
    assert world.app._authority.active(Kind.ISSUING).id == before
    assert made not in {slot.id for slot in world.app._authority.slots}


def test_forced_it_signs_at_once(world: World) -> None:
    live(world)
    assert state(world, rotate(world, is_forced=True)) == "active"


def test_what_an_agent_rejects_is_rolled_back_and_issued_anew(world: World) -> None:
    node = live(world)
    before = world.app._authority.active(Kind.ISSUING).id
    made = rotate(world, is_forced=True)
    bad = fingerprint(world.app._authority.active(Kind.ISSUING).certificates[0])
    rotation = world.app.state(0).rotation
    report(world, node, rejected=(bad,))
    assert (world.app._authority.active(Kind.ISSUING).id, state(world, made)) == (before, "old")
    assert world.app.state(0).rotation == rotation + 1
    # what no authority of ours is named by changes nothing
    report(world, node, rejected=("0" * 64,))
    assert world.app._authority.active(Kind.ISSUING).id == before


def test_time_alone_rotates_before_anything_is_cut_short(world: World) -> None:
    node = live(world)
    first = world.app._authority.active(Kind.ISSUING)
    timing = world.app.authorities._timing()
    world.clock.advance(timing.prepare_at(first) - world.clock.now() - dt.timedelta(minutes=5))
    seen = []
    while world.clock.now() < first.not_after - dt.timedelta(hours=2):
        world.app.tick()
        report(world, node)
        states = {slot.id: str(slot.state) for slot in world.app._authority.slots}
        seen.append(states.get(first.id, "ended"))
        world.clock.advance(dt.timedelta(minutes=10))
    # nobody asked: it was published for a while, then the former one retired, well before its own end
    assert (seen[0], seen[-1]) == ("active", "ended")
    assert seen.count("active") > 3


@pytest.mark.parametrize(
    ("upstream", "kinds"),
    [(None, set()), ("disk", {Kind.ROOT}), ("offline", {Kind.ROOT, Kind.ISSUING})],
    ids=("none", "disk", "offline"),
)
def test_what_people_have_to_carry_is_due_two_weeks_early(
    world: World, monkeypatch: pytest.MonkeyPatch, upstream: str | None, kinds: set[Kind]
) -> None:
    monkeypatch.setattr(Succession, "upstream", property(lambda _: upstream))
    app = world.app
    made = Authorities(
        engine=app._engine, authority=app._authority, agents=app._agents, clock=world.clock, record=app._record,
        changed=lambda: None, reissue=lambda: None,
    )  # fmt: skip
    early = {kind for kind in Kind if kind in made._timing().by_hand}
    assert early == kinds
    renews = {row["kind"]: parse_time(row["renews_at"]) for row in made.list()["authorities"]}
    ends = {row["kind"]: parse_time(row["not_after"]) for row in made.list()["authorities"]}
    assert {kind for kind in renews if ends[kind] - renews[kind] > dt.timedelta(days=14)} == {
        str(kind) for kind in kinds
    }
    assert made.list()["upstream"] == upstream


def test_after_a_long_time_off_it_signs_again_at_once(world: World) -> None:
    world.clock.advance(dt.timedelta(days=400))
    world.app.tick()
    assert world.app._authority.active(Kind.ISSUING).not_after > world.clock.now()
    world.rules(RULES)
    node = world.join()
    assert world.issue(node, unix__uid="1000").code == ""


def test_revoking_refuses_what_would_break_and_says_when_it_is_safe(world: World) -> None:
    world.rules(RULES)
    node = live(world)
    world.issue(node, unix__uid="1000")
    old = world.app._authority.active(Kind.ISSUING).id
    rotate(world, is_forced=True)

    def leave(verb: str, *, forced: bool = False, dry: bool = False) -> dict[str, object]:
        found = world.app.authorities.leave(verb, old, actor="ada", reason="stolen", is_forced=forced, is_dry=dry)
        assert isinstance(found, dict)
        return found

    dry = leave("revoke", dry=True)
    assert (dry["done"], dry["state"]) == (False, "old")
    assert dry["blast"]["live_svids"] >= 2  # type: ignore[index]
    assert code_of(lambda: leave("revoke")) == "LM1308"
    rotation = world.app.state(0).rotation
    assert leave("taint")["state"] == "tainted"
    assert world.app.state(0).rotation == rotation + 1
    assert leave("revoke", forced=True)["state"] == "revoked"
    assert world.app._authority.trust.revoked == (old,)
    assert code_of(lambda: world.app.authorities.leave(
        "revoke", world.app._authority.active(Kind.ISSUING).id, actor="a", reason="", is_forced=True, is_dry=False
    )) == "LM1302"  # fmt: skip


def test_a_revoked_svid_is_told_to_agents_and_shown(world: World) -> None:
    world.rules(RULES)
    issued = world.issue(live(world), unix__uid="1000")
    before = world.app.state(0)
    dry = world.app.authorities.revoke_svids(issued.spiffe_id, actor="ada", reason="stolen", is_dry=True)
    assert (len(dry["would_revoke"]), world.app.state(0).trust) == (1, before.trust)
    serial = dry["would_revoke"][0]["serial"]
    world.app.authorities.revoke_svids(serial, actor="ada", reason="stolen", is_dry=False)
    after = world.app.state(0)
    assert (after.trust != before.trust, after.rotation) == (True, before.rotation + 1)
    (row,) = world.app.authorities.show(serial)
    assert (row["valid"], row["reason"], row["kind"]) == (False, "stolen", "x509")
    events = [row["event"] for row in world.app.records(after=0, kind="ca", limit=99)]
    assert events.count("revoke") == 1
    for wanted in ("ff", "spiffe://world.test/nobody"):
        assert code_of(lambda wanted=wanted: world.app.authorities.show(wanted)) == "LM1311"
        assert code_of(
            lambda wanted=wanted: world.app.authorities.revoke_svids(wanted, actor="a", reason="", is_dry=False)
        ) == "LM1311"  # fmt: skip


def test_a_server_from_a_backup_asks_for_the_newer_state_and_goes_above_it(world: World) -> None:
    node = live(world)
    newer = world.app._authority.trust
    ahead = type(newer)(
        bundle=type(newer.bundle)(
            trust_domain=newer.bundle.trust_domain,
            x509_authorities=newer.bundle.x509_authorities,
            sequence=41,
        ),
        revoked=(world.app._authority.active(Kind.ISSUING).id,),
    )
    assert report(world, node, trust=41)
    first = world.app._authority.active(Kind.ISSUING).id
    assert not report(world, node, trust=41, newer=ahead.sign(world.app._authority.server_key))
    assert world.app._authority.trust.sequence > 41
    assert world.app._authority.active(Kind.ISSUING).id != first
    assert first in world.app._authority.trust.revoked


def test_a_server_from_a_backup_that_gave_the_numbers_again_learns_what_was_revoked(world: World) -> None:
    """The state that an agent holds has a number that the restored server has used for something else."""
    node = live(world)
    app, authority = world.app, world.app._authority
    with contextlib.closing(sqlite3.connect(world.state / "server" / "limen.sqlite")) as disk:
        backup = sqlite3.connect(":memory:")
        disk.backup(backup)
        serial = next(row["serial"] for row in app.identities() if row["node"] == node)
        app.authorities.revoke_svids(serial, actor="ada", reason="stolen", is_dry=False)
        held = authority.signed_trust
        assert app.authorities.show(serial)[0]["revoked"]
        backup.backup(disk)
    authority.load()
    # it goes on before anybody tells it, and gives the number again, and one more
    rotate(world, Kind.JWT, is_forced=True)
    rotate(world, Kind.ISSUING, is_forced=True)
    number = authority.trust.sequence
    assert app.authorities.show(serial)[0]["revoked"] is None
    app.authorities.shown(node, held)
    assert app.authorities.show(serial)[0]["revoked"]
    assert authority.trust.sequence > number
    # what was published here is no news
    number = authority.trust.sequence
    for shown in (authority.signed_trust, held, held[:-4] + b"AAAA", b"x"):
        app.authorities.shown(node, shown)
    assert authority.trust.sequence == number
    assert len([row for row in app.records(after=0, kind="ca", limit=1000) if row.get("event") == "restored"]) == 1


def test_transitions_are_in_the_log_once(world: World) -> None:
    rotate(world, is_forced=True)
    world.app.tick()
    world.app.tick()
    rows = [row for row in world.app.records(after=0, kind="ca", limit=999) if row["event"] == "authority"]
    numbers = [row["number"] for row in rows]
    assert len(numbers) == len(set(numbers))
    assert [row["after"] for row in rows][-2:] == ["old", "active"]


def test_crl_and_ocsp_say_what_was_revoked(world: World) -> None:
    world.rules(RULES)
    issued = world.issue(live(world), unix__uid="1000")
    leaf = x509.load_der_x509_certificate(issued.chain[0])
    signer = x509.load_der_x509_certificate(issued.chain[1])

    def status(by: x509.Certificate = signer) -> ocsp.OCSPCertStatus:
        asked = ocsp.OCSPRequestBuilder().add_certificate(leaf, by, hashes.SHA256()).build()
        data = world.app.authorities.ocsp(asked.public_bytes(Encoding.DER))
        assert ocsp.load_der_ocsp_response(data).response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        return ocsp.load_der_ocsp_response(data).certificate_status

    assert status() is ocsp.OCSPCertStatus.GOOD
    world.app.authorities.revoke_svids(f"{leaf.serial_number:x}", actor="ada", reason="", is_dry=False)
    assert status() is ocsp.OCSPCertStatus.REVOKED
    name = world.app._authority.active(Kind.ISSUING).id
    # a serial number is its issuer's: the next one of that name never used it
    rotate(world, is_forced=True)
    other = x509.load_der_x509_certificate(world.app._authority.active(Kind.ISSUING).certificates[0])
    assert status(other) is ocsp.OCSPCertStatus.UNKNOWN
    assert status() is ocsp.OCSPCertStatus.REVOKED
    listed = x509.load_der_x509_crl(world.app.authorities.crl(name))
    assert [item.serial_number for item in listed] == [leaf.serial_number]
    for wrong in ("nobody", world.app._authority.active(Kind.JWT).id):
        assert code_of(lambda wrong=wrong: world.app.authorities.crl(wrong)) == "LM1310"


def test_the_list_says_who_is_behind_and_what_ends_next(world: World) -> None:
    node = live(world)
    found = world.app.authorities.list()
    assert (found["agents"], found["agents_behind"]) == (1, [node])
    assert found["next_end"]["authority"] == world.app._authority.active(Kind.JWT).id
    report(world, node)
    world.app.tick()
    found = world.app.authorities.list()
    assert found["agents_behind"] == []
    assert found["propagation_s"] is not None
    assert {row["kind"] for row in found["authorities"]} == {"root", "issuing", "jwt"}


def test_the_end_of_a_web_certificate_and_of_the_acme_authority_is_told_and_measured(world: World) -> None:
    assert world.app.authorities.list()["web"] is None
    begin, end = START, START + dt.timedelta(days=90)
    world.app.authorities.web_life = lambda: (begin, end)
    world.app.tick()
    assert world.app.authorities.list()["web"] == {"not_before": format_time(begin), "not_after": format_time(end)}
    value = prometheus_client.REGISTRY.get_sample_value
    assert value("limen_web_certificate_expiry_timestamp_seconds", {"source": "tls-cert"}) == end.timestamp()
    acme = world.app.acme.authority
    for kind, found in (("root", acme.root), ("issuing", acme.issuing)):
        ends = value("limen_acme_authority_expiry_timestamp_seconds", {"kind": kind})
        assert ends == found.not_valid_after_utc.timestamp()
