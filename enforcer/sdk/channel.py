"""A program's end of the conversation with its agent: the sidecar's words, without ports.

Everything a sidecar is told and tells is said here too, so that an application decides by what sidecars decide by.
An agent that goes away is waited for; the program goes on with what it was told last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable

from enforcer.native import wire
from enforcer.native.comeback import AGAIN_S
from enforcer.native.endpoints import Endpoints
from enforcer.native.records import Recorder
from enforcer.native.sidecar import FAREWELL_SECONDS, Sidecar
from enforcer.native.workload import Workload
from mesh.clock import Clock
from mesh.problems import Forbidden, Problem

REFUSED_AGAIN_S = 2.0
log = logging.getLogger("limen.sdk")


class Channel(Sidecar):
    """The conversation, on a thread of its own: what other threads use of the recorder is under ``lock``."""

    kind = "sdk"

    def __init__(self, clock: Clock, tasks: asyncio.TaskGroup, path: str, changed: Callable[[], None]) -> None:
        super().__init__(clock, tasks, path)
        self.lock = threading.RLock()
        self.problem: Problem | None = None
        self.serves: tuple[tuple[str, int], ...] = ()
        self._path, self._changed = path, changed
        self._is_leaving = self._is_over = False
        self._gone = asyncio.Event()
        self._handlers = {**self._handlers, "failed": self._take_failed}

    @property
    def workload(self) -> Workload:
        """The identity and the rules."""
        return self._workload

    @property
    def recorder(self) -> Recorder:
        """What there is to tell."""
        return self._recorder

    @property
    def endpoints(self) -> Endpoints:
        """Where called services are."""
        return self._endpoints

    @property
    def is_told(self) -> bool:
        """Whether there are an identity and policies."""
        return self._workload.identity is not None and self._epoch >= 0

    async def stay(self) -> None:
        """Be connected, again and again, until `leave`; no event tells that an agent will come back."""
        while not self._is_over:
            self._gone.clear()
            try:
                await asyncio.get_running_loop().create_unix_connection(lambda: self, self._path)
            except OSError:
                await asyncio.sleep(AGAIN_S)
                continue
            await self._gone.wait()
            await asyncio.sleep(AGAIN_S if self.problem is None else REFUSED_AGAIN_S)

    async def leave(self) -> None:
        """Hand over what is left to tell, as far as the agent takes it within two seconds, and hang up.

        It is the agent that closes, when it has read all: what it has not read of a stream that breaks, it loses.
        """
        self._is_leaving = True
        await self._farewell()
        self._is_over = True
        if self._transport is not None:
            with contextlib.suppress(OSError, TimeoutError):
                self._transport.write_eof()
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self._gone.wait()
        self.close()
        if not self.over.done():
            self.over.set_result(None)

    def abandon(self) -> None:
        """Be of no use from now on, in a process that was forked: this conversation is its parent's alone.

        The descriptor's number is kept taken, so that nothing else is closed under it later.
        """
        self.lock = threading.RLock()
        self._workload.identity = None
        self._released, self._rules = (None, None), (None, None)
        self._judge_anew()
        transport, self._transport = self._transport, None
        if transport is not None:
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nothing, transport.get_extra_info("socket").fileno(), inheritable=False)
            os.close(nothing)

    # -- what differs from a sidecar

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's name
        """The agent is gone; asyncio calls this. What it told last holds on."""
        self._transport = None
        self._gone.set()

    def _finish(self) -> None:
        """A stream that cannot be read ends; the next one may be better."""
        if self._transport is not None and not self._is_leaving:
            self._transport.abort()

    def send(self, message: wire.Message) -> None:
        """Say something, unless all was said."""
        if not self._is_over:
            super().send(message)

    def _take_listeners(self, message: wire.Message) -> None:
        """Know where this program is expected to listen. An agent's successor says it again."""
        rows = message.get("serves")
        if isinstance(rows, list):
            self.serves = tuple((str(row["address"]), int(row["port"])) for row in rows if isinstance(row, dict))
        self._ready = {"type": "ready", "inbound": [], "outbound": [], "intercept": None}
        self.send(self._ready)

    def _take_identity(self, message: wire.Message) -> None:
        with self.lock:  # records are written under another name from the first one on
            super()._take_identity(message)
        self.problem = None
        self._changed()

    def _take_policy(self, message: wire.Message) -> None:
        super()._take_policy(message)
        self._changed()

    def _take_keys(self, message: wire.Message) -> None:
        with self.lock:
            super()._take_keys(message)

    def _take_ack(self, message: wire.Message) -> None:
        with self.lock:
            super()._take_ack(message)

    def _take_program(self, message: wire.Message) -> None:
        """The program is this one."""

    def _take_stop(self, _: wire.Message) -> None:
        """The agent ends: say what is left. It, or its successor, decides what becomes of this program."""
        self._report()

    def _take_failed(self, message: wire.Message) -> None:
        self.problem = Forbidden(str(message.get("code")))
        log.warning("%s the agent refuses this program", message.get("code"))
        self._changed()

    def _introduce(self, ready: wire.Message) -> None:
        with self.lock:
            super()._introduce(ready)

    def _report(self, *, flows: bool = True) -> None:
        with self.lock:
            if self._is_over:
                return
            super()._report(flows=flows)

    def _recheck(self) -> None:
        """Every two seconds, and whenever bundles or policies changed."""
        super()._recheck()
        self._changed()
