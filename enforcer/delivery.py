"""Brings records and flows from this host to the server: records through the durable spool, flows as they come."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.batches import QUARANTINE, leaves_of, sign_batch
from audit.masking import Masking
from audit.record import check_record, record, to_bytes
from audit.recordsettings import RecordSettings, load_record_settings
from audit.spillway import Spillway
from audit.spool import Cursor, Damage, Spool
from enforcer.flowqueue import FlowQueue
from enforcer.node import Node
from enforcer.nodestate import NodeState
from mesh.clock import Clock, SystemClock
from mesh.problems import Conflict, Invalid, Unavailable
from mesh.proto import node_pb2 as pb
from mesh.ulid import RANDOM_BYTES

MAX_FLOWS_WAITING = 100_000
FLOW_BATCH = 5_000
BLOCKED_AT = 48_000
"""How many records a sidecar holds before it takes on no new work: three quarters of what it has room for."""
# what requests that were left out are counted by, and how many counts one record holds
_COUNTED = ("source", "caller", "destination", "policy", "rule", "code")
_COUNTS = 50


class Delivery:
    """One agent's spool and its way to the server. What `take` returned for is on the disk."""

    def __init__(
        self,
        spool: Spool | Spillway,
        key: Ed25519PrivateKey,
        agent: str,
        masking: Masking,
        *,
        source: str = "agent",
        clock: Clock | None = None,
        settings: RecordSettings | None = None,
    ) -> None:
        self._spool = spool if isinstance(spool, Spillway) else Spillway(spool)
        self._key, self._agent, self._masking = key, agent, masking
        self._settings = settings or RecordSettings()
        self._source, self._clock = source, clock or SystemClock()
        self._seen = 0
        self._damages = list(self._spool.damages)
        self._lock = asyncio.Lock()
        self._pushing = asyncio.Lock()
        self._news = asyncio.Event()
        self._flows = FlowQueue(MAX_FLOWS_WAITING)
        self._pushed: list[bytes] = []

    async def take(self, records: Sequence[Mapping[str, object]]) -> None:
        """Mask records and put them on the disk. One that is none is quarantined: another one says what was wrong.

        Of allowed requests one of so many is kept, as the settings say: always, or where they say `sample` once three
        quarters of the spool are full; when nothing fits any more, none. A record with exact counts of what was left
        out goes with the others, signed as they are; denials and everything else are never sampled.

        Raises Unavailable LM6011 when the spool takes no more; then nothing is acknowledged to the sidecar.
        """
        settings = self._settings
        one_of = settings.allowed_one_of
        if settings.when_full == "sample" and self._spool.waiting_bytes > settings.max_bytes * 3 // 4:
            one_of = max(one_of, settings.sample)
        rows = self._sampled(records, one_of) if one_of > 1 else records
        try:
            await self._append(rows)
        except Unavailable:
            fewer = self._sampled(records, 0) if settings.when_full == "sample" else rows
            if len(fewer) >= len(rows):
                raise
            await self._append(fewer)

    async def _append(self, records: Sequence[Mapping[str, object]]) -> None:
        rows = [self._written(found) for found in records]
        async with self._lock:
            await asyncio.to_thread(self._spool.append, rows)
        self._news.set()

    def _sampled(self, records: Sequence[Mapping[str, object]], one_of: int) -> Sequence[Mapping[str, object]]:
        """Records without most of those of allowed requests, and one that counts them; 0 keeps none."""
        kept: list[Mapping[str, object]] = []
        counts: Counter[tuple[str, ...]] = Counter()
        for found in records:
            if found.get("kind") != "decision" or found.get("decision") != "allow":
                kept.append(found)
                continue
            self._seen += 1
            if one_of and self._seen % one_of == 0:
                kept.append(found)
            else:
                counts[tuple(str(found.get(name)) for name in _COUNTED)] += 1
        if not counts:
            return records
        left_out = [{**dict(zip(_COUNTED, values, strict=True)), "records": count} for values, count in counts.items()]
        for at in range(0, len(left_out), _COUNTS):
            some = left_out[at : at + _COUNTS]
            total = sum(int(str(item["records"])) for item in some)
            kept.append(self._made("sampled", one_of=one_of, records=total, left_out=some))
        return kept

    def _written(self, found: Mapping[str, object]) -> bytes:
        try:
            masked = self._masking.mask(found)
            assert isinstance(masked, dict)
            check_record(masked)
            return to_bytes(masked)
        except Invalid as problem:
            about = {name: str(found.get(name))[:80] for name in ("id", "kind", "source")}
            facts = {name: str(value)[:400] for name, value in problem.facts.items()}
            return to_bytes(self._made(QUARANTINE, code=problem.code, about=about, facts=facts))

    def _made(self, kind: str, **fields: object) -> dict[str, object]:
        random = os.urandom(RANDOM_BYTES)
        return record(kind, now=self._clock.now(), random=random, source=self._source, **fields)

    @property
    def limits(self) -> dict[str, int]:
        """What sidecars are told: where records block, new work waits for them too."""
        return {"records": BLOCKED_AT} if self._settings.when_full == "block" else {}

    @property
    def keeps_denials(self) -> bool:
        """Whether sidecars answer who is denied only when the record of it is on this disk."""
        return self._settings.sync == "denials"

    async def emit(self, kind: str, **fields: object) -> None:
        """Record something that happened here.

        Raises Unavailable LM6011.
        """
        await self.take([self._made(kind, **fields)])

    def take_flows(self, flows: Sequence[Mapping[str, object]]) -> None:
        """Keep flows in memory until they are pushed; the oldest go first when there are too many."""
        self._flows.extend(json.dumps(row).encode() for row in flows)
        self._news.set()

    async def push_once(self, node: Node) -> bool:
        """Push what waits, one batch of each; return whether something was pushed.

        1. The next batch is read and signed: sequence number, content, and the batch before it.
        2. The server answers after it is durable there.
        3. Only then the spool forgets it. A crash between 2 and 3 sends it again; ids make that harmless.
        4. A server that expects another number than this host's next lost, or has, what this disk does not: numbers
           begin at 1 again, under the same key. That shows in the log.
        5. What is broken in the spool is set aside, and a record says so; the records behind it go on.

        One push at a time: two of the same number would not agree on what came before the next.
        Raises Unavailable LM3444, or LM6011 when this host's disk refuses.
        """
        async with self._pushing:
            return await self._push(node)

    async def _push(self, node: Node) -> bool:
        # (1)
        records, cursor = await self._next()
        if records:
            sequence = self._spool.sequence + 1
            signature, digest = sign_batch(self._key, self._agent, sequence, leaves_of(records), self._spool.previous)
            batch = pb.RecordBatch(
                sequence=sequence,
                records=records,
                signature=signature,
                key=self._key.public_key().public_bytes_raw(),
            )
            # (2)
            try:
                await node.push_records(batch)
            except Conflict as problem:
                # (4)
                if sequence == 1:
                    raise
                structlog.get_logger().error("batches are numbered anew", reason=str(problem))
                async with self._lock:
                    await asyncio.to_thread(self._spool.begin_anew)
                return True
            # (3)
            async with self._lock:
                await asyncio.to_thread(self._spool.ack, cursor, sequence=sequence, previous=digest)
        # what was pushed and not answered goes again as it was: the server knows it by that, and counts it once
        flows = self._pushed or self._flows.take(FLOW_BATCH)
        if flows:
            self._pushed = flows
            await node.push_flows(flows)
            self._pushed = []
        return bool(records or flows)

    async def _next(self) -> tuple[list[bytes], Cursor]:
        """The next batch, and step 5 of `push_once`."""
        while True:
            while self._damages:
                await self._tell_damage(self._damages[0])
                self._damages.pop(0)
            async with self._lock:
                try:
                    cursor, records = await asyncio.to_thread(self._spool.read)
                except Invalid:
                    damage = await asyncio.to_thread(self._spool.step_over)
                    if damage is not None:
                        self._damages.append(damage)
                else:
                    return records, cursor

    async def _tell_damage(self, damage: Damage) -> None:
        structlog.get_logger().error(
            "the spool is damaged", code="LM6010", segment=damage.segment, offset=damage.offset, size=damage.size
        )
        await self.emit("damaged", segment=damage.segment, offset=damage.offset, size=damage.size, sha256=damage.sha256)

    async def news(self) -> None:
        """Wait until something came in."""
        await self._news.wait()
        self._news.clear()

    def close(self) -> None:
        """Close the spool."""
        self._spool.close()


def open_delivery(folder: pathlib.Path, node: NodeState, clock: Clock) -> Delivery:
    """An agent's own: its spool, the key that the server pinned with its first batch, and a mask that nobody else has.

    Raises Conflict LM6013, Invalid LM6004 for settings that cannot be read.
    """
    settings = load_record_settings(folder)
    key = Ed25519PrivateKey.from_private_bytes(node.record_key)
    first = Spool(folder / "spool", max_bytes=settings.max_bytes)
    second = Spool(settings.spill, max_bytes=settings.spill_bytes) if settings.spill is not None else None
    return Delivery(
        Spillway(first, second),
        key,
        node.spiffe_id,
        settings.masking(key.sign(b"limen/audit/mask/1")[:32]),
        source=f"agent:{node.name}",
        clock=clock,
        settings=settings,
    )
