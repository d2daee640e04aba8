"""A durable queue of records on one host: what was appended is on the disk before `append` returns.

Segments of frames ``length (4) | crc32 of the bytes (4) | crc32 of these two (4) | bytes``. A torn tail, as kill -9 or
a power cut leaves it, is cut off when the spool is opened: nothing in it was ever acknowledged. What breaks otherwise
is reported with its place, never skipped silently: `step_over` sets it aside, so that the records behind it go on. The
cursor is a file that is replaced atomically; without it everything is read again, which ids make harmless.

When the spool holds ``max_bytes`` it takes no more: the caller must hold its own work back, or count what it drops.
This module sends nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import struct
import zlib
from collections.abc import Sequence

from audit.batches import MAX_BATCH
from mesh.disk import sync
from mesh.problems import Conflict, Invalid, Unavailable

SEGMENT_BYTES = 8 << 20
MAX_SPOOL_BYTES = 1 << 30
# a batch fits into one gRPC message of the default size
MAX_BATCH_BYTES = 2 << 20
_HEAD = struct.Struct(">III")
_CHECKED = struct.Struct(">II")
_SUFFIX = ".log"
# a disk writes at least this much at once: so many zeros at the end of a file were never written
_SECTOR = 512


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in the spool: a segment's number and an offset in it."""

    segment: int
    offset: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Bytes of the spool that are no records any more: where they stood, how many, and their SHA-256.

    Of a whole segment that is gone the size is 0. They lie in the spool's folder `damaged`, where the disk took them.
    """

    segment: str
    offset: int
    size: int
    sha256: str


class Spool:
    """One directory, one writer."""

    def __init__(
        self, directory: pathlib.Path, *, segment_bytes: int = SEGMENT_BYTES, max_bytes: int = MAX_SPOOL_BYTES
    ) -> None:
        """Open a spool, or make it.

        1. Segments before the cursor are forgotten. One that is gone from the middle is noted in ``damages``.
        2. The last segment's torn tail is cut off. One that is broken otherwise stays as it is: reading reports it, and
           what is appended goes into the next one.
        3. A cursor beyond what was kept points at records that the server has and this disk lost; a new segment begins.
        4. A cursor that is broken is noted and set aside: everything is read again, in batches numbered from 1.

        Raises Conflict LM6013 when another process has it open.
        """
        self._directory = directory
        self._segment_bytes, self._max_bytes = segment_bytes, max_bytes
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(directory)
        try:
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> None:
        self.damages: list[Damage] = []
        present = sorted(int(path.stem) for path in self._directory.glob(f"*{_SUFFIX}") if path.stem.isdecimal())
        # (4)
        try:
            self._cursor, self.sequence, self.previous = self._read_cursor()
        except Invalid:
            self.damages.append(self._set_aside("cursor", 0, (self._directory / "cursor").read_bytes()))
            self._cursor, self.sequence, self.previous = Cursor(present[0] if present else 0, 0), 0, ""
            self._write_cursor(self._cursor, 0, "")
        # (1)
        for number in [number for number in present if number < self._cursor.segment]:
            self._path(number).unlink()
        kept = [number for number in present if number >= self._cursor.segment]
        for number in sorted(set(range(self._cursor.segment, kept[-1] if kept else 0)) - set(kept)):
            self.damages.append(Damage(segment=self._path(number).name, offset=0, size=0, sha256=""))
        if kept and kept[0] != self._cursor.segment:
            self._cursor = Cursor(kept[0], 0)
        if not kept:
            self._path(self._cursor.segment).touch(0o600)
            kept = [self._cursor.segment]
        # (2)
        is_whole = self._repair(kept[-1])
        self._sizes = {number: self._path(number).stat().st_size for number in kept}
        # (3)
        if self._sizes[self._cursor.segment] < self._cursor.offset:
            self._cursor = Cursor(self._cursor.segment + 1, 0)
        self._number = max(kept[-1] if is_whole else kept[-1] + 1, self._cursor.segment)
        self._file = os.open(self._path(self._number), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._sizes.setdefault(self._number, 0)
        sync(self._directory)

    def close(self) -> None:
        """Close the files, durably."""
        os.fdatasync(self._file)
        os.close(self._file)
        os.close(self._lock)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait to be acknowledged."""
        return sum(size for number, size in self._sizes.items() if number >= self._cursor.segment) - self._cursor.offset

    def append(self, records: Sequence[bytes], *, durable: bool = True) -> None:
        """Append records, all or none; on the disk when it returns, if ``durable`` (else with the next that is).

        Raises Unavailable LM6011 when the spool is full or the disk refuses: then none of them counts as taken.
        """
        data = b"".join(map(_frame, records))
        if self.waiting_bytes + len(data) > self._max_bytes:
            raise Unavailable("LM6011", reason=f"more than {self._max_bytes} bytes wait")
        size = self._sizes[self._number]
        try:
            if size and size + len(data) > self._segment_bytes:
                self._roll()
            _write_all(self._file, data)
            if durable:
                os.fdatasync(self._file)
        except OSError as err:
            # what was half written must not stand before the next frame
            os.ftruncate(self._file, self._sizes[self._number])
            raise Unavailable("LM6011", reason=err.strerror or str(err)) from err
        self._sizes[self._number] += len(data)

    def read(self, limit: int = MAX_BATCH, limit_bytes: int = MAX_BATCH_BYTES) -> tuple[Cursor, list[bytes]]:
        """The next records after the cursor, at least one if there is any, and the cursor that acknowledges them.

        Raises Invalid LM6010 for a broken frame.
        """
        found: list[bytes] = []
        cursor, total = self._cursor, 0
        for number in sorted(number for number in self._sizes if number >= cursor.segment):
            offset = cursor.offset if number == cursor.segment else 0
            path = self._path(number)
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(self._sizes[number] - offset)
            except OSError as err:
                if found:
                    return cursor, found
                raise Invalid("LM6010", segment=path.name, offset=offset) from err
            place = 0
            while place < len(data) and len(found) < limit:
                end = _frame_end(data, place)
                if end is None:
                    if found:
                        # what stands before it goes first
                        return cursor, found
                    raise Invalid("LM6010", segment=path.name, offset=offset + place)
                if found and total + end - place > limit_bytes:
                    return cursor, found
                found.append(data[place + _HEAD.size : end])
                total += end - place
                place = end
                cursor = Cursor(number, offset + place)
            if len(data) < self._sizes[number] - offset:
                raise Invalid("LM6010", segment=path.name, offset=offset + len(data))
        return cursor, found

    def ack(self, cursor: Cursor, *, sequence: int, previous: str) -> None:
        """Forget the records before a cursor; durable, with the batch sequence that took them away.

        Raises Unavailable LM6011 when the disk refuses: then nothing is forgotten.
        """
        if cursor < self._cursor:
            raise ValueError("a cursor moves forwards")
        try:
            self._write_cursor(cursor, sequence, previous)
        except OSError as err:
            raise Unavailable("LM6011", reason=err.strerror or str(err)) from err
        self._cursor, self.sequence, self.previous = cursor, sequence, previous
        for number in [number for number in self._sizes if number < cursor.segment]:
            self._path(number).unlink(missing_ok=True)
            del self._sizes[number]

    def begin_anew(self) -> None:
        """Number batches from 1 again: the server does not know the one that was sent last. Nothing is forgotten.

        Raises Unavailable LM6011.
        """
        self.ack(self._cursor, sequence=0, previous="")

    def step_over(self) -> Damage | None:
        """Set aside what `read` raised LM6010 for, and go on behind it; None when there is nothing broken.

        1. Where a frame's head is whole, its end is known; else the next whole frame is looked for.
        2. The bytes between are kept in the folder `damaged`. The cursor moves with the next `ack`: after a crash this
           happens again.

        Raises Unavailable LM6011.
        """
        try:
            self.read(1)
        except Invalid as problem:
            name = str(problem.facts["segment"])
        else:
            return None
        number = int(name.removesuffix(_SUFFIX))
        offset = self._cursor.offset if number == self._cursor.segment else 0
        # (1)
        try:
            data = self._path(number).read_bytes()[: self._sizes[number]]
        except OSError:
            data = b""
        place = offset
        while place < len(data) and (end := _frame_end(data, place)) is not None:
            place = end
        end = _next_frame(data, place)
        # (2)
        found = self._set_aside(name, place, data[place:end])
        self._cursor = Cursor(number, end) if end < len(data) else self._after(number, len(data))
        return found

    def _after(self, number: int, size: int) -> Cursor:
        """The cursor at the end of a segment; of one that cannot be read whole, at the beginning of the next."""
        if size == self._sizes[number]:
            return Cursor(number, size)
        if number == self._number:
            try:
                self._roll()
            except OSError as err:
                raise Unavailable("LM6011", reason=err.strerror or str(err)) from err
        return Cursor(min(other for other in self._sizes if other > number), 0)

    def _set_aside(self, name: str, offset: int, data: bytes) -> Damage:
        folder = self._directory / "damaged"
        # a disk that is full keeps no copy: what it was is in the record of it
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / f"{name}-{offset}").write_bytes(data)
        return Damage(segment=name, offset=offset, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def _write_cursor(self, cursor: Cursor, sequence: int, previous: str) -> None:
        fields: dict[str, object] = {
            "segment": cursor.segment,
            "offset": cursor.offset,
            "sequence": sequence,
            "previous": previous,
        }
        draft = self._directory / ".cursor"
        with draft.open("w") as file:
            json.dump(fields | {"check": _check(fields)}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._directory / "cursor")
        sync(self._directory)

    def _path(self, number: int) -> pathlib.Path:
        return self._directory / f"{number:012d}{_SUFFIX}"

    def _roll(self) -> None:
        """Begin the next segment: the one before is whole on the disk first."""
        os.fsync(self._file)
        number = self._number + 1
        file = os.open(self._path(number), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(self._file)
        self._file, self._number = file, number
        self._sizes[number] = 0
        sync(self._directory)

    def _read_cursor(self) -> tuple[Cursor, int, str]:
        try:
            row = json.loads((self._directory / "cursor").read_bytes())
        except FileNotFoundError:
            return Cursor(0, 0), 0, ""
        except (OSError, ValueError, RecursionError) as err:
            raise Invalid("LM6010", segment="cursor", offset=0) from err
        if not isinstance(row, dict) or row.pop("check", None) != _check(row):
            raise Invalid("LM6010", segment="cursor", offset=0)
        return Cursor(row["segment"], row["offset"]), row["sequence"], row["previous"]

    def _repair(self, number: int) -> bool:
        """Cut a torn tail off; whether the segment is whole then. Anything broken otherwise stays."""
        path = self._path(number)
        data = path.read_bytes()
        good = 0
        while good < len(data):
            end = _frame_end(data, good)
            if end is None:
                break
            good = end
        if good == len(data):
            return True
        if not _is_torn(data[good:]):
            return False
        with path.open("r+b") as file:
            file.truncate(good)
            os.fsync(file.fileno())
        return True


def _frame(found: bytes) -> bytes:
    checked = _CHECKED.pack(len(found), zlib.crc32(found))
    return checked + zlib.crc32(checked).to_bytes(4, "big") + found


def _frame_end(data: bytes, place: int) -> int | None:
    """Where the frame at a place ends; None when it is not whole."""
    if len(data) - place < _HEAD.size:
        return None
    length, checksum, check = _HEAD.unpack_from(data, place)
    end = place + _HEAD.size + int(length)
    if zlib.crc32(data[place : place + _CHECKED.size]) != check or end > len(data):
        return None
    return end if zlib.crc32(data[place + _HEAD.size : end]) == checksum else None


def _next_frame(data: bytes, place: int) -> int:
    """Where the frames go on behind a broken one; the end of the data where they do not."""
    if len(data) - place >= _HEAD.size:
        length, _, check = _HEAD.unpack_from(data, place)
        end = place + _HEAD.size + int(length)
        if zlib.crc32(data[place : place + _CHECKED.size]) == check and end <= len(data):
            return end
    return next((at for at in range(place + 1, len(data)) if _frame_end(data, at) is not None), len(data))


def _is_torn(tail: bytes) -> bool:
    """Whether a tail that begins with a broken frame is a write that did not finish, and not a damaged one.

    1. It is shorter than a frame's head; or
    2. its head is whole and the file ends before the frame does; or
    3. from some place to the end of the file it is zeros, of at least a sector: pages that never reached the disk.
    """
    # (1)
    if len(tail) < _HEAD.size:
        return True
    # (2)
    length, _, check = _HEAD.unpack_from(tail)
    if zlib.crc32(tail[: _CHECKED.size]) == check and _HEAD.size + int(length) > len(tail):
        return True
    # (3)
    written = len(tail.rstrip(b"\0"))
    return written == 0 or len(tail) - written >= _SECTOR


def _check(fields: object) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _write_all(file: int, data: bytes) -> None:
    written = 0
    while written < len(data):
        written += os.write(file, data[written:])


def _lock(directory: pathlib.Path) -> int:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(handle)
        raise Conflict("LM6013", path=directory) from err
    return handle
