"""A file that grows: whole lines alone, on the disk before they count, and put aside for a new one when it is large.

A line that a crash tore is cut off when the file is opened again: its record comes again. A file that is put aside is
named after the first record that is not in it any more.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Sequence

from audit.formats.forms import Form
from mesh.problems import Unavailable

_BLOCK = 1 << 16


class FileSink:
    """A file that lines are appended to."""

    most, linger_s = 2000, 0.0

    def __init__(self, path: pathlib.Path, form: Form, rotate_bytes: int) -> None:
        self._path, self._form, self._rotate = path, form, rotate_bytes
        self._handle: int | None = None

    def send(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Append; durable when it returns.

        Raises Unavailable LM6101.
        """
        try:
            handle = self._open()
            if os.fstat(handle).st_size >= self._rotate:
                self._path.replace(self._path.with_name(f"{self._path.name}.{records[0][0]:012d}"))
                self.close()
                handle = self._open()
            data = memoryview(b"".join(self._form.lines(records)))
            while data:
                data = data[os.write(handle, data) :]
            os.fdatasync(handle)
        except OSError as err:
            self.close()
            raise Unavailable("LM6101", to=self._path, reason=err.strerror or str(err)) from err

    def _open(self) -> int:
        if self._handle is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._handle = os.open(self._path, flags, 0o600)
            _cut_torn(self._handle)
        return self._handle

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = None


def _cut_torn(handle: int) -> None:
    """Cut off what stands behind the last line break."""
    end = os.fstat(handle).st_size
    while end:
        begin = max(0, end - _BLOCK)
        place = os.pread(handle, end - begin, begin).rfind(b"\n")
        if place >= 0:
            os.ftruncate(handle, begin + place + 1)
            return
        end = begin
    os.ftruncate(handle, 0)


class StdoutSink:
    """Standard output."""

    most, linger_s = 2000, 0.0

    def __init__(self, form: Form) -> None:
        self._form = form

    def send(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Write lines. Raises BrokenPipeError when the reader went away."""
        for line in self._form.lines(records):
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """Nothing is held."""
