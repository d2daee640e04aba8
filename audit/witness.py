"""A witness of logs: it cosigns a checkpoint only when that one follows from the last one that it cosigned. Pure.

The protocol is C2SP tlog-witness: ``add-checkpoint`` with the size of the witness's last checkpoint, a consistency
proof from there, and the new checkpoint. So a log that shows two histories, or goes back, gets a cosignature for one of
them at most. This module keeps nothing and listens nowhere; who calls it makes its answer durable before it is given.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Mapping, Sequence

from audit.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint, VerifierKey, claimed, read_checkpoint
from audit.merkle import EMPTY_ROOT, consistency_proof, verify_consistency
from audit.reader import Reader
from mesh.problems import Invalid, Problem

MAX_PROOF = 63
MAX_BODY_BYTES = MAX_CHECKPOINT_BYTES + 64 * 46
SIZE_TYPE = "text/x.tlog.size"
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})\Z")
_WITNESS = re.compile(r"witness\s+(\S+)\s+(\S+)\s+(https?://\S+)\Z")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AddCheckpoint:
    """A request: the new checkpoint, and the proof that it follows from one of the old size."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes

    def to_bytes(self) -> bytes:
        """The request's body."""
        lines = [f"old {self.old}", *(base64.b64encode(item).decode() for item in self.proof), ""]
        return "".join(f"{line}\n" for line in lines).encode() + self.note

    @classmethod
    def parse(cls, body: bytes) -> AddCheckpoint:
        """Read a request's body.

        Raises Invalid LM6080.
        """
        if len(body) > MAX_BODY_BYTES:
            raise Invalid("LM6080", reason="it is too large")
        head, empty, note = body.partition(b"\n\n")
        lines = head.decode("ascii", "replace").split("\n")
        match = _OLD.match(lines[0])
        if not empty or match is None or len(lines) - 1 > MAX_PROOF:
            raise Invalid("LM6080", reason="it is not an old size, at most 63 hashes, an empty line and a checkpoint")
        return cls(old=int(match[1]), proof=tuple(_hash(line) for line in lines[1:]), note=note)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP status with its body; ``accepted`` is the checkpoint to keep, durably, and then to cosign."""

    status: int
    reason: str = ""
    body: str = ""
    accepted: Checkpoint | None = None


def decide(request: AddCheckpoint, logs: Mapping[str, VerifierKey], held: Mapping[str, Checkpoint]) -> Answer:
    """Whether a checkpoint is to be cosigned (tlog-witness, add-checkpoint).

    1. Its log is one that this witness knows (404), and signed it (403).
    2. The old size is not beyond the new one (400), and is that of the last checkpoint cosigned for this log, 0 without
       one (409, with that size).
    3. The same size again has the same root (409).
    4. The proof leads from the old root to the new one (422).
    """
    # (1)
    try:
        verifier = logs.get(claimed(request.note).origin)
        if verifier is None:
            return Answer(status=404, reason="this log is not known here")
        new = read_checkpoint(request.note, verifier)
    except Invalid as problem:
        return Answer(status=403 if problem.code == "LM6032" else 400, reason=problem.message)
    # (2)
    if request.old > new.size:
        return Answer(status=400, reason="the old size is beyond the checkpoint's")
    last = held.get(new.origin) or Checkpoint(origin=new.origin, size=0, root=EMPTY_ROOT)
    if request.old != last.size:
        return Answer(status=409, reason="another checkpoint was cosigned last", body=f"{last.size}\n")
    # (3)
    if new.size == last.size and new.root != last.root:
        return Answer(status=409, reason="it shows another history of the same size")
    # (4)
    if not verify_consistency(last.size, new.size, last.root, new.root, request.proof):
        return Answer(status=422, reason="it does not follow from the checkpoint that was cosigned last")
    return Answer(status=200, accepted=new)


def request_for(reader: Reader, old: int) -> AddCheckpoint:
    """Ask for a cosignature over a log's checkpoint, from a witness that cosigned a tree of ``old`` records last.

    Raises Invalid LM6081 when the witness saw more than the log holds, LM6020 or LM6021 for tiles that are not there.
    """
    if old > reader.size:
        raise Invalid("LM6081", old=old, size=reader.size)
    proof: Sequence[bytes] = ()
    if 0 < old < reader.size:
        proof = consistency_proof(reader.tiles.subtree, old, reader.size)
    # a cosignature is over the text; what others signed is no business of the next witness
    return AddCheckpoint(old=old, proof=tuple(proof), note=reader.note)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A witness to ask: its name in the policy, its key, and the prefix of its URLs."""

    name: str
    key: VerifierKey
    url: str


def parse_policy(text: str) -> tuple[Entry, ...]:
    """Read which witnesses to ask, in the form of C2SP tlog-policy: a line ``witness NAME VKEY URL`` for each.

    Comments begin with `#`. Lines ``log …`` and ``quorum none`` say nothing to a log itself; groups are refused.

    Raises Invalid LM6082 with the line.
    """
    found: list[Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].strip()
        if not words or words.startswith("log ") or words.split() == ["quorum", "none"]:
            continue
        match = _WITNESS.match(words)
        if match is None:
            raise Invalid("LM6082", line=number, reason="it is not `witness NAME VERIFIER-KEY URL`")
        try:
            key = VerifierKey.parse(match[2])
        except Problem as problem:
            raise Invalid("LM6082", line=number, reason=problem.message) from problem
        if not key.algorithm.is_timed:
            raise Invalid("LM6082", line=number, reason="its key is a log's and not a witness's")
        if match[1] in {item.name for item in found}:
            raise Invalid("LM6082", line=number, reason=f"a witness `{match[1]}` stands above")
        found.append(Entry(name=match[1], key=key, url=match[3].rstrip("/")))
    return tuple(found)


def _hash(line: str) -> bytes:
    try:
        data = base64.b64decode(line, validate=True)
    except (ValueError, binascii.Error) as err:
        raise Invalid("LM6080", reason="a hash is 32 bytes in base64") from err
    if len(data) != 32 or base64.b64encode(data).decode() != line:
        raise Invalid("LM6080", reason="a hash is 32 bytes in base64")
    return data
