"""Batches of an agent's records: numbered, signed, each naming the one before, and kept in the log beside them.

An agent signs which records it handed over, in which order and after which batch. The server puts the records and then
one `batch` record with that signature into the log, together: so it can neither drop, change nor reorder one of them
unseen, nor add one of its own making, and whoever has a copy of the log can tell. What it could hide is the end: the
batches that an agent sent last, which only that agent knows of. Pure: reads records, holds no key but public ones.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.merkle import leaf_hash
from mesh.problems import Diagnostic, Forbidden

MAX_BATCH = 2_000
KIND, QUARANTINE = "batch", "quarantine"
SERVER = "server:"
"""What the source of a server's own records begins with."""
_NEEDLE = b'"kind":"batch"'
_PLACE_BYTES, _PREFIX_BYTES = 2, 16
_HASH_BYTES = 32

Records = Iterable[tuple[int, bytes]]


def leaves_of(records: Iterable[bytes]) -> list[bytes]:
    """The leaf hashes of records."""
    return [leaf_hash(found) for found in records]


def batch_digest(agent: str, sequence: int, leaves: Sequence[bytes], previous: str) -> str:
    """The digest that names a batch: who, the how-manieth, which records, and after which batch.

    Of a record its leaf hash counts: one that the log could not take is known by that alone.
    """
    digest = hashlib.sha256(b"limen/audit/batch/2\n")
    for part in (agent.encode(), str(sequence).encode(), previous.encode(), b"".join(leaves)):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def sign_batch(
    key: Ed25519PrivateKey, agent: str, sequence: int, leaves: Sequence[bytes], previous: str
) -> tuple[bytes, str]:
    """Sign a batch; return the signature and the digest that the next batch names."""
    digest = batch_digest(agent, sequence, leaves, previous)
    return key.sign(digest.encode()), digest


def verify_batch(
    key: Ed25519PublicKey, agent: str, sequence: int, leaves: Sequence[bytes], previous: str, signature: bytes
) -> str:
    """Check that an agent sent this batch after that one, and return its digest.

    Raises Forbidden LM6012 when it did not.
    """
    digest = batch_digest(agent, sequence, leaves, previous)
    try:
        key.verify(signature, digest.encode())
    except InvalidSignature as err:
        raise Forbidden("LM6012", agent=agent, sequence=sequence) from err
    return digest


def batch_fields(
    *,
    agent: str,
    sequence: int,
    previous: str,
    digest: str,
    signature: bytes,
    key: bytes,
    leaves: Sequence[bytes],
    again: Sequence[int],
) -> dict[str, object]:
    """What the log keeps of a batch; it follows its records.

    ``again`` names the places of those that were in the log before, byte for byte: they stand there, not here.
    """
    known = b"".join(place.to_bytes(_PLACE_BYTES, "big") + leaves[place][:_PREFIX_BYTES] for place in again)
    return {
        "agent": agent,
        "sequence": sequence,
        "previous": previous,
        "digest": digest,
        "signature": base64.b64encode(signature).decode(),
        "signer": base64.b64encode(key).decode(),
        "records": len(leaves),
        "again": base64.b64encode(known).decode(),
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as it stands in the log; ``again`` says which of its places hold records of before, by their hashes."""

    agent: str
    sequence: int
    previous: str
    digest: str
    signature: bytes
    signer: bytes
    records: int
    again: Mapping[int, bytes]


@dataclasses.dataclass(slots=True)
class Head:
    """How far an agent's chain came: its signer, its last number, and the digests under that number."""

    signer: bytes
    sequence: int
    previous: str
    digests: set[str]


def read_batch(row: Mapping[str, object]) -> Batch:
    """Read a batch record. Raises ValueError for one that is none."""
    texts = [row.get(name) for name in ("agent", "previous", "digest", "signature", "signer", "again")]
    sequence, count = row.get("sequence"), row.get("records")
    if not all(isinstance(item, str) for item in texts) or type(sequence) is not int or type(count) is not int:
        raise ValueError("a field is missing or of another type")
    agent, previous, digest, *encoded = (str(item) for item in texts)
    try:
        signature, signer, known = (base64.b64decode(item, validate=True) for item in encoded)
    except (binascii.Error, ValueError) as err:
        raise ValueError("a field is not in base64") from err
    width = _PLACE_BYTES + _PREFIX_BYTES
    if not 0 <= count <= MAX_BATCH or sequence < 1 or len(known) % width:
        raise ValueError("a number is out of its range")
    again = {
        int.from_bytes(known[at : at + _PLACE_BYTES], "big"): known[at + _PLACE_BYTES : at + width]
        for at in range(0, len(known), width)
    }
    if any(place >= count for place in again) or len(again) != len(known) // width:
        raise ValueError("a place is out of its range")
    return Batch(
        agent=agent,
        sequence=sequence,
        previous=previous,
        digest=digest,
        signature=signature,
        signer=signer,
        records=count,
        again=again,
    )


def verify_batches(
    records: Callable[[], Records], *, keys: Mapping[str, bytes] | None = None, is_whole: bool = True
) -> Iterator[Diagnostic]:
    """Check every agent's batches in a log; ``records`` gives its records from the start, in order, with their indexes.

    1. EVERY batch's signature covers exactly the records that stand before it, in their order, and those that it names
       as having been in the log before.
    2. EVERY agent's batches are numbered without a gap and each names the one before. One that was sent again with what
       came in meanwhile counts; so does an agent that began anew, which is said.
    3. EVERY record that is not the server's own is in one, in a log that has any.
    4. The signer of an agent is one and the same, and the one that ``keys`` names for it (raw Ed25519 public keys).

    ``is_whole``: the first record is the log's; without that, chains may have begun before. Bounded in memory: it
    keeps two thousand records, and the hashes of those that were sent twice.
    """
    yield from Chains(records, keys=keys or {}, is_whole=is_whole).check()


class Chains:
    """One check of the batches in a log; afterwards ``heads`` says how far each agent came."""

    def __init__(self, records: Callable[[], Records], *, keys: Mapping[str, bytes], is_whole: bool) -> None:
        self._records, self._keys, self._is_whole = records, keys, is_whole
        self.heads: dict[str, Head] = {}
        self._wanted: set[bytes] = set()
        self._held: dict[bytes, bytes] = {}
        self._has_any = False
        # index, bytes: what no batch has covered yet
        self._waiting: deque[tuple[int, bytes]] = deque()

    def check(self) -> Iterator[Diagnostic]:
        """The findings, in the order of the log."""
        for _, data in self._records():
            row = _batch_row(data)
            if row is not None:
                self._has_any = True
                try:
                    self._wanted.update(read_batch(row).again.values())
                except ValueError:
                    continue
        for index, data in self._records():
            row = _batch_row(data)
            if row is None:
                self._waiting.append((index, data))
                if len(self._waiting) > MAX_BATCH:
                    yield from self._uncovered(self._waiting.popleft())
                continue
            try:
                found = read_batch(row)
            except ValueError as err:
                yield Diagnostic(code="LM6070", facts={"index": index, "reason": str(err)})
                continue
            yield from self._content(index, found)
            yield from self._place(index, found)
        while self._waiting:
            yield from self._uncovered(self._waiting.popleft())

    def _uncovered(self, item: tuple[int, bytes]) -> Iterator[Diagnostic]:
        """Step 3 of `verify_batches`."""
        index, data = item
        self._hold(_leaf(data))
        if self._has_any:
            source = str(_row(data).get("source"))
            if not source.startswith(SERVER):
                yield Diagnostic(code="LM6071", facts={"index": index, "source": source[:200]})

    def _hold(self, leaf: bytes) -> None:
        if leaf[:_PREFIX_BYTES] in self._wanted:
            self._held[leaf[:_PREFIX_BYTES]] = leaf

    def _content(self, index: int, found: Batch) -> Iterator[Diagnostic]:
        """Step 1 of `verify_batches`."""
        fresh = found.records - len(found.again)
        while len(self._waiting) > fresh:
            yield from self._uncovered(self._waiting.popleft())
        here = [_leaf(self._waiting.popleft()[1]) for _ in range(len(self._waiting))]
        for leaf in here:
            self._hold(leaf)
        facts = {"agent": found.agent, "sequence": found.sequence, "index": index}
        if len(here) < fresh:
            yield Diagnostic(
                code="LM6072", facts={**facts, "reason": f"{fresh - len(here)} of its records are missing"}
            )
            return
        lost = [place for place, prefix in found.again.items() if prefix not in self._held]
        if lost:
            reason = f"{len(lost)} of its records, which were in the log before, are not there"
            yield Diagnostic(code="LM6072", facts={**facts, "reason": reason})
            return
        rest = iter(here)
        leaves = [
            self._held[found.again[place]] if place in found.again else next(rest) for place in range(found.records)
        ]
        if batch_digest(found.agent, found.sequence, leaves, found.previous) != found.digest:
            reason = "its records are not those that were signed, or not in that order"
            yield Diagnostic(code="LM6072", facts={**facts, "reason": reason})
            return
        try:
            Ed25519PublicKey.from_public_bytes(found.signer).verify(found.signature, found.digest.encode())
        except (InvalidSignature, ValueError):
            yield Diagnostic(code="LM6072", facts={**facts, "reason": "the agent did not sign it"})

    def _place(self, index: int, found: Batch) -> Iterator[Diagnostic]:
        """Steps 2 and 4 of `verify_batches`."""
        head = self.heads.get(found.agent)
        facts: dict[str, object] = {"agent": found.agent, "sequence": found.sequence, "index": index}
        pinned = self._keys.get(found.agent)
        if pinned is not None and found.signer != pinned:
            yield Diagnostic(code="LM6075", facts=facts)
        if head is None:
            if self._is_whole and found.sequence > 1:
                yield Diagnostic(code="LM6073", facts={**facts, "first": 1, "last": found.sequence - 1})
        elif head.signer != found.signer or (found.sequence == 1 and not found.previous and not _is_again(head, found)):
            yield Diagnostic(code="LM6074", facts={**facts, "last": head.sequence})
        elif _is_again(head, found):
            head.digests.add(found.digest)
            return
        elif found.sequence > head.sequence + 1:
            yield Diagnostic(code="LM6073", facts={**facts, "first": head.sequence + 1, "last": found.sequence - 1})
        elif found.sequence <= head.sequence:
            yield Diagnostic(code="LM6076", facts={**facts, "last": head.sequence})
            return
        elif found.previous not in head.digests:
            reason = f"it follows another batch {head.sequence} than the one that stands here"
            yield Diagnostic(code="LM6072", facts={**facts, "reason": reason})
        self.heads[found.agent] = Head(found.signer, found.sequence, found.previous, {found.digest})


def _is_again(head: Head, found: Batch) -> bool:
    """Whether a batch is the last one, sent again: its answer was lost, and what came in meanwhile may be in it too."""
    return (found.sequence, found.previous) == (head.sequence, head.previous) and found.signer == head.signer


def _batch_row(data: bytes) -> dict[str, object] | None:
    """The object of a server's record of a batch, None for any other record."""
    if _NEEDLE not in data:
        return None
    row = _row(data)
    # what an agent calls a batch is quarantined: only the server's word is one
    return row if row.get("kind") == KIND and str(row.get("source")).startswith(SERVER) else None


def _row(data: bytes) -> dict[str, object]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _leaf(data: bytes) -> bytes:
    """The leaf hash that an agent signed: of a record that was quarantined, the one that stands in its place says."""
    if b'"kind":"quarantine"' in data:
        row = _row(data)
        if row.get("kind") == QUARANTINE and str(row.get("source")).startswith(SERVER):
            try:
                leaf = base64.b64decode(str(row.get("leaf")), validate=True)
            except (binascii.Error, ValueError):
                leaf = b""
            if len(leaf) == _HASH_BYTES:
                return leaf
    return leaf_hash(data)
