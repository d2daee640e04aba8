import asyncio
import os
import signal

import pytest

from limen.besides import end_process, start_process

WAITS = "import os, signal, sys; signal.signal(15, signal.{}); os.write(2, b'ready'); signal.pause()"


async def begun(word: str) -> asyncio.subprocess.Process:
    """A process that says when it takes signals; on its standard error, since its output goes nowhere."""
    read, write = os.pipe()
    saved = os.dup(2)
    os.dup2(write, 2)
    try:
        process = await start_process(["-c", WAITS.format(word)], {"X": "1"})
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(write)
    said = await asyncio.to_thread(os.read, read, 5)
    os.close(read)
    assert said == b"ready"
    return process


@pytest.mark.system
@pytest.mark.parametrize(("word", "status"), [("SIG_DFL", -signal.SIGTERM), ("SIG_IGN", -signal.SIGKILL)])
def test_a_process_is_asked_to_end_and_then_ended(word: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limen.besides._STOPS_WITHIN_S", 30.0 if word == "SIG_DFL" else 0.5)

    async def scenario() -> None:
        process = await begun(word)
        await end_process(process)
        assert process.returncode == status
        # one that ended is left alone, and so is none
        await end_process(process)
        await end_process(None)

    asyncio.run(scenario())
