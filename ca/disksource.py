"""Signing keys in a directory: one wrapped file for each, whole or not there at all, readable by nobody else.

A file holds what `mesh.wrapping` made of the key, with the key's name as associated data; plain keys never touch the
disk. The directory may be on another volume than the database: somebody who copies one of them has neither.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import secrets
import stat
from collections.abc import Callable, Iterator

from ca.keys import KeyAlgorithm, SigningKey, generate, private_from_der, private_to_der
from ca.keysource import check_name
from mesh.problems import Conflict, Invalid, NotFound, Unavailable
from mesh.wrapping import WrappingKey

MAX_BYTES = 64 << 10
_SUFFIX, _UNFINISHED = ".key", ".new"


class DiskKeys:
    """Keys in files of one directory."""

    name = "disk"
    is_durable = True

    def __init__(
        self, folder: pathlib.Path, wrapping: WrappingKey, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        """Open the directory, or make it. Raises Unavailable LM1603, Invalid LM1607 when others may enter it."""
        self._folder, self._wrapping, self._random = folder, wrapping, random
        with self._reported():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat()
        if found.st_mode & 0o077 or found.st_uid not in {os.geteuid(), 0}:
            raise Invalid("LM1607", path=str(folder), reason="others may enter it")
        with self._locked():
            # under the lock nobody writes: what is unfinished now was left by a kill
            for path in folder.glob(f".*{_UNFINISHED}"):
                path.unlink(missing_ok=True)

    def new(self, name: str, algorithm: KeyAlgorithm) -> SigningKey:
        """Make a key and its file.

        1. The file is written under another name, and is on the disk.
        2. It is linked to its own name: whoever links first wins, and nothing is ever overwritten.
        3. The directory is on the disk.

        Raises Conflict LM1601, Unavailable LM1603.
        """
        path = self._path(name)
        made = generate(algorithm)
        wrapped = self._wrapping.wrap(_bound(name), private_to_der(made.key), self._random(12))
        unfinished = self._folder / f".{name}{_UNFINISHED}"
        with self._locked():
            try:
                # (1)
                handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(wrapped)
                    file.flush()
                    os.fsync(file.fileno())
                # (2)
                try:
                    path.hardlink_to(unfinished)
                except FileExistsError as err:
                    raise Conflict("LM1601", name=name, source=self.name) from err
            finally:
                unfinished.unlink(missing_ok=True)
            # (3)
            self._settle()
        return made

    def load(self, name: str) -> SigningKey:
        """The key of a name. Raises NotFound LM1600, Invalid LM1201, LM1604 and LM1607, Unavailable LM1603."""
        path = self._path(name)
        with self._reported():
            try:
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError as err:
                raise NotFound("LM1600", name=name, source=self.name) from err
            with os.fdopen(handle, "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
                    raise Invalid("LM1607", path=str(path), reason="others may read it, or it is no plain file")
                wrapped = file.read(MAX_BYTES + 1)
        if len(wrapped) > MAX_BYTES:
            raise Invalid("LM1604", name=name, reason="its file is larger than 64 KiB")
        return private_from_der(self._wrapping.unwrap(_bound(name), wrapped), name)

    def delete(self, name: str) -> None:
        """Forget a key. Raises Unavailable LM1603."""
        path = self._path(name)
        with self._locked():
            path.unlink(missing_ok=True)
            self._settle()

    def names(self) -> frozenset[str]:
        """The names of all key files. Raises Unavailable LM1603."""
        with self._reported():
            return frozenset(path.stem for path in self._folder.glob(f"[!.]*{_SUFFIX}"))

    def _path(self, name: str) -> pathlib.Path:
        return self._folder / f"{check_name(name)}{_SUFFIX}"

    def _settle(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, in every process."""
        with self._reported():
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                yield
            finally:
                os.close(folder)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise Unavailable(
                "LM1603", source=f"{self.name}:{self._folder}", reason=err.strerror or type(err).__name__
            ) from err


def _bound(name: str) -> str:
    # a wrapped key of the database, copied into a file, is another thing
    return f"disk/{name}"
