"""What witnesses vouch for in a copied log: each cosigned checkpoint is one of the very history that the copy holds.

With a witness's public key its cosignature is verified; without, that line is not looked at, and the log's own
signature and root still are. A log that was shown differently to others, or cut, cannot hold what an honest witness
cosigned. This module trusts no file and writes nothing.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

from audit.checkpoint import Checkpoint, VerifierKey, cosigned_at, read_checkpoint
from audit.merkle import root_hash
from audit.reader import CHECKPOINT, WITNESSED
from audit.tiles import TileReader, read_from
from mesh.problems import Diagnostic, Problem

MAX_WITNESSES = 256


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cosigned:
    """That a witness saw the log: how many records, and when (POSIX seconds)."""

    witness: str
    size: int
    at: int


def check_witnessed(
    directory: pathlib.Path,
    tiles: TileReader,
    checkpoint: Checkpoint,
    verifier: VerifierKey,
    witnesses: Sequence[VerifierKey],
) -> Iterator[Diagnostic | Cosigned]:
    """Check what witnesses cosigned.

    1. EVERY cosigned checkpoint beside the log carries the log's own signature, is not beyond the log, and has the root
       that the log had at that size.
    2. EVERY witness that is named cosigned one of them, or the checkpoint itself, and its line verifies.
    """
    read = read_from(directory)
    good: dict[str, tuple[bytes, Checkpoint]] = {}
    # (1)
    for path in [CHECKPOINT, *_paths(directory)]:
        try:
            note = read(path) or b""
            found = checkpoint if path == CHECKPOINT else read_checkpoint(note, verifier)
            if found.size > checkpoint.size:
                yield _wrong(path, f"it is of {found.size} records, and the log has {checkpoint.size}")
            elif path != CHECKPOINT and root_hash(tiles.subtree, found.size) != found.root:
                yield _wrong(path, f"the first {found.size} records are others than those that were cosigned")
            else:
                good[path] = note, found
        except Problem as problem:
            yield _wrong(path, problem.message)
    # (2)
    for witness in witnesses:
        yield from _of_witness(witness, good)


def _of_witness(witness: VerifierKey, good: dict[str, tuple[bytes, Checkpoint]]) -> Iterator[Diagnostic | Cosigned]:
    best: Cosigned | None = None
    is_wrong = False
    for path, (note, found) in good.items():
        try:
            at = cosigned_at(note, witness)
        except Problem as problem:
            is_wrong = True
            yield _wrong(path, problem.message)
            continue
        if at is not None and (best is None or found.size >= best.size):
            best = Cosigned(witness=witness.name, size=found.size, at=at)
    if best is not None:
        yield best
    elif not is_wrong:
        yield Diagnostic(code="LM6088", facts={"name": witness.name})


def _paths(directory: pathlib.Path) -> list[str]:
    try:
        names = sorted(item.name for item in (directory / WITNESSED).iterdir() if not item.name.startswith("."))
    except OSError:
        return []
    return [f"{WITNESSED}/{name}" for name in names[:MAX_WITNESSES]]


def _wrong(path: str, reason: str) -> Diagnostic:
    return Diagnostic(code="LM6087", facts={"path": path, "reason": reason})
