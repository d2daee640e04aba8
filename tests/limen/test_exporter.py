import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from limen.exporter import Running
from limen.exportsfile import Export, load_exports
from limen.exportstate import standings
from mesh.clock import SystemClock
from tests.audit.making import make, make_log, open_log
from tests.audit.receivers import free_port, until
from tests.audit.sinks.answering import Answering


def wanted(state: pathlib.Path, text: str) -> list[Export]:
    """What is written down as wanted, as the server does it."""
    exports, found = load_exports(text, str(state / "exports.yaml"))
    assert found == []
    (state / "server").mkdir(exist_ok=True)
    (state / "exports").mkdir(exist_ok=True)
    (state / "server" / "exports.json").write_text(json.dumps([item.to_json() for item in exports]))
    return list(exports)


def start(state: pathlib.Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "limen.exporter", str(state)], stdout=subprocess.DEVNULL)


def numbers(server: Answering) -> list[int]:
    return [json.loads(line)["n"] for _, _, body in list(server.got) for line in body.splitlines()]


@pytest.mark.slow
@pytest.mark.system
def test_a_receiver_that_is_away_stops_neither_the_log_nor_the_others(tmp_path: pathlib.Path) -> None:
    key_port = free_port()
    make_log(tmp_path / "audit", 50)
    wanted(
        tmp_path,
        f"exports: [{{name: away, to: 'http://127.0.0.1:{key_port}/'}}, {{name: file, to: 'file://{tmp_path}/out'}}]",
    )
    process = start(tmp_path)
    try:
        log = open_log(tmp_path / "audit")
        log.append([make(number) for number in range(50, 80)])
        log.close()

        def stands() -> bool:
            away, file = standings(tmp_path)
            return bool(file["lag"] == 0 and away["lag"] == 80 and away["failures"] and away["error"])

        until(stands, "one export at its end and one that fails")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (tmp_path / "out").read_bytes() == b"".join(make(number) + b"\n" for number in range(80))


@pytest.mark.slow
@pytest.mark.system
def test_whenever_it_is_killed_the_receiver_gets_every_record(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path / "audit", 4000)
    with Answering() as server:
        wanted(tmp_path, f"exports: [{{name: a, to: 'http://127.0.0.1:{server.port}/'}}]")
        for kills in range(4):
            process = start(tmp_path)
            until(lambda: process.poll() is not None or len(server.got) > 2 * kills, "a batch")  # noqa: B023  waited for
            process.send_signal(signal.SIGKILL)
            process.wait()
        process = start(tmp_path)
        until(lambda: standings(tmp_path)[0]["lag"] == 0, "the end of the log")
        process.send_signal(signal.SIGTERM)
        # what one that was killed wrote may say so too: then this one may end by the signal before it takes it
        assert process.wait(60) in {0, -signal.SIGTERM}
        got = numbers(server)
    assert set(got) == set(range(4000))
    # in order, but for what came again
    seen = -1
    for number in got:
        assert number <= seen + 1
        seen = max(seen, number)


def run_until(running: Running, stop: threading.Event, condition: object, what: str) -> None:
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        until(condition, what)  # type: ignore[arg-type]  # a function of nothing
    finally:
        stop.set()
        thread.join(60)


def test_an_export_from_now_on_begins_behind_what_is_there(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path / "audit", 10)
    (export,) = wanted(tmp_path, f"exports: [{{name: a, to: 'file://{tmp_path}/out', from: now}}]")
    stop = threading.Event()
    run_until(
        Running(tmp_path, export, stop, SystemClock()), stop, lambda: standings(tmp_path)[0]["lag"] == 0, "a beginning"
    )
    log = open_log(tmp_path / "audit")
    log.append([make(number) for number in range(10, 13)])
    log.close()
    stop = threading.Event()
    run_until(
        Running(tmp_path, export, stop, SystemClock()), stop, lambda: standings(tmp_path)[0]["lag"] == 0, "three more"
    )
    assert (tmp_path / "out").read_bytes() == b"".join(make(number) + b"\n" for number in range(10, 13))


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path: pathlib.Path) -> None:
    (export,) = wanted(tmp_path, f"exports: [{{name: a, to: 'file://{tmp_path}/out'}}]")
    stop = threading.Event()
    running = Running(tmp_path, export, stop, SystemClock())
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        until(lambda: bool(standings(tmp_path)[0]["failures"]), "a failure")
        make_log(tmp_path / "audit", 5)
        until(lambda: standings(tmp_path)[0]["lag"] == 0 and (tmp_path / "out").exists(), "all records")
    finally:
        stop.set()
        thread.join(60)
    assert (tmp_path / "out").read_bytes().count(b"\n") == 5
    assert os.stat(tmp_path / "exports" / "a.cursor").st_mode & 0o077 == 0
