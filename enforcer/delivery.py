"""Brings records and flows from this host to the server: records through the durable spool, flows as they come."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.record import mask, to_bytes
from audit.spool import Spool, sign_batch
from enforcer.node import Node
from mesh.proto import node_pb2 as pb

MAX_FLOWS_WAITING = 100_000
FLOW_BATCH = 5_000


class Delivery:
    """One agent's spool and its way to the server. What `take` returned for is on the disk."""

    def __init__(self, spool: Spool, key: Ed25519PrivateKey, agent: str, mask_key: bytes) -> None:
        self._spool, self._key, self._agent, self._mask_key = spool, key, agent, mask_key
        self._lock = asyncio.Lock()
        self._pushing = asyncio.Lock()
        self._news = asyncio.Event()
        self._flows: deque[bytes] = deque(maxlen=MAX_FLOWS_WAITING)

    async def take(self, records: Sequence[Mapping[str, object]]) -> None:
        """Mask records and put them on the disk.

        Raises Unavailable LM6011 when the spool takes no more; then nothing is acknowledged to the sidecar.
        """
        rows = []
        for found in records:
            masked = mask(found, self._mask_key)
            assert isinstance(masked, dict)
            rows.append(to_bytes(masked))
        async with self._lock:
            await asyncio.to_thread(self._spool.append, rows)
        self._news.set()

    def take_flows(self, flows: Sequence[Mapping[str, object]]) -> None:
        """Keep flows in memory until they are pushed; the oldest go first when there are too many."""
        self._flows.extend(json.dumps(row).encode() for row in flows)
        self._news.set()

    async def push_once(self, node: Node) -> bool:
        """Push what waits, one batch of each; return whether something was pushed.

        1. The next batch is read and signed: sequence number, content, and the batch before it.
        2. The server answers after it is durable there.
        3. Only then the spool forgets it. A crash between 2 and 3 sends it again; ids make that harmless.

        One push at a time: two of the same number would not agree on what came before the next.
        Raises Unavailable LM3444.
        """
        async with self._pushing:
            return await self._push(node)

    async def _push(self, node: Node) -> bool:
        # (1)
        async with self._lock:
            cursor, records = await asyncio.to_thread(self._spool.read)
        if records:
            sequence = self._spool.sequence + 1
            signature, digest = sign_batch(self._key, self._agent, sequence, records, self._spool.previous)
            batch = pb.RecordBatch(
                sequence=sequence,
                records=records,
                signature=signature,
                key=self._key.public_key().public_bytes_raw(),
            )
            # (2)
            await node.push_records(batch)
            # (3)
            async with self._lock:
                await asyncio.to_thread(self._spool.ack, cursor, sequence=sequence, previous=digest)
        flows = [self._flows.popleft() for _ in range(min(FLOW_BATCH, len(self._flows)))]
        if flows:
            try:
                await node.push_flows(flows)
            except BaseException:
                # the oldest of them go when newer ones took their room meanwhile
                room = MAX_FLOWS_WAITING - len(self._flows)
                self._flows.extendleft(reversed(flows[max(0, len(flows) - room) :]))
                raise
        return bool(records or flows)

    async def news(self) -> None:
        """Wait until something came in."""
        await self._news.wait()
        self._news.clear()

    def close(self) -> None:
        """Close the spool."""
        self._spool.close()
