"""A denied caller's connection until the record of that is on a disk, or until that takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from enforcer.native.records import KEPT_WITHIN_S
from enforcer.native.stream import Stream


class Parting:
    """A `Sink` that takes nothing; ``forget`` is called when the stream is gone. Whoever denied it closes it."""

    __slots__ = ("_forget", "_timer")

    def __init__(self, stream: Stream, forget: Callable[[], None]) -> None:
        self._forget = forget
        self._timer = asyncio.get_running_loop().call_later(KEPT_WITHIN_S, stream.abort)

    def received(self, data: bytes) -> None:
        """Nothing of it is for anybody."""

    def ended(self) -> None:
        """It is closed anyway."""

    def lost(self) -> None:
        """It is gone."""
        self._timer.cancel()
        self._forget()

    def writable(self, *, ready: bool) -> None:
        """Nothing is being sent."""
