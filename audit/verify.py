"""Checks a copied log with nothing but its public key, and proves that one record is in it.

Every finding names the record, tile or byte that is wrong. This module trusts no file: all that it believes follows
from the signature on the checkpoint.
"""

from __future__ import annotations

import base64
import dataclasses
import pathlib

from audit.checkpoint import Checkpoint, VerifierKey, read_checkpoint
from audit.log import CHECKPOINT
from audit.merkle import fold, inclusion_proof, leaf_hash, root_hash, verify_inclusion
from audit.record import read_record
from audit.tiles import HASH_BYTES, WIDTH, TileReader, level_widths, read_from, tile_path
from mesh.problems import Diagnostic, Invalid, NotFound, Problem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a check came to."""

    size: int
    root: bytes
    findings: tuple[Diagnostic, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def verify_log(directory: pathlib.Path, key: str) -> Verification:
    """Check a whole log.

    1. The checkpoint carries the key's signature.
    2. EVERY leaf's hash is that of its record.
    3. EVERY hash of a higher tile is that of the full tile below it.
    4. The root of all is the signed one.
    5. EVERY record is well-formed, and no id stands twice.

    Findings are returned, all of them; what cannot even be read is one too.
    """
    findings: list[Diagnostic] = []
    try:
        # (1)
        checkpoint = _checkpoint(directory, key)
    except Problem as problem:
        return Verification(size=0, root=b"", findings=(problem.diagnostic(),))
    tiles = TileReader(read_from(directory), checkpoint.size)
    # (2), (5)
    findings += _check_records(tiles, checkpoint.size)
    # (3)
    findings += _check_tiles(tiles, checkpoint.size)
    # (4)
    try:
        if root_hash(tiles.subtree, checkpoint.size) != checkpoint.root:
            findings.append(Diagnostic(code="LM6033", facts={"reason": "the tiles do not hash to the signed root"}))
    except Problem as problem:
        findings.append(problem.diagnostic())
    unique = list({(item.code, str(item.facts)): item for item in findings}.values())
    return Verification(size=checkpoint.size, root=checkpoint.root, findings=tuple(unique))


def _checkpoint(directory: pathlib.Path, key: str) -> Checkpoint:
    verifier = VerifierKey.parse(key)
    note = read_from(directory)(CHECKPOINT)
    if note is None:
        raise Invalid("LM6020", path=CHECKPOINT)
    return read_checkpoint(note, verifier)


def _check_records(tiles: TileReader, size: int) -> list[Diagnostic]:
    findings: list[Diagnostic] = []
    seen: dict[str, int] = {}
    for bundle in range((size + WIDTH - 1) // WIDTH):
        try:
            entries = tiles.entries(bundle)
            hashes = tiles.tile(0, bundle)
        except Problem as problem:
            findings.append(problem.diagnostic())
            continue
        for offset, entry in enumerate(entries):
            index = bundle * WIDTH + offset
            if leaf_hash(entry) != hashes[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]:
                findings.append(Diagnostic(code="LM6034", facts={"index": index}))
                continue
            try:
                name = str(read_record(entry)["id"])
            except Problem as problem:
                findings.append(Diagnostic(code="LM6035", facts={"index": index, "reason": problem.message}))
                continue
            if name in seen:
                findings.append(Diagnostic(code="LM6036", facts={"id": name, "index": index, "other": seen[name]}))
            seen[name] = index
    return findings


def _check_tiles(tiles: TileReader, size: int) -> list[Diagnostic]:
    findings: list[Diagnostic] = []
    for level, width in list(enumerate(level_widths(size)))[1:]:
        for index in range(width):
            try:
                data = tiles.tile(level - 1, index)
                below = fold([data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)])
                above = tiles.tile(level, index // WIDTH)
            except Problem as problem:
                findings.append(problem.diagnostic())
                continue
            place = index % WIDTH
            if below != above[place * HASH_BYTES : (place + 1) * HASH_BYTES]:
                path = tile_path(level, index // WIDTH, tiles.width(level, index // WIDTH))
                findings.append(Diagnostic(code="LM6037", facts={"path": path, "place": place}))
    return findings


def find_record(directory: pathlib.Path, key: str, record_id: str) -> tuple[int, bytes]:
    """The index and the bytes of a record.

    Raises NotFound LM6038.
    """
    checkpoint = _checkpoint(directory, key)
    tiles = TileReader(read_from(directory), checkpoint.size)
    wanted = f'"id":"{record_id}"'.encode()
    for bundle in reversed(range((checkpoint.size + WIDTH - 1) // WIDTH)):
        for offset, entry in enumerate(tiles.entries(bundle)):
            if wanted in entry and read_record(entry)["id"] == record_id:
                return bundle * WIDTH + offset, entry
    raise NotFound("LM6038", id=record_id)


def prove(directory: pathlib.Path, key: str, record_id: str) -> dict[str, object]:
    """Prove that a record is in the log: everything a stranger needs besides the public key.

    Raises NotFound LM6038, and Invalid for a log that cannot be read.
    """
    index, entry = find_record(directory, key, record_id)
    checkpoint = _checkpoint(directory, key)
    tiles = TileReader(read_from(directory), checkpoint.size)
    path = inclusion_proof(tiles.subtree, index, checkpoint.size)
    note = read_from(directory)(CHECKPOINT) or b""
    proof: dict[str, object] = {
        "id": record_id,
        "index": index,
        "size": checkpoint.size,
        "record": entry.decode(),
        "leaf_hash": base64.b64encode(leaf_hash(entry)).decode(),
        "proof": [base64.b64encode(item).decode() for item in path],
        "checkpoint": note.decode(),
    }
    if not verify_proof(proof, key):
        raise Invalid("LM6033", reason="the record does not lead to the signed root")
    return proof


def verify_proof(proof: dict[str, object], key: str) -> bool:
    """Whether a proof holds: its checkpoint is signed by the key, and its record leads to that root.

    Raises Invalid for a proof or checkpoint that cannot be read.
    """
    checkpoint = read_checkpoint(str(proof["checkpoint"]).encode(), VerifierKey.parse(key))
    path = proof["proof"]
    index, size = proof["index"], proof["size"]
    if not isinstance(path, list) or type(index) is not int or size != checkpoint.size:
        return False
    leaf = leaf_hash(str(proof["record"]).encode())
    hashes = [base64.b64decode(str(item), validate=True) for item in path]
    return verify_inclusion(leaf, index, checkpoint.size, hashes, checkpoint.root)
