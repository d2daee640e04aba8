import asyncio
import pathlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.record import record
from audit.spool import Spool, verify_batch
from enforcer.delivery import Delivery
from mesh.problems import Unavailable
from mesh.proto import node_pb2 as pb
from tests.pki import NOW

AGENT = "spiffe://td/limen/agent/n"
KEY = Ed25519PrivateKey.generate()


class Server:
    """The server's side of the two calls: it checks every batch as the real one does, and can be away."""

    def __init__(self) -> None:
        self.batches: list[pb.RecordBatch] = []
        self.flows: list[bytes] = []
        self.previous = ""
        self.is_away = False

    async def push_records(self, batch: pb.RecordBatch) -> int:
        if self.is_away:
            raise Unavailable("LM3444", address="x", reason="away")
        key = Ed25519PublicKey.from_public_bytes(batch.key)
        self.previous = verify_batch(key, AGENT, batch.sequence, list(batch.records), self.previous, batch.signature)
        self.batches.append(batch)
        return int(batch.sequence)

    async def push_flows(self, flows: list[bytes]) -> None:
        if self.is_away:
            raise Unavailable("LM3444", address="x", reason="away")
        self.flows += flows


def rows(count: int, **fields: object) -> list[dict[str, object]]:
    return [record("decision", now=NOW, random=bytes([n]) * 10, source="s", **fields) for n in range(count)]


def delivery(path: pathlib.Path) -> Delivery:
    return Delivery(Spool(path), KEY, AGENT, b"mask")


def test_batches_are_signed_chained_and_forgotten_after_the_answer(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        server, found = Server(), delivery(tmp_path)
        for number in range(3):
            await found.take(rows(number + 1))
            assert await found.push_once(server)  # type: ignore[arg-type]
        assert [(batch.sequence, len(batch.records)) for batch in server.batches] == [(1, 1), (2, 2), (3, 3)]
        assert not await found.push_once(server)  # type: ignore[arg-type]
        found.close()

    asyncio.run(run())


def test_a_server_that_is_away_loses_nothing_and_neither_does_a_restart(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        server, found = Server(), delivery(tmp_path)
        await found.take(rows(1))
        await found.push_once(server)  # type: ignore[arg-type]
        server.is_away = True
        await found.take(rows(2))
        found.take_flows([{"a": 1}])
        with pytest.raises(Unavailable):
            await found.push_once(server)  # type: ignore[arg-type]
        found.close()
        again = delivery(tmp_path)
        await again.take(rows(4))
        server.is_away = False
        assert await again.push_once(server)  # type: ignore[arg-type]
        assert [(batch.sequence, len(batch.records)) for batch in server.batches] == [(1, 1), (2, 6)]
        again.close()

    asyncio.run(run())


def test_flows_wait_in_memory_while_the_server_is_away(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        server, found = Server(), delivery(tmp_path)
        server.is_away = True
        found.take_flows([{"a": 1}, {"a": 2}])
        with pytest.raises(Unavailable):
            await found.push_once(server)  # type: ignore[arg-type]
        server.is_away = False
        await found.push_once(server)  # type: ignore[arg-type]
        assert server.flows == [b'{"a": 1}', b'{"a": 2}']
        await found.news()
        found.close()

    asyncio.run(run())


def test_secrets_never_reach_the_disk(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        found = delivery(tmp_path)
        await found.take(rows(1, headers=[["Authorization", "Bearer hunter2"]], claims={"sub": "alice@corp.test"}))
        found.close()

    asyncio.run(run())
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"hunter2" not in data
    assert b"alice" not in data
