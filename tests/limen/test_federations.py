"""Relationships, polls and what agents are told, in a server in memory with a fetcher that answers at once."""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca.federation import Relationship
from limen.federations import Federations, keep_polling, poll_once, refresh
from mesh.bundle import TrustBundle, parse_bundle
from mesh.problems import Problem, Unavailable
from mesh.spiffe import TrustDomain
from tests.examples import examples
from tests.pki import Pki
from tests.world import TREE, World

B = TrustDomain.parse("b.test")
URL = "https://b.test/.well-known/spiffe-bundle"
RULES = 'rules:\n- id: web\n  match: {"unix:uid": "1000"}\n  spiffe_id: "/web"\n  federates_with: [b.test]\n'


def bundle(sequence: int | None = 1, pki: Pki | None = None, domain: TrustDomain = B) -> TrustBundle:
    roots = (pki or _PKI).root.der
    return TrustBundle(trust_domain=domain, x509_authorities=(roots,), sequence=sequence, refresh_hint=60)


_PKI, _OTHER = Pki("b.test"), Pki("b.test")


_documents = st.builds(
    lambda sequence, which: bundle(sequence, (_PKI, _OTHER)[which]).to_json(),
    st.none() | st.integers(0, 12),
    st.integers(0, 1),
)


def _flip(data: bytes, at: int, by: int) -> bytes:
    where = at % len(data)
    return data[:where] + bytes([data[where] ^ by]) + data[where + 1 :]


_served = (
    _documents
    | st.builds(_flip, _documents, st.integers(0, 10_000), st.integers(1, 255))
    | st.builds(lambda data, at: data[:at], _documents, st.integers(0, 400))
    | st.builds(lambda data: data[:-1] + b',"keys":[]}', _documents)
    | st.builds(lambda data: b" " * (4 << 20) + data, _documents)
    | st.binary(max_size=200)
)


@dataclasses.dataclass
class Peer:
    """The other side, without a network."""

    answer: TrustBundle | Problem
    asked: list[tuple[Relationship, TrustBundle | None]] = dataclasses.field(default_factory=list)

    async def fetch(
        self, relationship: Relationship, verifier: TrustBundle | None, now: Callable[[], dt.datetime]
    ) -> TrustBundle:
        del now
        self.asked.append((relationship, verifier))
        if isinstance(self.answer, Problem):
            raise self.answer
        return self.answer


def add(federations: Federations, **change: Any) -> Any:
    asked: dict[str, Any] = {
        "trust_domain": "b.test", "url": URL, "profile": "https_web", "endpoint_id": None, "web_roots": "",
        "bundle": None, "replace": False, "actor": "test", **change,
    }  # fmt: skip
    return federations.add(**asked)


def poll(world: World, peer: Peer) -> None:
    with ThreadPoolExecutor(1) as worker:
        asyncio.run(poll_once(world.app.federations, worker, peer.fetch))


def changes(world: World) -> list[dict[str, Any]]:
    return [row for row in world.app.records(after=0, kind="ca", limit=1000) if row["event"].startswith("federation")]


def code(work: Callable[[], object]) -> str:
    with pytest.raises(Problem) as found:
        work()
    return found.value.code


def test_a_relationship_is_polled_kept_and_told(world: World) -> None:
    told: list[None] = []
    world.app.on_change(lambda: told.append(None))
    federations, peer = world.app.federations, Peer(bundle(1))
    shown = add(federations)
    assert (shown["x509_authorities"], shown["is_stale"], shown["fetched"]) == (0, True, None)
    poll(world, peer)
    poll(world, peer)
    assert len(peer.asked) == 1
    shown = federations.show("b.test")
    assert (shown["sequence"], shown["refresh_hint_s"], shown["age_s"], shown["is_stale"]) == (1, 60, 0, False)
    assert {name: parse_bundle(B, data) for name, data in world.app.state(0).federated.items()} == {"b.test": bundle(1)}
    assert [row["event"] for row in changes(world)] == ["federation-add", "federation-bundle"]
    assert len(told) == 2


def test_it_asks_again_at_the_hint_and_after_a_failure_too(world: World) -> None:
    federations, peer = world.app.federations, Peer(bundle(1))
    add(federations)
    poll(world, peer)
    world.clock.advance(dt.timedelta(seconds=53))
    poll(world, peer)
    assert len(peer.asked) == 1
    world.clock.advance(dt.timedelta(seconds=14))
    peer.answer = Unavailable("LM1508", url=URL, reason="gone")
    poll(world, peer)
    poll(world, peer)
    assert len(peer.asked) == 2
    shown = federations.show("b.test")
    assert (shown["failed_polls"], shown["code"], shown["x509_authorities"], shown["age_s"]) == (1, "LM1508", 1, 67)
    world.clock.advance(dt.timedelta(seconds=67))
    poll(world, peer)
    assert federations.show("b.test")["failed_polls"] == 2
    world.clock.advance(dt.timedelta(seconds=67))
    assert federations.show("b.test")["is_stale"]
    peer.answer = bundle(2)
    poll(world, peer)
    shown = federations.show("b.test")
    assert (shown["failed_polls"], shown["code"], shown["sequence"], shown["is_stale"]) == (0, "", 2, False)
    # a new number for the same keys is no change of the bundle
    assert [row["event"] for row in changes(world)] == ["federation-add", "federation-bundle"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (bundle(4, Pki("b.test")), "LM1506"),
        (bundle(5, Pki("b.test")), "LM1507"),
        (bundle(None, Pki("b.test")), "LM1507"),
    ],
    ids=["rolled-back", "same-number", "no-number"],
)
def test_what_must_not_replace_the_bundle_does_not_unless_a_person_forces_it(
    world: World, answer: TrustBundle, expected: str
) -> None:
    federations = world.app.federations
    add(federations)
    poll(world, Peer(bundle(5)))
    before = federations.bundles()
    relationship, _ = federations.start("b.test")
    assert not federations.take(relationship, answer, actor="server")
    assert federations.bundles() == before
    assert federations.show("b.test")["code"] == expected
    assert federations.take(relationship, answer, force=True, actor="me")
    assert parse_bundle(B, federations.bundles()["b.test"]) == answer
    assert changes(world)[-1]["forced"] is True
    assert changes(world)[-1]["actor"] == "me"


def test_an_empty_bundle_revokes_and_is_said_to(world: World) -> None:
    add(world.app.federations)
    poll(world, Peer(bundle(1)))
    world.clock.advance(dt.timedelta(minutes=5))
    poll(world, Peer(TrustBundle(trust_domain=B, sequence=2)))
    assert parse_bundle(B, world.app.federations.bundles()["b.test"]).x509_authorities == ()
    assert changes(world)[-1]["x509_authorities"] == 0


def test_the_latest_bundle_proves_a_self_serving_endpoint(world: World) -> None:
    federations, peer = world.app.federations, Peer(bundle(2, Pki("b.test")))
    asked = {"profile": "https_spiffe", "endpoint_id": "spiffe://b.test/endpoint"}
    assert code(lambda: add(federations, **asked)) == "LM1502"
    add(federations, **asked, bundle=bundle(1).to_json())
    poll(world, peer)
    world.clock.advance(dt.timedelta(minutes=2))
    poll(world, peer)
    assert [verifier for _, verifier in peer.asked] == [bundle(1), peer.answer]


def test_an_endpoint_in_a_third_domain_waits_for_that_domains_own_relationship(world: World) -> None:
    federations, peer = world.app.federations, Peer(bundle(1))
    add(federations, profile="https_spiffe", endpoint_id="spiffe://c.test/endpoint")
    poll(world, peer)
    assert peer.asked == []
    assert federations.show("b.test")["code"] == "LM1511"
    third = TrustDomain.parse("c.test")
    held = bundle(1, domain=third)
    add(federations, trust_domain="c.test", bundle=held.to_json(), url="https://c.test/")
    relationship, verifier = federations.start("b.test")
    assert verifier == held
    assert relationship.trust_domain == B


def test_bundles_are_never_merged(world: World) -> None:
    federations = world.app.federations
    for name in ("b.test", "c.test"):
        domain = TrustDomain.parse(name)
        add(federations, trust_domain=name, bundle=bundle(1, Pki(name), domain).to_json())
    found = {name: parse_bundle(TrustDomain.parse(name), data) for name, data in federations.bundles().items()}
    assert sorted(found) == ["b.test", "c.test"]
    assert not set(found["b.test"].x509_authorities) & set(found["c.test"].x509_authorities)
    own = parse_bundle(world.app.bundle().trust_domain, world.app.state(0).bundle)
    assert own.digest == world.app.bundle().digest


def test_there_is_one_relationship_with_a_domain_and_replacing_it_keeps_the_bundle(world: World) -> None:
    federations = world.app.federations
    add(federations)
    poll(world, Peer(bundle(1)))
    assert code(lambda: add(federations)) == "LM1503"
    shown = add(federations, url="https://b.test/other", replace=True)
    assert (shown["url"], shown["sequence"]) == ("https://b.test/other", 1)
    assert changes(world)[-1]["event"] == "federation-change"


def test_removing_says_what_it_hits_and_is_over_at_once(world: World) -> None:
    told: list[None] = []
    federations = world.app.federations
    world.rules(RULES)
    world.app.tick()
    add(federations)
    poll(world, Peer(bundle(1)))
    federations.reach(spiffe_id="spiffe://b.test/db", address="10.0.0.1", port=8443, is_gone=False, actor="test")
    world.app.on_change(lambda: told.append(None))
    hit = federations.remove("b.test", actor="test", is_rehearsal=True)
    assert hit["rules"] == ["web"]
    assert hit["policies"] == []
    assert hit["endpoints"] == [["spiffe://b.test/db", "10.0.0.1", 8443]]
    assert told == []
    assert federations.bundles()
    assert federations.remove("b.test", actor="test") == {**hit, "is_removed": True}
    assert (federations.bundles(), federations.endpoints(), len(told)) == ({}, (), 1)
    assert world.app.state(0).federated == {}
    assert changes(world)[-1]["event"] == "federation-remove"
    for work in (federations.show, federations.bundle, federations.start):
        assert code(lambda work=work: work("b.test")) == "LM1504"  # type: ignore[misc]
    assert code(lambda: federations.remove("b.test", actor="test")) == "LM1504"


def test_removing_says_which_policies_name_the_domain(world: World) -> None:
    text = TREE.replace("spiffe://world.test/ns/shop/sa/cart", "spiffe://b.test/cart")
    world.publish(text)
    federations = world.app.federations
    add(federations)
    hit = federations.remove("b.test", actor="test", is_rehearsal=True)
    assert hit["policies"] == ["policy shop-db, rule orders"]


def test_an_answer_that_comes_after_the_end_changes_nothing(world: World) -> None:
    federations = world.app.federations
    add(federations)
    relationship, _ = federations.start("b.test")
    federations.remove("b.test", actor="test")
    assert not federations.take(relationship, bundle(1), actor="server")
    add(federations, url="https://b.test/other")
    assert not federations.take(relationship, bundle(1), actor="server")
    assert federations.bundles() == {}


def test_services_of_other_domains_are_told_beside_our_own(world: World) -> None:
    federations = world.app.federations
    asked = {"address": "10.0.0.1", "port": 8443, "is_gone": False, "actor": "test"}
    assert code(lambda: federations.reach(spiffe_id="spiffe://b.test/db", **asked)) == "LM1504"
    add(federations)
    federations.reach(spiffe_id="spiffe://b.test/db", **asked)
    found = world.app.state(0).endpoints
    assert [(item.spiffe_id, item.address, item.port) for item in found] == [("spiffe://b.test/db", "10.0.0.1", 8443)]
    for bad in ("spiffe://b.test", "db", "spiffe://B.test/db"):
        assert code(lambda bad=bad: federations.reach(spiffe_id=bad, **asked)) == "LM1514"  # type: ignore[misc]
    assert code(lambda: federations.reach(spiffe_id="spiffe://b.test/db", **{**asked, "address": "db"})) == "LM1514"
    federations.reach(spiffe_id="spiffe://b.test/db", **{**asked, "is_gone": True})
    assert world.app.state(0).endpoints == ()


def test_a_server_that_begins_again_goes_on_with_what_it_held(world: World) -> None:
    add(world.app.federations)
    poll(world, Peer(bundle(1)))
    again = Federations(
        engine=world.app._engine,
        own=world.app.bundle,
        clock=world.clock,
        random=lambda size: b"\x80" + b"\0" * (size - 1),
        record=lambda *_, **__: None,
        changed=lambda: None,
        rules=lambda: world.app._rules.rules,
        policies=lambda: None,
    )
    assert again.bundles() == world.app.federations.bundles()
    assert again.due() == []
    assert again.every() == world.app.federations.every()


def test_an_identity_says_whom_it_federates_with(world: World) -> None:
    world.rules(RULES)
    node = world.join()
    assert world.issue(node, unix__uid="1000").federates_with == ("b.test",)


def test_a_refresh_says_how_it_went(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(bundle(1))
    monkeypatch.setattr("limen.bundlefetch.fetch", peer.fetch)
    add(world.app.federations)
    with ThreadPoolExecutor(1) as worker:

        def once(**named: Any) -> Any:
            return asyncio.run(refresh(world.app.federations, worker, trust_domain="b.test", actor="me", **named))

        assert once(force=False)["is_changed"] is True
        assert once(force=False)["is_changed"] is False
        peer.answer = Unavailable("LM1508", url=URL, reason="gone")
        assert once(force=False)["code"] == "LM1508"


@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_served, max_size=8))
def test_whatever_is_served_the_bundle_is_the_last_good_one(world: World, served: list[bytes]) -> None:
    """Malformed, oversized, doubled, cut, flipped or rolled back: none of it replaces what is held."""
    federations = world.app.federations
    if not federations.every():
        add(federations)
    add(federations, replace=True, bundle=bundle(5).to_json())
    relationship, _ = federations.start("b.test")
    held = bundle(5)
    for data in served:
        answer: TrustBundle | Problem
        try:
            answer = parse_bundle(B, data)
        except Problem as problem:
            answer = problem
        federations.take(relationship, answer, actor="server")
        now = parse_bundle(B, federations.bundles()["b.test"])
        if now != held:
            assert now == answer
            assert now.sequence is not None
            assert held.sequence is not None
            assert now.sequence > held.sequence or now.digest == held.digest
        held = now


def test_polling_ends_with_the_server(world: World) -> None:
    async def work() -> None:
        stop = asyncio.Event()
        stop.set()
        with ThreadPoolExecutor(1) as worker:
            await keep_polling(world.app.federations, worker, stop)

    asyncio.run(work())
