import datetime as dt
import json
import pathlib

import pytest
import sqlalchemy as sa

from benchmarks import entries
from ca.registration import IdentityRule, RuleSet
from ca.ruleindex import RuleIndex
from limen import rulesfile
from limen.opening import open_app
from limen.signers import SignerPool
from limen.values import Endpoint
from mesh.problems import Problem
from tests.world import DOMAIN, RULES, TREE, World


def code_of(call: object) -> str:
    assert callable(call)
    with pytest.raises(Problem) as caught:
        call()
    return caught.value.code


def kinds(world: World) -> list[tuple[str, str]]:
    """What was recorded since the world began, with its reviewers."""
    first, *found = world.app.records(after=0, kind=None, limit=1000)
    assert (first["kind"], first["event"]) == ("reviewer-key", "begin")
    return [(row["kind"], str(row.get("event", ""))) for row in found]


def test_a_token_lets_one_node_join_once(world: World) -> None:
    token = world.app.create_token(ttl_s=60, actor="test")["token"]
    world.app.join(token, world.spki())
    assert code_of(lambda: world.app.join(token, world.spki())) == "LM1208"
    assert kinds(world) == [("ca", "token"), ("agent", "join")]


def test_signers_rest_when_nothing_large_was_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def rest(pool: SignerPool) -> None:
        looked.append(pool)

    monkeypatch.setattr(SignerPool, "rest", rest)
    world.app.tick()
    assert len(looked) == 1


def test_a_start_is_over_when_agents_that_were_known_had_time_to_report(world: World) -> None:
    """However long they take to come back on a busy host: until then agents keep the listeners that they know."""
    second = dt.timedelta(seconds=1)

    def settling() -> bool:
        world.app.tick()
        return world.app.state(0).is_settling

    node = world.join()
    world.app.close()
    world.app = open_app(world.state, trust_domain=DOMAIN, database=None, reviewers=None, clock=world.clock)
    world.clock.advance(25 * second)
    assert settling()
    world.app.watch_begins(node)
    world.clock.advance(9 * second)
    assert settling()
    world.clock.advance(second)
    assert not settling()
    world.app.watch_ends(node)
    assert not settling()


def test_a_token_expires(world: World) -> None:
    token = world.app.create_token(ttl_s=60, actor="test")["token"]
    world.clock.advance(dt.timedelta(seconds=60))
    assert code_of(lambda: world.app.join(token, world.spki())) == "LM1208"


def test_a_rule_written_later_gives_the_identity_at_once(world: World) -> None:
    node = world.join()
    assert world.issue(node, unix__uid="1000").code == "LM1210"
    world.rules(RULES)
    issued = world.issue(node, unix__uid="1000")
    assert (issued.spiffe_id, issued.rule) == (f"spiffe://{DOMAIN}/user/1000", "user")
    assert ("policy", "identity-rules") in kinds(world)


def test_a_broken_rules_file_changes_nothing(world: World) -> None:
    node = world.join()
    world.rules(RULES)
    assert world.issue(node, unix__uid="1000").code == ""
    world.rules("rules: [")
    assert world.issue(node, unix__uid="1000").code == ""


def test_a_node_cannot_speak_of_itself_as_another(world: World) -> None:
    node = world.join()
    world.rules('rules:\n- id: n\n  match: {"node:id": "other"}\n  spiffe_id: "/x"\n')
    assert world.issue(node, node__id="other").code == "LM1210"


def test_every_certificate_is_recorded_before_it_is_given_out(world: World) -> None:
    node = world.join()
    world.rules(RULES)
    world.issue(node, unix__uid="1000")
    assert kinds(world)[-1] == ("issuance", "")
    assert any(row["rule"] == "user" for row in world.app.identities())


def test_only_a_joined_node_is_a_node(world: World) -> None:
    node = world.join()
    world.rules('rules:\n- id: u\n  match: {"unix:uid": "1"}\n  spiffe_id: "/{unix:group}/agent/x"\n')
    assert world.issue(node, unix__uid="1", unix__group="limen").code == "LM1231"
    chain = world.app.renew_node(node, world.spki())
    assert world.app.authenticate_node(chain) == node
    world.rules(RULES)
    issued = world.issue(node, unix__uid="1000")
    assert code_of(lambda: world.app.authenticate_node(issued.chain)) == "LM5230"
    assert code_of(lambda: world.app.authenticate_node([])) == "LM1010"


def test_an_agent_gets_the_newest_release_and_then_every_one_in_order(world: World) -> None:
    assert world.app.state(0).releases == ()
    first = world.publish()
    world.publish(TREE.replace("GET", "POST"))
    third = world.publish(TREE.replace("GET", "PUT"))
    fresh = world.app.state(0)
    assert [json.loads(item[0])["snapshot"] for item in fresh.releases] == [third]
    assert (len(world.app.state(1).releases), fresh.epoch) == (2, 3)
    assert first != third


def test_activation_without_the_threshold_is_refused(world: World) -> None:
    assert code_of(lambda: world.publish(names=("ada",))) in {"LM2416", "LM2423"}
    assert world.app.active_snapshot() is None


def test_an_unknown_review_event_is_refused(world: World) -> None:
    assert code_of(lambda: world.app.move_review("x", "explode", actor="test")) == "LM5234"


def test_flows_are_kept_in_their_public_form(world: World) -> None:
    node = world.join()
    row = {
        "start": "2026-11-24T12:00:00Z",
        "source": "spiffe://world.test/a",
        "destination": "spiffe://world.test/b",
        "destination_port": 80,
        "protocol": "http",
        "connections": 4,
    }
    world.app.push_flows(node, [json.dumps(row).encode()])
    assert world.app.flows(limit=10)[0]["connections"] == 4
    assert world.app.status()["flow_connections"] == 4
    assert code_of(lambda: world.app.push_flows(node, [b'{"start": 1}'])) == "LM5231"


def test_endpoints_count_while_their_agent_watches(world: World) -> None:
    node = world.join()
    found = (Endpoint(spiffe_id="spiffe://world.test/b", address="10.0.0.1", port=80),)
    calls: list[int] = []
    forget = world.app.on_change(lambda: calls.append(1))
    world.app.report_endpoints(node, found)
    assert world.app.state(0).endpoints == ()
    world.app.watch_begins(node)
    assert world.app.state(0).endpoints == found
    world.app.watch_ends(node)
    assert world.app.state(0).endpoints == ()
    forget()
    world.app.rotate(actor="test")
    assert len(calls) == 3


def test_an_agent_is_current_when_it_applies_the_active_epoch(world: World) -> None:
    node = world.join()
    world.publish()
    world.app.watch_begins(node)
    status = {"snapshot": "x", "sidecars": 1, "handshakes": 7}
    world.app.report_status(node, epoch=0, refusals=(("LM2416", "two of two"),), **status)  # type: ignore[arg-type]
    assert world.app.status()["agents"][0]["is_current"] is False
    world.app.report_status(node, epoch=1, refusals=(), **status)  # type: ignore[arg-type]
    found = world.app.status()
    assert found["agents"][0]["is_current"] is True
    assert found["handshakes"] == 7
    assert ("agent", "refusal") in kinds(world)


def test_a_restart_loses_nothing(world: World) -> None:
    node = world.join()
    snapshot = world.publish()
    records = world.app.status()["records"]
    world.app.close()
    again = open_app(world.state, trust_domain=DOMAIN, database=None, reviewers=None, clock=world.clock)
    assert again.active_snapshot()["hash"] == snapshot
    assert again.status()["records"] == records
    assert again.authenticate_node(again.renew_node(node, world.spki())) == node
    again.close()


def test_a_state_belongs_to_one_trust_domain(world: World) -> None:
    world.app.close()
    call = lambda: open_app(world.state, trust_domain="other.test", database=None, reviewers=None, clock=world.clock)  # noqa: E731
    assert code_of(call) in {"LM1206", "LM2411", "LM2405"}


def test_identity_explanations_name_every_rule(world: World) -> None:
    world.rules(RULES)
    found = world.app.explain_identity([("unix:uid", "7")])
    assert found["spiffe_id"] is None
    assert found["rules"] == [{"rule": "user", "matched": False, "reason": "unix:uid is 7, not 1000"}]
    assert world.app.explain_identity([("unix:uid", "1000")])["container_bound"] is True


GROWING = (
    *("ca_issued", "ca_revoked", "ca_nodes", "ca_tokens", "ca_node_proofs", "ca_journal", "ca_trust_seen"),
    *("limen_flows", "acme_orders", "acme_authorizations", "acme_challenges", "acme_certificates"),
)


@pytest.mark.parametrize("count", [500, pytest.param(100_000, marks=pytest.mark.slow)])
def test_an_idle_minute_looks_at_no_entry_and_scans_no_table_that_grows(
    world: World, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    node = world.join()
    world.rules(entries.text(count) + RULES.removeprefix("rules:\n"))
    assert world.issue(node, unix__uid="1000").code == ""
    assert len(world.app._rules.rules.rules) == count + 1
    world.app.tick()
    asked: dict[str, object] = {}
    visited: list[str] = []

    def ask(connection: object, cursor: object, statement: str, parameters: object, *more: object) -> None:
        asked[statement] = parameters

    def visit(self: object, *call: object) -> None:
        visited.append("rules")

    sa.event.listen(world.app._engine, "before_cursor_execute", ask)
    # every way to look at entries: by facts, all of them, and by reading the file
    monkeypatch.setattr(RuleIndex, "candidates", visit)
    monkeypatch.setattr(RuleSet, "explain", visit)
    monkeypatch.setattr(RuleSet, "rules", property(visit), raising=False)
    monkeypatch.setattr(IdentityRule, "fits", visit)
    monkeypatch.setattr(rulesfile, "read_rules", visit)
    monkeypatch.setattr(pathlib.Path, "read_bytes", visit)
    for _ in range(60):
        world.clock.advance(dt.timedelta(seconds=1))
        world.app.tick()
        # what is looked for beside the tick, and what every agent says four times a second
        world.app.acme.due()
        world.app.federations.due()
        world.app.report_status(node, epoch=0, snapshot="", sidecars=0, handshakes=0, refusals=(), trust=1)
    assert visited == []
    sa.event.remove(world.app._engine, "before_cursor_execute", ask)
    plans = {}
    with world.app._engine.begin() as connection:
        for statement, parameters in asked.items():
            if statement.startswith(("SELECT", "DELETE", "UPDATE")):
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans[statement] = [str(row[3]) for row in rows]
    assert plans
    scans = {detail for found in plans.values() for detail in found if detail.startswith("SCAN")}
    assert not [detail for detail in scans if detail.split()[1] in GROWING], scans
