import asyncio

import pytest

from enforcer.native import parting
from enforcer.native.parting import Parting
from tests.enforcer.native.test_exchange import Recorded


def test_what_a_denied_caller_sends_goes_nowhere_and_it_is_forgotten_once_when_it_is_gone() -> None:
    async def run() -> None:
        stream, gone = Recorded(), list[int]()
        stream.sink = Parting(stream, lambda: gone.append(1))
        stream.tell.received(b"x")
        stream.tell.writable(ready=True)
        stream.tell.ended()
        assert (gone, stream.did, stream.sent) == ([], [], b"")
        stream.tell.lost()
        assert (gone, stream.did) == ([1], [])

    asyncio.run(run())


def test_a_record_that_takes_too_long_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parting, "KEPT_WITHIN_S", 0)

    async def run() -> None:
        stream, over = Recorded(), asyncio.Event()
        stream.abort = over.set  # type: ignore[method-assign]
        stream.sink = Parting(stream, lambda: None)
        await asyncio.wait_for(over.wait(), 100)

    asyncio.run(run())
