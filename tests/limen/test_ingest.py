import base64
import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.batches import batch_digest, leaves_of, sign_batch, verify_batches
from audit.merkle import leaf_hash
from audit.record import record, to_bytes
from mesh import canonicaljson
from mesh.problems import Problem
from tests.world import DOMAIN, World


def code_of(call: object) -> str:
    assert callable(call)
    with pytest.raises(Problem) as caught:
        call()
    return caught.value.code


class Sender:
    def __init__(self, world: World, node: str) -> None:
        self.world, self.node = world, node
        self.key = Ed25519PrivateKey.generate()
        self.previous = ""

    def records(self, count: int) -> list[bytes]:
        return [
            to_bytes(record("decision", now=self.world.clock.now(), random=os.urandom(10), source="x", code="LM2302"))
            for _ in range(count)
        ]

    def push(self, sequence: int, records: list[bytes], previous: str, key: Ed25519PrivateKey | None = None) -> str:
        key = key or self.key
        agent = f"spiffe://{DOMAIN}/limen/agent/{self.node}"
        signature, digest = sign_batch(key, agent, sequence, leaves_of(records), previous)
        self.world.app.push_records(
            self.node, sequence=sequence, records=records, signature=signature, key=key.public_key().public_bytes_raw()
        )
        assert digest == batch_digest(agent, sequence, leaves_of(records), previous)
        return digest


def test_batches_follow_one_another_and_are_taken_once(world: World) -> None:
    sender = Sender(world, world.join())
    before = world.app.status()["records"]
    first = sender.records(3)
    digest = sender.push(1, first, "")
    # each batch has a record of its own; an answer that was lost takes nothing twice
    assert world.app.status()["records"] == before + 4
    sender.push(1, first, "")
    assert world.app.status()["records"] == before + 4
    # the same batch again, with what came in meanwhile
    more = sender.records(1)
    latest = sender.push(1, [*first, *more], "")
    assert world.app.status()["records"] == before + 6
    assert code_of(lambda: sender.push(3, sender.records(1), digest)) == "LM5232"
    assert code_of(lambda: sender.push(2, sender.records(1), "")) == "LM6012"
    sender.push(2, sender.records(1), latest)
    assert findings_of(world) == []


def test_what_left_the_mesh_is_a_flow_and_counts_once(world: World) -> None:
    sender = Sender(world, world.join())
    fields = {
        "direction": "outbound", "caller": f"spiffe://{DOMAIN}/ns/shop/sa/cart", "destination": "192.0.2.7:443",
        "port": 443, "peer_ip": "127.0.0.1", "protocol": "tcp", "decision": "allow", "policy_decision": "allow",
        "tier": "egress", "rule": "dns:api.example.com", "facts": {"name": "api.example.com"},
    }  # fmt: skip
    made = [
        to_bytes(record("decision", now=world.clock.now(), random=os.urandom(10), source="x", **fields))
        for _ in range(2)
    ]
    first = [*sender.records(1), *made, to_bytes(record("decision", now=world.clock.now(), random=os.urandom(10),
                                                        source="x", direction="outbound", tier="egress"))]  # fmt: skip
    sender.push(1, first, "")
    sender.push(1, first, "")
    rows = world.app.flows(limit=10)
    assert [(row["host"], row["destination"], row["destination_port"]) for row in rows] == [
        ("api.example.com", None, 443)
    ] * 2


def findings_of(world: World) -> list[str]:
    rows = [(int(row.pop("index")), row) for row in world.app.records(after=0, kind=None, limit=100_000)]
    return [item.code for item in verify_batches(lambda: ((index, to_bytes(row)) for index, row in rows))]


def test_an_agent_that_lost_its_spool_begins_anew_and_the_log_says_so(world: World) -> None:
    sender = Sender(world, world.join())
    digest = sender.push(1, sender.records(1), "")
    sender.push(2, sender.records(1), digest)
    digest = sender.push(1, sender.records(2), "")
    sender.push(2, sender.records(1), digest)
    assert findings_of(world) == ["LM6074"]


def test_batches_of_another_key_are_refused(world: World) -> None:
    sender = Sender(world, world.join())
    digest = sender.push(1, sender.records(1), "")
    other = Ed25519PrivateKey.generate()
    assert code_of(lambda: sender.push(2, sender.records(1), digest, other)) == "LM5233"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "issuance"}, "it is not one that an agent makes"),
        ({"source": "server:world.test"}, "it is not one that an agent makes"),
        ({"id": "x"}, "its id is no ULID"),
        (None, "its schema is not known"),
    ],
    ids=str,
)
def test_a_bad_record_is_quarantined_and_the_others_of_its_batch_are_taken(
    world: World, fields: dict[str, object] | None, reason: str
) -> None:
    sender = Sender(world, world.join())
    one, two, three = sender.records(3)
    bad = b"{}" if fields is None else canonicaljson.dumps({**json.loads(two), **fields})
    digest = sender.push(1, [one, bad, three], "")
    *_, first, quarantine, last, batch = world.app.records(after=0, kind=None, limit=100_000)
    assert [first["id"], last["id"]] == [json.loads(one)["id"], json.loads(three)["id"]]
    assert (quarantine["kind"], quarantine["code"], quarantine["reason"]) == ("quarantine", "LM6002", reason)
    assert (quarantine["size"], quarantine["leaf"]) == (len(bad), base64.b64encode(leaf_hash(bad)).decode())
    assert (batch["kind"], batch["records"], batch["sequence"]) == ("batch", 3, 1)
    # and the queue behind it goes on
    sender.push(2, sender.records(1), digest)
    assert findings_of(world) == []


def test_a_batch_of_too_many_records_is_refused(world: World) -> None:
    sender = Sender(world, world.join())
    assert code_of(lambda: sender.push(1, sender.records(1) * 2001, "")) == "LM6002"
