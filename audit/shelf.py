"""Where readers find the log: tiles, bundles and the checkpoint, put there in that order, and made durable later.

Nothing here is needed to keep a record: the journal vouches for what a reader does not see yet, and for what a loss of
power would take or tear, until it is *settled*: one fsync for every file that counts and every folder that got a name.
Of a tile that grew only its last width counts. In the background, what comes while something is being put there waits,
and goes together. This module knows neither what stands in the files nor when they have to be settled.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from audit.reader import CHECKPOINT
from mesh.disk import sync

Note = Callable[[], bytes]
_AT_ONCE = 8


class Shelf:
    """The files of one log. Its methods are called from one thread at a time; they raise OSError."""

    def __init__(self, directory: pathlib.Path, *, is_in_background: bool) -> None:
        self._directory, self._is_in_background = directory, is_in_background
        self._lock, self._showing = threading.Lock(), threading.Lock()
        # the last width of every tile and bundle: what readers wait for, and what is there and not settled
        self._waiting: dict[str, tuple[str, bytes]] = {}
        self._note: Note | None = None
        self._is_busy = False
        self._fresh: dict[str, str] = {}
        self._folders: set[pathlib.Path] = {directory}
        self._worker: ThreadPoolExecutor | None = None
        self._shown: Future[None] | None = None
        self._settled: Future[None] | None = None

    def put(self, files: Mapping[str, bytes], note: Note | None) -> None:
        """Show tiles and bundles to readers, then a signed checkpoint.

        In the background, what the disk refuses is said by a later call.
        """
        with self._lock:
            for path, data in files.items():
                self._waiting[_tile_of(path)] = path, data
            self._note = note
            is_due = self._is_in_background and not self._is_busy
            self._is_busy |= is_due
        if not self._is_in_background:
            self._show()
        elif is_due:
            shown, self._shown = self._shown, self._submit(self._show_all)
            if shown is not None:
                shown.result()

    def flush(self) -> None:
        """Have readers see everything now."""
        shown, self._shown = self._shown, None
        if shown is not None:
            shown.result()
        self._show()

    def settle(self) -> None:
        """Show everything, and settle it in the background; `wait` says when that is done.

        What is put there afterwards does not take the place of what is to be settled: a turn of the journal may begin
        over just that.
        """
        self.flush()
        with self._lock:
            found, self._fresh = self._fresh, {}
            wanted = self._wanted(found.values())
        self._settled = self._submit(lambda: self._sync_all(wanted, found))

    def wait(self) -> None:
        """Wait until what was to be settled is."""
        settled, self._settled = self._settled, None
        if settled is not None:
            settled.result()

    def finish(self) -> None:
        """Settle everything now."""
        self.wait()
        self.settle()
        self.wait()

    def close(self) -> None:
        """End the background, with what goes on in it; what is waiting is not shown."""
        with self._lock:
            self._waiting, self._note = {}, None
        self._shown = self._settled = None
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None

    # -- here, or on the one thread in the background

    def _submit(self, work: Callable[[], None]) -> Future[None]:
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "audit")
        return self._worker.submit(work)

    def _show_all(self) -> None:
        """Show until nothing waits, and what comes after that is the next call's."""
        try:
            while True:
                with self._lock:
                    if not self._waiting and self._note is None:
                        self._is_busy = False
                        return
                self._show()
        except BaseException:
            with self._lock:
                self._is_busy = False
            raise

    def _show(self) -> None:
        with self._showing:
            with self._lock:
                waiting, note = self._waiting, self._note
                self._waiting, self._note = {}, None
            try:
                for path, data in waiting.values():
                    write(self._directory / path, data, is_tile=True)
                if note is not None:
                    write(self._directory / CHECKPOINT, note())
            except BaseException:
                self._wait_again(waiting, note)
                raise
            with self._lock:
                self._fresh |= {tile: path for tile, (path, _) in waiting.items()}

    def _wait_again(self, waiting: dict[str, tuple[str, bytes]], note: Note | None) -> None:
        """What could not be shown waits, beside what came since and goes further."""
        with self._lock:
            self._waiting = waiting | self._waiting
            self._note = self._note or note

    def _sync_all(self, wanted: Sequence[Sequence[pathlib.Path]], found: Mapping[str, str]) -> None:
        """Make each group durable before the next.

        The files of a group go together: a file system writes its own journal once for those that wait at the same
        time, and once for each of those that come one by one. That was ten times the wait.
        """
        with ThreadPoolExecutor(_AT_ONCE, "audit-sync") as several:
            for group in wanted:
                # `list` raises what any of them raised
                list(several.map(sync, group))
        self._drop_partials(found.values())

    def _wanted(self, paths: Iterable[str]) -> list[list[pathlib.Path]]:
        """Files; every folder that got a name and every new folder's parent; the checkpoint; its name."""
        files = [self._directory / path for path in paths]
        folders: dict[pathlib.Path, None] = {}
        for path in files:
            folder = path.parent
            folders[folder] = None
            while folder not in self._folders:
                self._folders.add(folder)
                folder = folder.parent
                folders[folder] = None
        return [files, [*folders], [self._directory / CHECKPOINT], [self._directory]]

    def _drop_partials(self, paths: Iterable[str]) -> None:
        """Remove the partial tiles that a settled full one replaces: readers of an older checkpoint find that."""
        for path in paths:
            folder = self._directory / f"{path}.p"
            if path == _tile_of(path) and folder.is_dir():
                with contextlib.suppress(OSError):
                    for left in folder.iterdir():
                        left.unlink(missing_ok=True)
                    folder.rmdir()
                with self._lock:
                    self._folders.discard(folder)


def _tile_of(path: str) -> str:
    return path.partition(".p/")[0]


def write(path: pathlib.Path, data: bytes, *, is_tile: bool = False, is_durable: bool = False) -> None:
    """Write a file under its name; a reader sees all of it or nothing. Raises OSError.

    A tile that is there with the same bytes is left alone; other bytes under its name are a crash's leavings.
    """
    if is_tile and path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with draft.open("wb") as file:
        file.write(data)
        if is_durable:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)
    if is_durable:
        sync(path.parent)
