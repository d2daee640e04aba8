"""Agents that sign batches, and a log as the server keeps it."""

import os
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.batches import batch_fields, leaves_of, sign_batch
from audit.record import record, to_bytes
from tests.audit.making import KEY, START

AGENT = "spiffe://a.test/limen/agent/n1"


def own(kind: str, **fields: object) -> bytes:
    """A record of the server's own."""
    return to_bytes(record(kind, now=START, random=os.urandom(10), source="server:a.test", actor="n1", **fields))


class Keeper:
    """Agents that sign batches, and a server that puts them into a log as the real one does."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.heads: dict[str, tuple[int, str]] = {}

    def batch(
        self,
        records: Sequence[bytes],
        agent: str = AGENT,
        key: Ed25519PrivateKey = KEY,
        *,
        at: tuple[int, str] | None = None,
    ) -> None:
        sequence, previous = at or self.heads.get(agent, (0, ""))
        leaves = leaves_of(records)
        signature, digest = sign_batch(key, agent, sequence + 1, leaves, previous)
        known = set(self.log)
        again = []
        for place, found in enumerate(records):
            if found in known:
                again.append(place)
            else:
                self.log.append(found)
            known.add(found)
        fields = batch_fields(
            agent=agent, sequence=sequence + 1, previous=previous, digest=digest, signature=signature,
            key=key.public_key().public_bytes_raw(), leaves=leaves, again=again,
        )  # fmt: skip
        self.log.append(own("batch", **fields))
        self.heads[agent] = sequence + 1, digest
