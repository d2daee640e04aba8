import asyncio
import gc
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from limen import lifecycle
from mesh.problems import Conflict


def test_announcing_writes_the_file_and_the_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    lifecycle.announce(tmp_path, "server", {"tls": "https://x:1"})
    found = json.loads((tmp_path / "run" / "server.json").read_text("utf-8"))
    assert found == {"pid": os.getpid(), "addresses": {"tls": "https://x:1"}}
    assert capsys.readouterr().out == "ready server\n"
    lifecycle.retire(tmp_path, "server")
    assert not (tmp_path / "run" / "server.json").exists()


# in a process of its own: what other tests left in this one's heap would be used first
_HEAP = """
import sys
from enforcer.native.memory import resident_bytes
from limen import lifecycle
if sys.argv[1] == "little":
    lifecycle.keep_little_memory()
large = b"x" * (16 << 20)
del large
before = resident_bytes()
filled = [b"x" * 300_000 for _ in range(200)]
pin = b"x" * 2_000
full = resident_bytes()
del filled
print(full - before, resident_bytes() - before)
"""


def test_what_is_free_is_given_back_whatever_was_freed_before_and_lies_behind_it() -> None:
    kept = {}
    for way in ("little", "usual"):
        done = subprocess.run([sys.executable, "-c", _HEAP, way], capture_output=True, text=True, check=True)
        grown, kept[way] = (int(word) for word in done.stdout.split())
        assert grown > 40_000_000
    assert kept["little"] < 20_000_000 < kept["usual"]


_TOLD = """
import os, signal
from limen import lifecycle
stop = lifecycle.stop_signalled()
with stop._cond:  # as whoever waits for it does
    os.kill(os.getpid(), signal.SIGTERM)
print(stop.wait(60))
"""


def test_a_signal_that_comes_while_its_event_is_waited_for_is_taken() -> None:
    done = subprocess.run([sys.executable, "-c", _TOLD], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "True\n"


def test_what_is_loaded_is_not_looked_at_again() -> None:
    held = [{"a": [place]} for place in range(1000)]
    usual = gc.get_threshold()
    try:
        lifecycle.keep_what_is_loaded()
        # and at what is new less often, with the older generations as before
        assert gc.get_threshold() == (10_000, *usual[1:])
        assert gc.get_freeze_count() > len(held)
        assert not any(item is held for item in gc.get_objects())
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)


def test_one_process_of_a_name_runs_on_a_state(tmp_path: pathlib.Path) -> None:
    with lifecycle.only_one(tmp_path, "up"):
        with pytest.raises(Conflict, match="LM5205"), lifecycle.only_one(tmp_path, "up"):
            pass
        with lifecycle.only_one(tmp_path, "server"):
            pass
    with lifecycle.only_one(tmp_path, "up"):
        pass


def test_a_signal_sets_the_stop_event() -> None:
    async def run() -> None:
        stop = lifecycle.stop_event(asyncio.get_running_loop())
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60):
            await stop.wait()

    asyncio.run(run())


@pytest.mark.system
def test_a_process_ends_with_the_one_that_started_it() -> None:
    inner = (
        "import os, signal, sys; from limen import lifecycle; lifecycle.die_with_parent();"
        "print(os.getpid(), flush=True);"
        "signal.pause()"
    )
    outer = (
        "import os, subprocess, sys; from limen.lifecycle import PARENT;"
        f"subprocess.Popen([sys.executable, '-c', {inner!r}], env={{**os.environ, PARENT: str(os.getpid())}});"
        "sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(parent.stdout.readline())
    handle = os.pidfd_open(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    parent.stdin.close()
    import select

    assert select.select([handle], [], [], 60)[0]
    os.close(handle)
