"""A durable queue of records on one host: what was appended is on the disk before `append` returns.

Segments of frames ``length (4) | crc32 (4) | bytes``. A torn tail, as kill -9 leaves it, is cut off when the spool is
opened: nothing in it was ever acknowledged. A frame that breaks in the middle is reported, never skipped silently.
The cursor is a file that is replaced atomically. This module sends nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mesh.problems import Forbidden, Invalid, Unavailable

SEGMENT_BYTES = 8 << 20
MAX_SPOOL_BYTES = 1 << 30
MAX_BATCH = 2_000
_FRAME = struct.Struct(">II")
_SUFFIX = ".log"


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in the spool: a segment's number and an offset in it."""

    segment: int
    offset: int


class Spool:
    """One directory, one writer."""

    def __init__(
        self, directory: pathlib.Path, *, segment_bytes: int = SEGMENT_BYTES, max_bytes: int = MAX_SPOOL_BYTES
    ) -> None:
        """Open a spool, or make it.

        Raises Invalid LM6010 when a frame is broken before the end of the last segment.
        """
        self._directory = directory
        self._segment_bytes, self._max_bytes = segment_bytes, max_bytes
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._cursor, self.sequence, self.previous = self._read_cursor()
        segments = self._segments()
        self._number = segments[-1] if segments else self._cursor.segment
        if segments:
            self._repair(segments[-1])
        self._file = os.open(self._path(self._number), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
        _sync_folder(directory)

    def close(self) -> None:
        """Close the files."""
        os.close(self._file)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait to be acknowledged."""
        total = sum(self._path(number).stat().st_size for number in self._segments())
        return total - self._cursor.offset

    def append(self, records: Sequence[bytes], *, durable: bool = True) -> None:
        """Append records; on the disk when it returns, if ``durable``.

        Raises Unavailable LM6011 when the spool is full or the disk refuses: then none of them counts as taken.
        """
        data = b"".join(_FRAME.pack(len(found), zlib.crc32(found)) + found for found in records)
        if self._size + len(data) > self._segment_bytes and self._size:
            self._roll()
        if self.waiting_bytes + len(data) > self._max_bytes:
            raise Unavailable("LM6011", reason=f"more than {self._max_bytes} bytes wait")
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            if durable:
                os.fdatasync(self._file)
        except OSError as err:
            # what was half written must not stand before the next frame
            os.ftruncate(self._file, self._size)
            raise Unavailable("LM6011", reason=err.strerror or str(err)) from err
        self._size += len(data)

    def read(self, limit: int = MAX_BATCH) -> tuple[Cursor, list[bytes]]:
        """The next records after the cursor, and the cursor that acknowledges them.

        Raises Invalid LM6010 for a broken frame.
        """
        found: list[bytes] = []
        cursor = self._cursor
        for number in self._segments():
            if number < cursor.segment:
                continue
            offset = cursor.offset if number == cursor.segment else 0
            with self._path(number).open("rb") as file:
                file.seek(offset)
                while len(found) < limit and (frame := _read_frame(file, self._path(number).name)) is not None:
                    found.append(frame)
                cursor = Cursor(number, file.tell())
            if len(found) >= limit:
                break
        return cursor, found

    def ack(self, cursor: Cursor, *, sequence: int, previous: str) -> None:
        """Forget the records before a cursor; durable, with the batch sequence that took them away."""
        self._cursor, self.sequence, self.previous = cursor, sequence, previous
        draft = self._directory / ".cursor"
        text = json.dumps(
            {"segment": cursor.segment, "offset": cursor.offset, "sequence": sequence, "previous": previous}
        )
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._directory / "cursor")
        _sync_folder(self._directory)
        for number in self._segments():
            if number < cursor.segment:
                self._path(number).unlink()

    def _path(self, number: int) -> pathlib.Path:
        return self._directory / f"{number:012d}{_SUFFIX}"

    def _segments(self) -> list[int]:
        return sorted(int(path.stem) for path in self._directory.glob(f"*{_SUFFIX}") if path.stem.isdigit())

    def _roll(self) -> None:
        os.fsync(self._file)
        os.close(self._file)
        self._number += 1
        self._file = os.open(self._path(self._number), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._size = 0
        _sync_folder(self._directory)

    def _read_cursor(self) -> tuple[Cursor, int, str]:
        path = self._directory / "cursor"
        if not path.exists():
            return Cursor(0, 0), 0, ""
        try:
            row = json.loads(path.read_text("utf-8"))
            return Cursor(int(row["segment"]), int(row["offset"])), int(row["sequence"]), str(row["previous"])
        except (ValueError, KeyError, TypeError) as err:
            raise Invalid("LM6010", segment="cursor", offset=0) from err

    def _repair(self, number: int) -> None:
        """Cut a torn last frame off; anything broken before it is reported."""
        path = self._path(number)
        with path.open("r+b") as file:
            size = path.stat().st_size
            good = 0
            while good < size:
                try:
                    frame = _read_frame(file, path.name)
                except Invalid:
                    # only a frame that the end of the file cuts short is torn; a broken one is damage
                    if not _is_torn(path, good, size):
                        raise
                    break
                if frame is None:
                    break
                good = file.tell()
            if good < size:
                file.truncate(good)
                os.fsync(file.fileno())


def _is_torn(path: pathlib.Path, offset: int, size: int) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return True
    length, _ = _FRAME.unpack(head)
    # a frame of the very end may be of the right length with pages that never reached the disk
    return offset + _FRAME.size + int(length) >= size


def _read_frame(file: BinaryIO, name: str) -> bytes | None:
    offset = file.tell()
    head = file.read(_FRAME.size)
    if not head:
        return None
    if len(head) < _FRAME.size:
        raise Invalid("LM6010", segment=name, offset=offset)
    length, checksum = _FRAME.unpack(head)
    if length > SEGMENT_BYTES:
        raise Invalid("LM6010", segment=name, offset=offset)
    body = file.read(length)
    if len(body) < length or zlib.crc32(body) != checksum:
        raise Invalid("LM6010", segment=name, offset=offset)
    return body


def _sync_folder(directory: pathlib.Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def batch_digest(agent: str, sequence: int, records: Sequence[bytes], previous: str) -> str:
    """The digest that names a batch: who, the how-manieth, what, and after which batch."""
    digest = hashlib.sha256(b"limen/audit/batch/1\n")
    for part in (agent.encode(), str(sequence).encode(), previous.encode(), *records):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def sign_batch(
    key: Ed25519PrivateKey, agent: str, sequence: int, records: Sequence[bytes], previous: str
) -> tuple[bytes, str]:
    """Sign a batch; return the signature and the digest that the next batch names."""
    digest = batch_digest(agent, sequence, records, previous)
    return key.sign(digest.encode()), digest


def verify_batch(
    key: Ed25519PublicKey, agent: str, sequence: int, records: Sequence[bytes], previous: str, signature: bytes
) -> str:
    """Check that an agent sent this batch after that one, and return its digest.

    Raises Forbidden LM6012 when it did not.
    """
    digest = batch_digest(agent, sequence, records, previous)
    try:
        key.verify(signature, digest.encode())
    except InvalidSignature as err:
        raise Forbidden("LM6012", agent=agent, sequence=sequence) from err
    return digest
