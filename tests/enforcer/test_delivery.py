import asyncio
import json
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


class Crashed(Exception):
    """The agent ended here."""


def test_a_crash_after_the_server_took_a_batch_sends_it_again_under_the_same_number(tmp_path: pathlib.Path) -> None:
    class Dying(Server):
        async def push_records(self, batch: pb.RecordBatch) -> int:
            await super().push_records(batch)
            raise Crashed

    async def run() -> None:
        found = delivery(tmp_path)
        await found.take(rows(2))
        dying = Dying()
        with pytest.raises(Crashed):
            await found.push_once(dying)  # type: ignore[arg-type]
        found.close()
        again, server = delivery(tmp_path), Server()
        await again.push_once(server)  # type: ignore[arg-type]
        assert [batch.sequence for batch in (*dying.batches, *server.batches)] == [1, 1]
        assert list(server.batches[0].records) == list(dying.batches[0].records)
        await again.take(rows(1))
        await again.push_once(server)  # type: ignore[arg-type]
        assert server.batches[-1].sequence == 2
        again.close()

    asyncio.run(run())


def test_pushes_at_once_are_made_one_after_the_other(tmp_path: pathlib.Path) -> None:
    class Slow(Server):
        def __init__(self) -> None:
            super().__init__()
            self.inside = self.most = 0

        async def push_records(self, batch: pb.RecordBatch) -> int:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0)
            self.inside -= 1
            return await super().push_records(batch)

    async def run() -> None:
        server, found = Slow(), delivery(tmp_path)

        async def both() -> None:
            await found.take(rows(1))
            await found.push_once(server)  # type: ignore[arg-type]

        # the server refuses numbers and digests that do not follow
        await asyncio.gather(*(both() for _ in range(10)))
        assert server.most == 1
        assert [batch.sequence for batch in server.batches] == list(range(1, len(server.batches) + 1))
        assert sum(len(batch.records) for batch in server.batches) == 10
        found.close()

    asyncio.run(run())


def test_the_oldest_flows_go_when_there_are_too_many(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enforcer.delivery.MAX_FLOWS_WAITING", 4)

    class Filling(Server):
        async def push_flows(self, flows: list[bytes]) -> None:
            if self.is_away:
                # meanwhile others came in
                found.take_flows([{"n": 4}, {"n": 5}, {"n": 6}])
            await super().push_flows(flows)

    server, found = Filling(), delivery(tmp_path)

    async def run() -> None:
        server.is_away = True
        found.take_flows([{"n": number} for number in range(4)])
        with pytest.raises(Unavailable):
            await found.push_once(server)  # type: ignore[arg-type]
        server.is_away = False
        await found.push_once(server)  # type: ignore[arg-type]
        assert [json.loads(row)["n"] for row in server.flows] == [3, 4, 5, 6]
        found.close()

    asyncio.run(run())
