"""A disk that loses power: of what was written since it was last made durable, anything may be there, torn or gone."""

import contextlib
import os
import pathlib
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Self


class Disk:
    """Knows what of a directory is durable, by listening to fsync and fdatasync: contents by inode, names by folder."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._contents: dict[int, bytes] = {}
        self._names: dict[pathlib.Path, dict[pathlib.Path, int]] = {}
        self._real = os.fsync, os.fdatasync

    def __enter__(self) -> Self:
        os.fsync, os.fdatasync = self._listen(self._real[0]), self._listen(self._real[1])  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync, os.fdatasync = self._real  # type: ignore[assignment]

    def _listen(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(handle: int) -> None:
            # what the handle is of: another file may have taken its name meanwhile
            opened = pathlib.Path(f"/proc/self/fd/{handle}")
            found = os.fstat(handle)
            with self._lock:
                if stat.S_ISDIR(found.st_mode):
                    path = pathlib.Path(os.readlink(opened))
                    self._names[path] = {path / row.name: row.inode() for row in os.scandir(opened) if row.is_file()}
                else:
                    self._contents[found.st_ino] = opened.read_bytes()
            real(handle)

        return sync

    def _look(self) -> dict[pathlib.Path, bytes]:
        """All files as they are: the log goes on writing meanwhile, and what it removes is looked for again."""
        while True:
            with contextlib.suppress(FileNotFoundError):
                return {path: path.read_bytes() for path in self._directory.rglob("*") if path.is_file()}

    def lose_power(self, into: pathlib.Path, choose: Callable[[int], int]) -> None:
        """Write what may be left into another directory; ``choose(n)`` is a number below n."""
        with self._lock:
            # a name may outlive what stood under it
            durable = {
                path: self._contents.get(ino, b"") for names in self._names.values() for path, ino in names.items()
            }
            now = self._look()
        for path in sorted({*durable, *now}):
            found = list(_left(durable.get(path), now.get(path)))
            data = found[choose(len(found))]
            if data is not None:
                target = into / path.relative_to(self._directory)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)


def _left(durable: bytes | None, now: bytes | None) -> Iterator[bytes | None]:
    yield durable
    if now != durable:
        yield now
        if now is not None:
            yield now[: len(now) // 2]
            yield b""
