"""Checks a copied log with nothing but its public key, and proves that one record is in it.

Every finding names the record, tile or byte that is wrong. This module trusts no file: all that it believes follows
from the signature on the checkpoint.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from audit.batches import verify_batches
from audit.checkpoint import Checkpoint, VerifierKey, read_checkpoint
from audit.merkle import fold, inclusion_proof, leaf_hash, root_hash, verify_inclusion
from audit.places import changed, places, said_of
from audit.reader import KEY, Reader, read_records
from audit.record import read_record
from audit.retention import NEEDLE, Retention, said_by
from audit.tiles import (
    HASH_BYTES,
    HEIGHT,
    WIDTH,
    TileReader,
    hashes_of,
    leftovers,
    level_widths,
    parse_path,
    read_from,
    tile_path,
    unpack_entries,
)
from audit.witnessed import Cosigned, check_witnessed
from mesh.problems import Diagnostic, Invalid, NotFound, Problem, Severity

MAX_PROOF_HASHES = 64
BATCH = b'"kind":"batch"'
# a signed size far beyond what is there must not keep anybody busy for ever
MAX_FINDINGS = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a check came to."""

    size: int
    root: bytes
    origin: str
    findings: tuple[Diagnostic, ...]
    witnessed: tuple[Cosigned, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether every byte is as it was logged; warnings are about what was logged."""
        return not any(item.severity is Severity.ERROR for item in self.findings)


def verify_log(
    directory: pathlib.Path,
    key: str,
    witnesses: Sequence[VerifierKey] = (),
    *,
    agents: Mapping[str, bytes] | None = None,
) -> Verification:
    """Check a whole log.

    1. The checkpoint carries the key's signature.
    2. EVERY leaf's hash is that of its record, unless a record of the log says that it was pruned; EVERY record is
       well-formed, and no id stands twice.
    3. EVERY hash of a higher tile is that of the full tile below it.
    4. The root of all is the signed one.
    5. What else stands in the directory under a name of this log says nothing else: narrower partial tiles of earlier
       checkpoints are prefixes, and `key.pub` is the key.
    6. EVERY cosigned checkpoint beside the log is of this history; EVERY witness named cosigned (`audit.witnessed`).
    7. Where all of that holds: EVERY agent's batches are whole, in their order, and signed by the raw Ed25519 key that
       ``agents`` names for it (`audit.batches`).

    Where (2) or (3) fails, the side that the signed root vouches for is believed and the other one named: a hash by its
    file and byte, a record by its file and the bytes that are no longer it (`audit.places`). Findings are returned, the
    first thousand of them; what cannot even be read is one too.
    """
    try:
        verifier = VerifierKey.parse(key)
        # (1)
        checkpoint = Reader(directory, key).checkpoint
    except Problem as problem:
        return Verification(size=0, root=b"", origin="", findings=(problem.diagnostic(),))
    check = _Check(directory, checkpoint)
    found = itertools.chain(
        check.records(), check.tiles(), check.root(), _check_leftovers(directory, check.reader, verifier)
    )
    findings = list(itertools.islice(found, MAX_FINDINGS))
    # (6)
    said = list(check_witnessed(directory, check.reader, checkpoint, verifier, witnesses))
    findings += [item for item in said if isinstance(item, Diagnostic)]
    witnessed = tuple(item for item in said if isinstance(item, Cosigned))
    # (7)
    if not any(item.severity is Severity.ERROR for item in findings):
        # of a pruned log, what follows the last hole and the batch that may have begun in it
        begin = (max(check.missing) + 1) * WIDTH if check.missing else 0
        if begin:
            left = read_records(check.reader, begin, checkpoint.size)
            begin = next((index + 1 for index, data in left if BATCH in data), checkpoint.size)
        batches = verify_batches(
            lambda: read_records(check.reader, begin, checkpoint.size), keys=agents, is_whole=not begin
        )
        findings += itertools.islice(batches, MAX_FINDINGS)
    unique = list({(item.code, str(item.facts)): item for item in findings}.values())
    return Verification(
        size=checkpoint.size,
        root=checkpoint.root,
        origin=checkpoint.origin,
        findings=tuple(unique),
        witnessed=witnessed,
    )


class _Check:
    """One check of the tiles below one checkpoint."""

    def __init__(self, directory: pathlib.Path, checkpoint: Checkpoint) -> None:
        self.reader = TileReader(read_from(directory), checkpoint.size)
        self._checkpoint = checkpoint
        self._seen: dict[str, int] = {}
        self.missing: dict[int, Problem] = {}
        self._retention, self._retained_at = Retention(), 0
        # the records of the bundle that is being read
        self._entries: list[bytes] = []
        # the hashes of tiles that were named wrong, as they should be: what is above them is right
        self._right: dict[tuple[int, int], bytes] = {}

    def records(self) -> Iterator[Diagnostic]:
        """Step 2 of `verify_log`."""
        for bundle in range((self._checkpoint.size + WIDTH - 1) // WIDTH):
            try:
                entries = self.reader.entries(bundle)
            except Problem as problem:
                if self._may_be_pruned(bundle, problem):
                    self.missing[bundle] = problem
                else:
                    yield problem.diagnostic()
                    yield from self._torn(bundle)
                continue
            below = [leaf_hash(entry) for entry in entries]
            self._entries = entries
            wrong: set[int] = set()
            for finding, place in self._compare(0, bundle, below):
                if place is not None:
                    wrong.add(place)
                yield finding
            for offset, entry in enumerate(entries):
                if offset not in wrong:
                    yield from self._form(bundle * WIDTH + offset, entry)
                    if NEEDLE in entry and (found := said_by(entry)) is not None:
                        self._retention, self._retained_at = found, bundle * WIDTH + offset
        yield from self._missing()

    def _may_be_pruned(self, bundle: int, problem: Problem) -> bool:
        """Whether a bundle is gone and its hashes are there: a size that nothing stands behind is said at once."""
        if problem.code != "LM6020" or self.reader.width(0, bundle) < WIDTH:
            return False
        try:
            self.reader.tile(0, bundle)
        except Problem:
            return False
        return True

    def _missing(self) -> Iterator[Diagnostic]:
        """What is not there: pruned, as a record says that leads to the signed root as all others do, or taken away."""
        gone = [bundle for bundle in self.missing if self._retention.is_pruned(bundle)]
        for first, last in Retention().with_pruned(gone).pruned:
            facts: dict[str, object] = {"first": first * WIDTH, "last": (last + 1) * WIDTH - 1}
            yield Diagnostic(code="LM6090", facts={**facts, "index": self._retained_at})
        for bundle, problem in self.missing.items():
            if bundle not in gone:
                yield problem.diagnostic()

    def _torn(self, bundle: int) -> Iterator[Diagnostic]:
        """Which records a bundle still has that cannot be taken apart, by the hashes in its tile."""
        try:
            found = places(self.reader.bundle(bundle)[1], hashes_of(self.reader.tile(0, bundle)))
        except Problem:
            return  # it was said why
        for number, place in enumerate(found):
            if not place.is_whole:
                yield said_of(self.reader, bundle, number, place).diagnostic()

    def _form(self, index: int, entry: bytes) -> Iterator[Diagnostic]:
        try:
            name = str(read_record(entry)["id"])
        except Problem as problem:
            place = changed(self.reader, index // WIDTH, self._entries, index % WIDTH).facts
            reason = f"{problem.message} (it stands at byte {place['offset']} of `{place['path']}`)"
            yield Diagnostic(code="LM6035", facts={"index": index, "reason": reason})
            return
        if name in self._seen:
            yield Diagnostic(code="LM6036", facts={"id": name, "index": index, "other": self._seen[name]})
        self._seen.setdefault(name, index)

    def tiles(self) -> Iterator[Diagnostic]:
        """Step 3 of `verify_log`."""
        for level, width in list(enumerate(level_widths(self._checkpoint.size)))[1:]:
            for first in range(0, width, WIDTH):
                indexes = range(first, min(first + WIDTH, width))
                try:
                    below = [self._hash(level - 1, index) for index in indexes]
                except Problem as problem:
                    yield problem.diagnostic()
                    continue
                for finding, _ in self._compare(level, first // WIDTH, below):
                    yield finding

    def _hash(self, level: int, index: int) -> bytes:
        return self._right.get((level, index)) or fold(hashes_of(self.reader.tile(level, index)))

    def root(self) -> Iterator[Diagnostic]:
        """Step 4 of `verify_log`."""
        try:
            if root_hash(self.reader.subtree, self._checkpoint.size) == self._checkpoint.root:
                return
            yield Diagnostic(code="LM6033", facts={"reason": "the tiles do not hash to the signed root"})
        except Problem as problem:
            yield problem.diagnostic()

    def _compare(self, level: int, index: int, below: Sequence[bytes]) -> Iterator[tuple[Diagnostic, int | None]]:
        """Compare a tile with what stands below it; when they differ, name the side that is not vouched for.

        1. The hashes from below are vouched for from above: the tile is wrong, at these bytes.
        2. The tile itself is vouched for: what is below is wrong, at these places.
        3. Neither is: both are named.
        """
        path = tile_path(level, index, self.reader.width(level, index))
        try:
            data = self.reader.tile(level, index)
        except Problem as problem:
            yield problem.diagnostic(), None
            return
        stored = hashes_of(data)
        differing = [place for place, found in enumerate(below) if found != stored[place]]
        if not differing:
            return
        # (1)
        blames_tile = self._is_vouched(level, index, below)
        # (2)
        blames_below = not blames_tile and self._is_vouched(level, index, stored)
        if blames_tile and len(below) == WIDTH:
            self._right[(level, index)] = fold(below)
        for place in differing:
            if not blames_below:
                expected = below[place]
                byte = next(at for at in range(HASH_BYTES) if expected[at] != stored[place][at])
                yield Diagnostic(code="LM6039", facts={"path": path, "offset": place * HASH_BYTES + byte}), None
            # (3)
            if not blames_tile:
                yield self._below(level, index, place, path), place

    def _below(self, level: int, index: int, place: int, path: str) -> Diagnostic:
        if level == 0:
            return changed(self.reader, index, self._entries, place).diagnostic()
        covered = 1 << HEIGHT * level
        first = (index * WIDTH + place) * covered
        facts: dict[str, object] = {"path": path, "place": place, "first": first, "last": first + covered - 1}
        return Diagnostic(code="LM6037", facts=facts)

    def _is_vouched(self, level: int, index: int, hashes: Sequence[bytes]) -> bool:
        """Whether the tile above, or for an unfinished tile the signed root, agrees with these hashes of a tile."""
        try:
            if len(hashes) == WIDTH:
                above = self.reader.tile(level + 1, index // WIDTH)
                place = index % WIDTH * HASH_BYTES
                return above[place : place + HASH_BYTES] == fold(hashes)

            def subtree(height: int, number: int) -> bytes:
                tile_level, inner = divmod(height, HEIGHT)
                first = number << inner
                if (tile_level, first // WIDTH) != (level, index):
                    return self.reader.subtree(height, number)
                return fold(hashes[first % WIDTH : first % WIDTH + (1 << inner)])

            return root_hash(subtree, self._checkpoint.size) == self._checkpoint.root
        except Problem:
            return False


def _check_leftovers(directory: pathlib.Path, tiles: TileReader, verifier: VerifierKey) -> Iterator[Diagnostic]:
    """Step 5 of `verify_log`."""
    read = read_from(directory)
    try:
        held = read(KEY)
        if held is not None and held != f"{verifier}\n".encode():
            yield Diagnostic(code="LM6039", facts={"path": KEY, "offset": _difference(held, f"{verifier}\n".encode())})
    except Problem as problem:
        yield problem.diagnostic()
    for path, expected in leftovers(directory, tiles):
        try:
            found, whole = read(path), expected()
        except Problem as problem:
            yield problem.diagnostic()
            continue
        if found is not None and found != whole and not _has_hashes(path, found, tiles):
            yield Diagnostic(code="LM6039", facts={"path": path, "offset": _difference(found, whole)})


def _has_hashes(path: str, found: bytes, tiles: TileReader) -> bool:
    """Whether the records of a partial bundle have the hashes that they should: then the wider one is what is wrong."""
    parsed = parse_path(path)
    if parsed is None or parsed[0] is not None:
        return False
    _, index, width = parsed
    try:
        hashes = hashes_of(tiles.tile(0, index))[:width]
        return [leaf_hash(entry) for entry in unpack_entries(found, path)] == hashes
    except Invalid:
        return False


def _difference(found: bytes, expected: bytes) -> int:
    pairs = zip(found, expected, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(found), len(expected)))


def prove(directory: pathlib.Path, key: str, record_id: str, *, at: int | None = None) -> dict[str, object]:
    """Prove that a record is in the log: everything a stranger needs besides the public key.

    ``at`` is the index of the one that is meant, should several carry the id.

    Raises NotFound LM6038, and Invalid for a log that cannot be read.
    """
    reader = Reader(directory, key)
    index, entry = reader.find(record_id) if at is None else (at, reader.record(at))
    if read_record(entry)["id"] != record_id:
        raise NotFound("LM6038", id=record_id)
    proof = proof_of(reader, index, entry)
    if not verify_proof(proof, key):
        raise Invalid("LM6033", reason="the record does not lead to the signed root")
    return proof


def proof_of(reader: Reader, index: int, entry: bytes) -> dict[str, object]:
    """The proof that a record stands at an index of a log, not verified."""
    return {
        "id": read_record(entry)["id"],
        "index": index,
        "size": reader.size,
        "record": entry.decode(),
        "leaf_hash": base64.b64encode(leaf_hash(entry)).decode(),
        "proof": [
            base64.b64encode(item).decode() for item in inclusion_proof(reader.tiles.subtree, index, reader.size)
        ],
        "checkpoint": reader.note.decode(),
    }


def verify_proof(proof: Mapping[str, object], key: str) -> bool:
    """Whether a proof holds.

    1. It has the fields that `prove` writes, and its checkpoint is signed by the key.
    2. Its record has the id, and the leaf hash, that it claims; its size is the checkpoint's.
    3. The record leads to the signed root (RFC 9162 §2.1.3.2).

    Raises Invalid LM6055, or LM6030 to LM6032, for a proof that cannot be read.
    """
    # (1)
    index, size, path = proof.get("index"), proof.get("size"), proof.get("proof")
    texts = [proof.get(name) for name in ("id", "record", "leaf_hash", "checkpoint")]
    if type(index) is not int or type(size) is not int or not all(isinstance(item, str) for item in texts):
        raise Invalid("LM6055", reason="a field is missing or of another type")
    if not isinstance(path, list) or len(path) > MAX_PROOF_HASHES:
        raise Invalid("LM6055", reason="its hashes are no short list")
    name, record, claimed, note = (str(item) for item in texts)
    try:
        hashes = [base64.b64decode(str(item), validate=True) for item in path]
        data, encoded = record.encode(), note.encode()
    except (ValueError, binascii.Error) as err:
        raise Invalid("LM6055", reason="its text is not well-formed") from err
    if any(len(item) != HASH_BYTES for item in hashes):
        raise Invalid("LM6055", reason="a hash has 32 bytes")
    checkpoint = read_checkpoint(encoded, VerifierKey.parse(key))
    # (2)
    leaf = leaf_hash(data)
    if read_record(data)["id"] != name or claimed != base64.b64encode(leaf).decode() or size != checkpoint.size:
        return False
    # (3)
    return verify_inclusion(leaf, index, checkpoint.size, hashes, checkpoint.root)
