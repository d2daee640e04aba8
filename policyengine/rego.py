"""Rego in process, as far as that is safe: an engine in a process of its own, asked within a deadline.

Whoever asks gets a value, `UNDEFINED`, or `RegoError`: for an engine's error, for an answer that came too late, for an
engine that is not ready. A late or dead engine is killed and begun again, less and less eagerly, and until it is ready
everything it is asked fails at once. What a failure means is for the caller to say; for a policy's rule it is unknown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Self

from mesh.problems import Invalid

LOAD_DEADLINE_S = 30.0
MAX_RESIDENT_BYTES = 1 << 30
_LOOK_EVERY_S = 0.02
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class RegoError(Exception):
    """An evaluation that gave no answer; the message says why."""


class _Undefined:
    """The value of a rule that is undefined."""

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED = _Undefined()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What an engine runs: modules by path, data, and the rules that may be asked for, `package/rule`.

    A ``strict`` program must pass `policyengine.regocheck.check_plan`.
    """

    modules: Mapping[str, str]
    data: Mapping[str, object]
    entrypoints: Sequence[str]
    strict: bool


class Engine:
    """A Rego engine that may be asked; ``deadline_s`` is the longest that an answer may take, in seconds.

    It begins at once and in the background; `load` waits for it. Not for use by two threads.
    """

    def __init__(self, source: Source, *, deadline_s: float) -> None:
        self._source, self._deadline_s = source, deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._pause_s, self._not_before = _FIRST_PAUSE_S, 0.0
        self.refused: tuple[str, ...] = ()
        self.failures = 0
        with contextlib.suppress(RegoError):  # whoever asks hears of it
            self._begin()

    def load(self, deadline_s: float = LOAD_DEADLINE_S) -> None:
        """Wait until the program is compiled; an engine that ended begins again, whatever its pause.

        The library dies now and then, so that it is tried twice. Raises RegoError when the program cannot be compiled,
        or may not run (`refused` has the reasons).
        """
        if self._is_ready:
            return
        if self.refused:
            raise RegoError("; ".join(self.refused))
        try:
            self._compile(deadline_s)
        except RegoError:
            if self.refused:
                raise
            self._compile(deadline_s)

    def _compile(self, deadline_s: float) -> None:
        if self._process is None:
            self._begin()
        self._take_ready(deadline_s)

    def replace(self, source: Source) -> None:
        """Run another program in the process that is there; `load` waits for it."""
        self._source, self.refused = source, ()
        if self._process is None or not self._is_ready:
            self.close()
            self._begin()
        else:
            self._is_ready = False
            self._send_program()

    def ask(self, entrypoint: str, document: object) -> object:
        """The value of a rule for an input, or `UNDEFINED`.

        Raises RegoError.
        """
        if self.refused:
            raise RegoError("; ".join(self.refused))
        if self._process is None:
            if time.monotonic() < self._not_before:
                raise RegoError("the engine is not running")
            self._begin()
        if not self._is_ready:
            self._take_ready(0.0)
        found = self._call({"ask": entrypoint, "input": document}, self._deadline_s)
        self._pause_s = _FIRST_PAUSE_S
        if "error" in found:
            self.failures += 1
            raise RegoError(str(found["error"]))
        return found.get("value", UNDEFINED)

    def close(self) -> None:
        """End the engine."""
        process, self._process, self._is_ready = self._process, None, False
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Start a process and send it the program; its answer is taken later."""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "policyengine.regoworker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                close_fds=True,
                start_new_session=True,
            )
        except OSError as err:
            raise self._failed("the engine cannot be started") from err
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._send_program()

    def _send_program(self) -> None:
        source = self._source
        load = {
            "modules": dict(source.modules),
            "data": dict(source.data),
            "entrypoints": list(source.entrypoints),
            "strict": source.strict,
        }
        self._send({"load": load})

    def _take_ready(self, deadline_s: float) -> None:
        found = self._receive(deadline_s, fails=deadline_s > 0)
        reasons = found.get("refused") or ([found["error"]] if "error" in found else [])
        assert isinstance(reasons, list)
        if reasons:
            self.refused = tuple(str(reason) for reason in reasons)
            self.close()
            raise RegoError("; ".join(self.refused))
        self._is_ready = True

    def _call(self, message: Mapping[str, object], deadline_s: float) -> dict[str, object]:
        self._send(message)
        return self._receive(deadline_s, fails=True)

    def _send(self, message: Mapping[str, object]) -> None:
        body = json.dumps(message).encode()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(len(body).to_bytes(4, "big") + body)
            self._process.stdin.flush()
        except OSError as err:
            raise self._failed("the engine ended") from err

    def _receive(self, deadline_s: float, *, fails: bool) -> dict[str, object]:
        """One message, within a deadline; when it does not come in time the engine ends, if that `fails`."""
        assert self._process is not None
        assert self._process.stdout is not None
        handle, end = self._process.stdout.fileno(), time.monotonic() + deadline_s
        data = bytearray()
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            # whoever looked in vain while it was loading has nothing half read
            left = max(0.0, end - time.monotonic()) if fails or not data else LOAD_DEADLINE_S
            if not select.select([handle], [], [], min(left, _LOOK_EVERY_S))[0]:
                if not fails and not data:
                    raise RegoError("the engine is not ready")
                if left <= _LOOK_EVERY_S:
                    raise self._failed("it took too long")
                if _resident_bytes(self._process.pid) > MAX_RESIDENT_BYTES:
                    raise self._failed("it took too much memory")
                continue
            part = os.read(handle, 1 << 16)
            if not part:
                raise self._failed("the engine ended")
            data += part
        found = json.loads(data[4:])
        assert isinstance(found, dict)
        return found

    def _failed(self, reason: str) -> RegoError:
        """End the engine and say when it may begin again."""
        self.failures += 1
        self.close()
        self._not_before = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return RegoError(reason)


def _resident_bytes(pid: int) -> int:
    """What a process has in memory; 0 for one that ended."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as found:  # noqa: PTH123  asked often
            return int(found.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def require_engine() -> None:
    """Refuse to go on without the library.

    Raises Invalid LM2610.
    """
    try:
        import regopy  # noqa: F401, PLC0415  only whether it is there
    except ImportError as err:
        raise Invalid("LM2610") from err
