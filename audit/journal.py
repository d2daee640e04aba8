"""What the log took and did not settle yet: each batch is durable with one write, into room that the file already has.

Two files in turn, beside the tree. A turn begins with a signed checkpoint below which everything is durable by itself;
batches follow, each authenticated over everything before it in its turn. So neither a torn write nor what an earlier
turn left in the file is taken for a batch, and nobody who can write to the disk has the log sign a record of his. A
turn is overwritten only by the next but one, which begins when its own batches are durable by themselves. What is
settled, and when, is the log's to know; this module reads no tile.
"""

from __future__ import annotations

import dataclasses
import hmac
import os
import pathlib
import struct
from collections.abc import Sequence

from audit.checkpoint import MAX_CHECKPOINT_BYTES
from audit.tiles import pack_entries, unpack_entries
from mesh.problems import Invalid

NAMES = ("journal.0", "journal.1")
ROOM = 512 << 10
"""Bytes that a file has from the beginning: a write within it changes no length, and needs no more than itself."""
_MAGIC = b"LMJRNL\x00\x01"
_HEAD = struct.Struct(">8sQ?16sI")
_LENGTH = struct.Struct(">I")
_MAC_BYTES = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn: its number, the signed checkpoint that it began with, and the batches that followed, in order.

    ``is_settled`` says that everything below the checkpoint was durable when the turn began: no older turn counts.
    """

    number: int
    is_settled: bool
    note: bytes
    batches: tuple[tuple[bytes, ...], ...]


class Journal:
    """Both files, open. Everything that writes raises OSError when the disk refuses."""

    def __init__(self, directory: pathlib.Path, secret: bytes, room: int = ROOM) -> None:
        self._secret, self._room = secret, room
        self._files: list[int] = []
        self._number = -1
        self._mac = b""
        self._end = 0
        try:
            for name in NAMES:
                self._files.append(_open(directory / name, room))
        except BaseException:
            self.close()
            raise

    @property
    def is_full(self) -> bool:
        """Whether the next turn is due: half of the room is taken, so that a batch of any usual size still fits."""
        return self._end > self._room // 2

    def close(self) -> None:
        """Close both files."""
        while self._files:
            os.close(self._files.pop())

    def read(self) -> list[Turn]:
        """The turns that count, the older one first."""
        turns = [turn for turn in (self._read(file) for file in self._files) if turn is not None]
        turns.sort(key=lambda turn: turn.number)
        if turns:
            self._number = max(self._number, turns[-1].number)
        return turns[-1:] if turns and turns[-1].is_settled else turns

    def begin(self, note: bytes, *, is_settled: bool) -> None:
        """Begin the next turn over a signed checkpoint: the turn before the last one is gone.

        1. No header and no batch of that turn is left that could be read as one of this turn: the number used once
           that stands in the header goes into every batch.
        2. The header is durable.
        """
        self._number += 1
        # (1)
        head = _HEAD.pack(_MAGIC, self._number, is_settled, os.urandom(16), len(note)) + note
        self._mac = hmac.digest(self._secret, head, "sha256")
        # (2)
        self._end = 0
        self._put(head + self._mac)

    def add(self, records: Sequence[bytes]) -> None:
        """Put a batch behind the others; durable when it returns."""
        packed = pack_entries(records)
        data = _LENGTH.pack(len(packed)) + packed
        mac = hmac.digest(self._secret, self._mac + data, "sha256")
        self._put(data + mac)
        self._mac = mac

    def _put(self, data: bytes) -> None:
        file, at = self._files[self._number % 2], self._end
        while data:
            # a disk may take less than it is given
            written = os.pwrite(file, data, at)
            at, data = at + written, data[written:]
        os.fdatasync(file)
        self._end = at

    def _read(self, file: int) -> Turn | None:
        """A file's turn: whole batches up to the first byte that is none; None without a whole header."""
        data = _content(file)
        if len(data) < _HEAD.size:
            return None
        magic, number, is_settled, _, size = _HEAD.unpack_from(data)
        at = _HEAD.size + size
        mac = hmac.digest(self._secret, data[:at], "sha256")
        if magic != _MAGIC or size > MAX_CHECKPOINT_BYTES or not hmac.compare_digest(data[at : at + _MAC_BYTES], mac):
            return None
        note, batches = data[_HEAD.size : at], []
        at += _MAC_BYTES
        while at + _LENGTH.size <= len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            end = at + _LENGTH.size + length
            if not length or end + _MAC_BYTES > len(data):
                break
            mac = hmac.digest(self._secret, mac + data[at:end], "sha256")
            if not hmac.compare_digest(data[end : end + _MAC_BYTES], mac):
                break
            try:
                batches.append(tuple(unpack_entries(data[at + _LENGTH.size : end], "journal")))
            except Invalid:
                break
            at = end + _MAC_BYTES
        return Turn(number=number, is_settled=is_settled, note=note, batches=tuple(batches))


def _open(path: pathlib.Path, room: int) -> int:
    """Open a file and give it its room, in zeros that are on the disk: only then it has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        length = os.fstat(file).st_size
        if length < room:
            os.pwrite(file, bytes(room - length), length)
            os.fsync(file)
    except BaseException:
        os.close(file)
        raise
    return file


def _content(file: int) -> bytes:
    parts, at = [], 0
    while part := os.pread(file, 1 << 20, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)
