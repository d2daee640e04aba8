"""How far an export came: one small file, replaced when what it says is true, and on the disk before anybody goes on.

A cursor belongs to one log, by its origin. It is the index of the next record: all before it were taken by the
destination. A crash between a delivery and its cursor delivers again, and loses nothing.
"""

from __future__ import annotations

import json
import os
import pathlib

from mesh.problems import Invalid, Unavailable

_MAX_BYTES = 4096


class Cursor:
    """The cursor of one export in a file."""

    def __init__(self, path: pathlib.Path, origin: str, next_index: int = 0) -> None:
        """Read the file; without one the export begins at ``next_index``.

        Raises Invalid LM6102 for a file that is no cursor, or another log's.
        """
        self._path, self._origin = path, origin
        self.next = next_index
        self.is_new = True
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return
        except OSError as err:
            raise Invalid("LM6102", path=path, reason=err.strerror or str(err)) from err
        self.next = _read(path, data, origin)
        self.is_new = False

    def save(self, next_index: int) -> None:
        """Move on; durable when it returns.

        Raises Unavailable LM6101 when the disk refuses.
        """
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        text = json.dumps({"version": 1, "origin": self._origin, "next": next_index})
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as err:
            raise Unavailable("LM6101", to=self._path, reason=err.strerror or str(err)) from err
        self.next, self.is_new = next_index, False


def _read(path: pathlib.Path, data: bytes, origin: str) -> int:
    try:
        found = json.loads(data)
        position = found["next"] if found["version"] == 1 else None
        other = found["origin"]
    except (ValueError, KeyError, TypeError) as err:
        raise Invalid("LM6102", path=path, reason="it is no cursor") from err
    if type(position) is not int or position < 0:
        raise Invalid("LM6102", path=path, reason="it is no cursor")
    if other != origin:
        raise Invalid("LM6102", path=path, reason=f"it belongs to the log `{other}`")
    return position
