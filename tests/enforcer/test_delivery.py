import asyncio
import datetime as dt
import json
import pathlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.batches import leaves_of, verify_batch
from audit.masking import Masking
from audit.record import record
from audit.recordsettings import RecordSettings
from audit.spool import Spool
from enforcer.delivery import Delivery
from mesh.clock import ManualClock
from mesh.problems import Conflict, Unavailable
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
        self.previous = verify_batch(
            key, AGENT, batch.sequence, leaves_of(batch.records), self.previous, batch.signature
        )
        self.batches.append(batch)
        return int(batch.sequence)

    async def push_flows(self, flows: list[bytes]) -> None:
        if self.is_away:
            raise Unavailable("LM3444", address="x", reason="away")
        self.flows += flows


def rows(count: int, **fields: object) -> list[dict[str, object]]:
    return [record("decision", now=NOW, random=bytes([n]) * 10, source="s", **fields) for n in range(count)]


def delivery(path: pathlib.Path) -> Delivery:
    return Delivery(Spool(path), KEY, AGENT, Masking(b"mask"))


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


def flip(path: pathlib.Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_bit_that_flipped_in_the_spool_is_a_record_and_the_others_go_on(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        server, found = Server(), delivery(tmp_path)
        await found.take(rows(3))
        found.close()
        segment = tmp_path / "000000000000.log"
        flip(segment, 20)
        again = delivery(tmp_path)
        while await again.push_once(server):  # type: ignore[arg-type]
            continue
        records = [json.loads(item) for batch in server.batches for item in batch.records]
        assert [row["kind"] for row in records] == ["decision", "decision", "damaged"]
        assert (records[-1]["segment"], records[-1]["offset"]) == (segment.name, 0)
        again.close()

    asyncio.run(run())


def test_a_cursor_that_broke_sends_everything_again_as_a_first_batch(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        found = delivery(tmp_path)
        await found.take(rows(2))
        await found.push_once(Server())  # type: ignore[arg-type]
        await found.take(rows(3))
        found.close()
        flip(tmp_path / "cursor", 15)
        again, server = delivery(tmp_path), Server()
        await again.push_once(server)  # type: ignore[arg-type]
        assert [(batch.sequence, len(batch.records)) for batch in server.batches] == [(1, 6)]
        again.close()

    asyncio.run(run())


def test_a_server_that_expects_another_number_gets_everything_from_one_on(tmp_path: pathlib.Path) -> None:
    class Restored(Server):
        """A server from a backup: it knows of no batch but takes a first one."""

        async def push_records(self, batch: pb.RecordBatch) -> int:
            if batch.sequence != len(self.batches) + 1:
                raise Conflict("LM6077", sequence=batch.sequence, reason="x")
            return await super().push_records(batch)

    async def run() -> None:
        found = delivery(tmp_path)
        before = Server()
        for count in (1, 2):
            await found.take(rows(count))
            await found.push_once(before)  # type: ignore[arg-type]
        await found.take(rows(4))
        after = Restored()
        while await found.push_once(after):  # type: ignore[arg-type]
            continue
        assert [(batch.sequence, len(batch.records)) for batch in after.batches] == [(1, 4)]
        found.close()

    asyncio.run(run())


@pytest.mark.parametrize("bad", [{"note": "x" * 70_000}, {"n": float("nan")}, {"id": "x"}], ids=["large", "nan", "id"])
def test_a_malformed_record_is_quarantined_and_does_not_hold_up_the_others(
    tmp_path: pathlib.Path, bad: dict[str, object]
) -> None:
    async def run() -> None:
        server, found = Server(), delivery(tmp_path)
        one, two, three = rows(3)
        await found.take([one, {**two, **bad}, three])
        await found.push_once(server)  # type: ignore[arg-type]
        (batch,) = server.batches
        kinds = [json.loads(item)["kind"] for item in batch.records]
        assert kinds == ["decision", "quarantine", "decision"]
        assert json.loads(batch.records[1])["about"]["kind"] == "decision"
        found.close()

    asyncio.run(run())


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

    async def run() -> None:
        server, found = Server(), delivery(tmp_path)
        found.take_flows([{"n": number} for number in range(7)])
        await found.push_once(server)  # type: ignore[arg-type]
        assert [json.loads(row)["n"] for row in server.flows] == [3, 4, 5, 6]
        found.close()

    asyncio.run(run())


def test_flows_whose_answer_was_lost_go_again_as_they_were(tmp_path: pathlib.Path) -> None:
    pushes: list[list[bytes]] = []

    class Deaf(Server):
        async def push_flows(self, flows: list[bytes]) -> None:
            pushes.append([*flows])
            # meanwhile others came in
            found.take_flows([{"n": 2}, {"n": 3}])
            await super().push_flows(flows)

    server, found = Deaf(), delivery(tmp_path)

    async def run() -> None:
        server.is_away = True
        found.take_flows([{"n": 0}, {"n": 1}])
        with pytest.raises(Unavailable):
            await found.push_once(server)  # type: ignore[arg-type]
        server.is_away = False
        await found.push_once(server)  # type: ignore[arg-type]
        assert pushes[0] == pushes[1] == [b'{"n": 0}', b'{"n": 1}']
        await found.push_once(server)  # type: ignore[arg-type]
        assert [json.loads(row)["n"] for row in pushes[2]] == [2, 3, 2, 3]
        found.close()

    asyncio.run(run())


def decided(number: int, effect: str) -> dict[str, object]:
    return record(
        "decision", now=NOW, random=number.to_bytes(10, "big"), source="s", caller="c", destination="d", policy="p",
        rule="r", code="LM2301", decision=effect, pad="x" * 500,
    )  # fmt: skip


def test_a_full_spool_samples_allowed_requests_alone_and_counts_what_it_left_out(
    tmp_path: pathlib.Path,
) -> None:
    settings = RecordSettings(when_full="sample", max_bytes=1 << 18, sample=10)
    masking, server = Masking(b"mask"), Server()

    async def run() -> None:
        spool = Spool(tmp_path, max_bytes=settings.max_bytes)
        found = Delivery(spool, KEY, AGENT, masking, source="agent:n", settings=settings)
        for start in range(0, 500, 20):
            numbers = range(start, start + 20)
            await found.take([decided(number, "allow" if number % 20 else "deny") for number in numbers])
        while await found.push_once(server):  # type: ignore[arg-type]
            continue
        found.close()

    asyncio.run(run())
    rows = [json.loads(item) for batch in server.batches for item in batch.records]
    decisions = [row["decision"] for row in rows if row["kind"] == "decision"]
    left_out = [row for row in rows if row["kind"] == "sampled"]
    assert decisions.count("deny") == 25
    assert decisions.count("allow") + sum(row["records"] for row in left_out) == 475
    assert {row["one_of"] for row in left_out} == {10}
    assert all(sum(item["records"] for item in row["left_out"]) == row["records"] for row in left_out)
    # in the order in which they were made
    ids = [row["id"] for row in rows if row["kind"] == "decision"]
    assert ids == sorted(ids)


def test_allowed_requests_are_sampled_always_where_the_settings_say_so(tmp_path: pathlib.Path) -> None:
    async def run() -> list[dict[str, object]]:
        server = Server()
        found = Delivery(Spool(tmp_path), KEY, AGENT, Masking(b"mask"), settings=RecordSettings(allowed_one_of=10))
        for start in range(0, 100, 20):
            numbers = range(start, start + 20)
            await found.take([decided(number, "allow" if number % 20 else "deny") for number in numbers])
        while await found.push_once(server):  # type: ignore[arg-type]
            continue
        found.close()
        return [json.loads(item) for batch in server.batches for item in batch.records]

    rows = asyncio.run(run())
    decisions = [row["decision"] for row in rows if row["kind"] == "decision"]
    assert (decisions.count("deny"), decisions.count("allow")) == (5, 9)
    assert sum(int(str(row["records"])) for row in rows if row["kind"] == "sampled") == 86


def test_a_full_spool_that_blocks_takes_nothing_and_drops_nothing(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        spool = Spool(tmp_path, max_bytes=20_000)
        found, server, taken = Delivery(spool, KEY, AGENT, Masking(b"mask")), Server(), 0
        with pytest.raises(Unavailable):
            while True:
                await found.take([decided(taken, "allow")])
                taken += 1
        assert found.limits["records"] > 0
        while await found.push_once(server):  # type: ignore[arg-type]
            continue
        assert sum(len(batch.records) for batch in server.batches) == taken > 10
        await found.take([decided(taken, "allow")])
        found.close()

    asyncio.run(run())


def test_a_server_that_is_gone_for_a_day_and_a_clock_that_jumps_lose_nothing(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        clock, server = ManualClock(NOW), Server()
        sent: list[str] = []
        server.is_away = True
        for hour in range(24):
            found = Delivery(Spool(tmp_path, segment_bytes=2000), KEY, AGENT, Masking(b"mask"), clock=clock)
            clock.advance(dt.timedelta(hours=1) if hour % 5 else dt.timedelta(hours=-30))
            rows = [record("decision", now=clock.now(), random=bytes([hour, n]) * 5, source="s") for n in range(3)]
            await found.take(rows)
            sent += [str(row["id"]) for row in rows]
            with pytest.raises(Unavailable):
                await found.push_once(server)  # type: ignore[arg-type]
            found.close()
        server.is_away = False
        again = delivery(tmp_path)
        while await again.push_once(server):  # type: ignore[arg-type]
            continue
        again.close()
        assert [json.loads(item)["id"] for batch in server.batches for item in batch.records] == sent

    asyncio.run(run())
