"""Says at once when one of some files changes: inotify, by the file's directory, because editors replace files.

Nothing here reads a file or says what changed in it: who is woken looks for itself. Where there is no inotify (or no
more watches), nobody is woken and looking now and then has to do.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import pathlib
import struct
from collections.abc import Callable, Iterable

import structlog

# linux/inotify.h
_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _DELETE = 0x8, 0x40, 0x80, 0x200
_EVENT = struct.Struct("iIII")
_READ_BYTES = 65536


class FileWatch:
    """Watches files by name; calls back on the loop's thread, once for everything that happened together."""

    def __init__(self, paths: Iterable[pathlib.Path], changed: Callable[[], None]) -> None:
        self._changed = changed
        self._names: dict[int, set[bytes]] = {}
        self._fd = -1
        try:
            self._open(list(paths))
        except OSError as err:
            self.close()
            structlog.get_logger().warning("changed files are found by looking once a second", reason=str(err))

    @property
    def is_open(self) -> bool:
        """Whether changes are told at once."""
        return self._fd >= 0

    def close(self) -> None:
        """End it."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _open(self, paths: list[pathlib.Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        for path in paths:
            mask = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _DELETE
            watch = libc.inotify_add_watch(self._fd, os.fsencode(path.parent), mask)
            if watch < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch")
            # one directory has one watch, however often it is named
            self._names.setdefault(watch, set()).add(os.fsencode(path.name))

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        if any(watch < 0 or name in self._names.get(watch, ()) for watch, name in read_events(data)):
            self._changed()


def read_events(data: bytes) -> list[tuple[int, bytes]]:
    """The watches and names of what the kernel says (inotify(7)); watch -1 says that some were lost."""
    found, at = [], 0
    while at < len(data):
        watch, _, _, size = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        found.append((watch, data[at : at + size].rstrip(b"\0")))
        at += size
    return found
