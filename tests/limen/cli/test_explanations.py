"""A recorded decision is explained by the policies that were in force when it was made."""

import json
import os
import pathlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.batches import leaves_of, sign_batch
from audit.record import record, to_bytes
from limen.__main__ import run
from limen.cli.explanations import UNRECORDED, request_of
from policyengine.decide import Index
from policyengine.model import policy_set_from_json
from tests.world import DOMAIN, TREE, World

CART, DB = f"spiffe://{DOMAIN}/ns/shop/sa/cart", f"spiffe://{DOMAIN}/ns/shop/sa/db"
CONTACT = {
    "direction": "inbound", "caller": CART, "destination": DB, "port": 8080, "peer_ip": "127.0.0.1", "protocol": "http",
}  # fmt: skip


class Sidecar:
    """Something that decides by the active snapshot and records it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = world.join()
        self._key = Ed25519PrivateKey.generate()
        self._sequence = 0
        self._digest = ""

    def record(self, **fields: Any) -> str:
        self._sequence += 1
        made = record("decision", now=self.world.clock.now(), random=os.urandom(10), source="sidecar", **fields)
        agent = f"spiffe://{DOMAIN}/limen/agent/{self.node}"
        batch = [to_bytes(made)]
        signature, self._digest = sign_batch(self._key, agent, self._sequence, leaves_of(batch), self._digest)
        public = self._key.public_key().public_bytes_raw()
        self.world.app.push_records(self.node, sequence=self._sequence, records=batch, signature=signature, key=public)
        return str(made["id"])

    def decide(self, method: str, path: str) -> str:
        """Decide a request by the active snapshot; return the record's id."""
        active = self.world.app.active_snapshot()
        asked = {**CONTACT, "method": method, "host": "db", "path": path, "time": "2026-11-24T12:00:00Z"}
        decision = Index(policy_set_from_json(active["snapshot"]["policies"]), active["hash"]).decide(request_of(asked))
        return self.record(
            **CONTACT, method=method, host="db", path=path, decision=str(decision.effect),
            policy_decision=str(decision.policy_effect), mode=str(decision.mode), snapshot=decision.snapshot,
            tier=decision.tier, policy=decision.policy, rule=decision.rule, code=decision.code, candidate=None,
        )  # fmt: skip


@pytest.fixture
def sidecar(world: World) -> Sidecar:
    world.publish()
    return Sidecar(world)


def test_a_denial_is_explained_with_nearest_miss_and_fix(
    world: World, sidecar: Sidecar, capsys: pytest.CaptureFixture[str]
) -> None:
    identifier = sidecar.decide("POST", "/orders/5")
    assert run(["explain", identifier, "--state", str(world.state), "-o", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["decision"], found["code"], found["id"], found["follows"]) == ("deny", "LM2302", identifier, True)
    assert found["nearest"]["rule"] == "orders"
    assert found["nearest"]["differs"] == ["methods"]
    assert [step["tier"] for step in found["path"] if step["reached"]] == ["guardrail", "app", "baseline"]


def test_the_policies_are_those_of_then_and_not_of_now(
    world: World, sidecar: Sidecar, capsys: pytest.CaptureFixture[str]
) -> None:
    then = sidecar.decide("POST", "/orders/5")
    world.publish(TREE.replace("methods: [GET]", "methods: [GET, POST]"))
    now = sidecar.decide("POST", "/orders/5")
    assert run(["explain", then, "--state", str(world.state)]) == 1
    assert "add `POST` to `methods`" in capsys.readouterr().out
    assert run(["explain", now, "--state", str(world.state)]) == 0
    assert "by       shop-db, rule orders" in capsys.readouterr().out


def test_a_tree_names_file_and_line(
    world: World, sidecar: Sidecar, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "db.yaml").write_text(TREE)
    identifier = sidecar.decide("GET", "/orders/5")
    command = ["policy", "explain", identifier, "--state", str(world.state), "--policies", str(tmp_path)]
    assert run(command) == 0
    assert f"by       shop-db, rule orders ({tmp_path / 'db.yaml'}:16), tier app" in capsys.readouterr().out


def test_a_rule_that_reads_what_is_not_recorded_is_named_all_the_same(
    world: World, sidecar: Sidecar, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TREE.rstrip("\n") + "\n    when: {headers: {x-tenant: [a]}}\n"
    world.publish(text)
    snapshot = world.app.active_snapshot()["hash"]
    identifier = sidecar.record(
        **CONTACT, method="GET", host="db", path="/orders/5", decision="allow", policy_decision="allow", mode="enforce",
        snapshot=snapshot, tier="app", policy="shop-db", rule="orders", code="LM2300", candidate=None,
    )  # fmt: skip
    assert run(["explain", identifier, "--state", str(world.state)]) == 0
    shown = capsys.readouterr().out
    assert "by       shop-db, rule orders" in shown
    assert "headers and tokens are not recorded" in shown
    assert "  fix" not in shown


@pytest.mark.parametrize("is_active", [False, True])
def test_what_no_policy_refused_is_explained_by_its_code(
    world: World, sidecar: Sidecar, capsys: pytest.CaptureFixture[str], *, is_active: bool
) -> None:
    snapshot = world.app.active_snapshot()["hash"] if is_active else ""
    identifier = sidecar.record(
        direction="outbound", decision="deny", policy_decision="deny", mode="enforce", snapshot=snapshot, tier="",
        policy="", rule="", code="LM3422", facts={"pid": 7, "executable": "/bin/\x1b[31mevil"},
    )  # fmt: skip
    assert run(["explain", identifier, "--state", str(world.state)]) == 1
    shown = capsys.readouterr().out
    assert "LM3422" in shown
    assert "  path" not in shown
    assert "\x1b" not in shown


def test_records_of_other_things_are_no_decisions(
    world: World, sidecar: Sidecar, capsys: pytest.CaptureFixture[str]
) -> None:
    other = next(row for row in world.app.records(after=0, kind="review", limit=1))
    assert run(["explain", str(other["id"]), "--state", str(world.state)]) == 2
    assert "LM2205" in capsys.readouterr().err
    assert run(["explain", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "--state", str(world.state)]) == 2
    assert "LM6038" in capsys.readouterr().err


def test_what_is_not_recorded_is_unknown_and_not_absent() -> None:
    found = request_of({**CONTACT, "time": "2026-11-24T12:00:00Z", "method": "GET", "path": "/a"})
    assert found.unknown == UNRECORDED
    assert (found.service, found.source, found.method, found.path) == (DB, CART, "GET", "/a")
