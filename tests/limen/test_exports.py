import asyncio
import json
import os
import pathlib
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import prometheus_client
import pytest

from audit.cursor import Cursor
from limen.exports import Exports, keep_exporting
from tests.audit.making import ORIGIN, make, make_log, open_log

PATIENT_S = 120.0


class Recording:
    """Exports of a state whose records are kept."""

    def __init__(self, state: pathlib.Path) -> None:
        self.state = state
        self.rows: list[dict[str, Any]] = []
        self.size = 0

    def open(self) -> Exports:
        def record(kind: str, actor: str, **fields: object) -> None:
            self.rows.append({"kind": kind, "actor": actor, **fields})

        return Exports(self.state, record, lambda: self.size)

    def write(self, *names: str, to: str = "file:///x/") -> None:
        rows = "".join(f"- {{name: {name}, to: '{to}{name}'}}\n" for name in names)
        (self.state / "exports.yaml").write_text("exports:\n" + rows if names else "exports: []")

    def told(self) -> list[tuple[object, object]]:
        found = [(row["event"], row["export"]) for row in self.rows]
        self.rows.clear()
        return found


@pytest.fixture
def recording(tmp_path: pathlib.Path) -> Recording:
    for name in ("server", "exports"):
        (tmp_path / name).mkdir()
    return Recording(tmp_path)


def test_every_begin_change_and_end_is_a_record_and_a_restart_is_none(recording: Recording) -> None:
    exports = recording.open()
    exports.refresh()
    assert (recording.told(), exports.is_any, exports.reports()) == ([], False, [])
    recording.write("a", "b")
    exports.refresh()
    exports.refresh()
    assert recording.rows[0] == {
        "kind": "export", "actor": "server", "event": "begin", "export": "a", "to": "file:///x/a", "format": "jsonl",
        "kinds": [], "from": "beginning",
    }  # fmt: skip
    assert (recording.told(), exports.is_any) == ([("begin", "a"), ("begin", "b")], True)
    again = recording.open()
    again.refresh()
    assert (recording.told(), again.is_any) == ([], True)
    recording.write("a", "bb", to="file:///y/")
    again.refresh()
    assert recording.told() == [("change", "a"), ("end", "b"), ("begin", "bb")]
    recording.write()
    recording.open().refresh()
    assert recording.told() == [("end", "a"), ("end", "bb")]


def test_a_file_with_an_error_ends_nothing_even_after_a_restart(recording: Recording) -> None:
    recording.write("a")
    recording.open().refresh()
    recording.told()
    recording.write("A")
    again = recording.open()
    again.refresh()
    assert (recording.told(), again.is_any) == ([], True)
    assert again.reports()[0]["in_force"] is False


def test_an_export_that_ended_leaves_no_cursor_for_one_that_gets_its_name(recording: Recording) -> None:
    recording.write("a", "b")
    exports = recording.open()
    exports.refresh()
    for name in ("a", "b"):
        Cursor(recording.state / "exports" / f"{name}.cursor", ORIGIN).save(7)
    recording.write("b", to="file:///other/")
    exports.refresh()
    assert [path.name for path in (recording.state / "exports").iterdir()] == ["b.cursor"]


def test_versions_grow_with_what_is_wanted(recording: Recording) -> None:
    exports = recording.open()
    exports.refresh()
    first = exports.version
    exports.refresh()
    assert exports.version == first
    recording.write("a")
    exports.refresh()
    assert exports.version == first + 1


def test_the_lag_is_a_metric(recording: Recording) -> None:
    recording.write("metered")
    recording.size = 10
    exports = recording.open()
    exports.refresh()
    Cursor(recording.state / "exports" / "metered.cursor", ORIGIN).save(7)
    exports.measure()
    value = prometheus_client.REGISTRY.get_sample_value("limen_audit_export_lag_records", {"export": "metered"})
    assert value == 3
    recording.write()
    exports.refresh()
    assert prometheus_client.REGISTRY.get_sample_value("limen_audit_export_lag_records", {"export": "metered"}) is None


def test_an_export_by_hand_is_a_record(recording: Recording) -> None:
    recording.open().once(actor="root", to="-", format="ocsf", since=None, until=None, kinds=[])
    assert recording.rows[0]["event"] == "once"
    assert recording.rows[0]["actor"] == "root"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENT_S):
        while not condition():
            await asyncio.sleep(0.05)


def children() -> list[int]:
    """The exporting processes of this one."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if b"limen.exporter" in words and parent == os.getpid():
            found.append(int(path.name))
    return found


@pytest.mark.slow
@pytest.mark.system
def test_the_process_that_exports_is_started_again_when_it_is_killed_and_ends_with_the_server(
    recording: Recording,
) -> None:
    state = recording.state
    make_log(state / "audit", 30)
    out = state / "out"
    out.mkdir()

    def count(name: str) -> int:
        file = out / name
        return file.read_bytes().count(b"\n") if file.exists() else 0

    async def scenario() -> None:
        stop = asyncio.Event()
        exports = recording.open()
        exports.refresh()
        with ThreadPoolExecutor(1) as worker:
            task = asyncio.ensure_future(keep_exporting(exports, state, worker, stop))
            recording.write("a", to=f"file://{out}/")
            exports.refresh()
            await until(lambda: count("a") == 30)
            (first,) = children()
            os.kill(first, signal.SIGKILL)
            log = open_log(state / "audit")
            log.append([make(number) for number in range(30, 40)])
            log.close()
            await until(lambda: count("a") >= 40)
            # a change of the settings is another process
            (second,) = children()
            recording.write("a", "b", to=f"file://{out}/")
            exports.refresh()
            await until(lambda: count("b") == 40)
            assert first != second
            stop.set()
            await task
        assert children() == []

    asyncio.run(scenario())
    assert {json.loads(line)["n"] for line in (out / "a").read_bytes().splitlines()} == set(range(40))
