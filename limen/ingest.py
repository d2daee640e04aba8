"""What agents hand over for the log: signed batches of records, each after the one before, none malformed, none lost.

Works on the worker thread, with the log and the server's tables. Decides nothing about what records say, but who may
say what: an agent speaks of what its sidecars and itself decided and did, never in the server's name.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from audit.batches import KIND, MAX_BATCH, QUARANTINE, SERVER, batch_fields, leaves_of, verify_batch
from audit.log import Log
from audit.merkle import leaf_hash
from audit.record import AGENT_KINDS, read_record, record, to_bytes
from learner.sources.decisions import egress_flow
from limen import store
from mesh.clock import Clock
from mesh.database import transaction
from mesh.flow import Flow
from mesh.problems import Conflict, Forbidden, Invalid
from mesh.ulid import RANDOM_BYTES

_AGENT_PATH = "/limen/agent/"


class Ingest:
    """The log's door for agents."""

    def __init__(
        self, *, engine: sa.Engine, log: Log, trust_domain: str, clock: Clock, random: Callable[[int], bytes]
    ) -> None:
        self._engine, self._log, self._domain = engine, log, trust_domain
        self._clock, self._random = clock, random

    def push(self, node: str, *, sequence: int, records: Sequence[bytes], signature: bytes, key: bytes) -> int:
        """Put an agent's batch into the log.

        1. The batch follows the last one, or is the last one again, or is a first one: its agent lost its spool. That
           shows in the log (`audit.batches`); nothing was dropped or reordered on the way unseen.
        2. It is signed by the key that the node's first batch was signed with.
        3. A record that is malformed, or that an agent has no business to make, is quarantined: the log says its hash
           and why, and the others of its batch are taken. So none blocks an agent's queue.
        4. The records and the batch's own are in the log, together and durably; what was there before is dropped.
        5. The progress is remembered, and with it what left the mesh is kept as flows: nobody else tells of that. A
           crash between 4 and 5 takes the batch again, harmlessly.

        Raises Conflict LM5232 for (1), Forbidden LM5233 or LM6012 for (2), Invalid LM6002 for too many records.
        """
        agent = f"spiffe://{self._domain}{_AGENT_PATH}{node}"
        if len(records) > MAX_BATCH:
            raise Invalid("LM6002", reason=f"a batch has {MAX_BATCH} records at most")
        with transaction(self._engine) as connection:
            last = store.get_progress(connection, node)
        # (1)
        expected = last.sequence if last is not None else 0
        is_again = last is not None and sequence == last.sequence
        if sequence not in {1, expected + 1} and not is_again:
            raise Conflict("LM5232", node=node, sequence=sequence, expected=expected + 1)
        previous = ""
        if last is not None and is_again:
            previous = last.previous
        elif last is not None and sequence == expected + 1:
            previous = last.digest
        # (2)
        if last is not None and last.key != key:
            raise Forbidden("LM5233", node=node)
        try:
            public = Ed25519PublicKey.from_public_bytes(key)
        except ValueError as err:
            raise Forbidden("LM5233", node=node) from err
        leaves = leaves_of(records)
        digest = verify_batch(public, agent, sequence, leaves, previous, signature)
        if last is not None and is_again and digest == last.digest:
            # the answer was lost, and nothing else
            return sequence
        # (3)
        taken = [self._checked(node, found, leaf) for found, leaf in zip(records, leaves, strict=True)]
        # (4)
        there = leaves if taken == [*records] else leaves_of(taken)
        again = self._log.held(taken, there)
        fields = batch_fields(
            agent=agent,
            sequence=sequence,
            previous=previous,
            digest=digest,
            signature=signature,
            key=key,
            leaves=leaves,
            again=again,
        )
        batch = self._made(KIND, node, **fields)
        self._log.append_checked([*taken, batch], [*there, leaf_hash(batch)])
        # (5)
        with transaction(self._engine) as connection:
            store.put_progress(
                connection, node, store.Progress(sequence=sequence, digest=digest, previous=previous, key=key)
            )
            store.add_flows(connection, node, left_mesh(taken))
        return sequence

    def _checked(self, node: str, data: bytes, leaf: bytes) -> bytes:
        """Step 3 of `push` for one record: itself, or the one that says why it is not there."""
        try:
            found = read_record(data)
            if found["kind"] not in AGENT_KINDS or str(found["source"]).startswith(SERVER):
                raise Invalid("LM6002", reason="it is not one that an agent makes")
        except Invalid as problem:
            return self._made(
                QUARANTINE, node, code=problem.code, reason=str(problem.facts.get("reason", ""))[:400],
                leaf=base64.b64encode(leaf).decode(), size=len(data),
            )  # fmt: skip
        return data

    def _made(self, kind: str, node: str, **fields: object) -> bytes:
        now, random = self._clock.now(), self._random(RANDOM_BYTES)
        return to_bytes(record(kind, now=now, random=random, source=f"{SERVER}{self._domain}", actor=node, **fields))


def left_mesh(records: Sequence[bytes]) -> list[Flow]:
    """The connections among records that left the mesh, or were not let out; what is unlike any is none."""
    found = []
    for data in records:
        # most records are something else: they are not read again
        if b'"outbound"' not in data:
            continue
        try:
            flow = egress_flow(read_record(data))
        except (ValueError, KeyError):
            continue
        if flow is not None:
            found.append(flow)
    return found
