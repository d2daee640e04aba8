import datetime as dt
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.cursor import Cursor
from audit.pump import MAX_BATCH_BYTES, Pump, wait_after
from audit.reader import Reader
from mesh.problems import Problem, Unavailable
from tests.audit.making import ORIGIN, START, make, make_log, open_log


class Keeping:
    """A sink in memory that fails when it is told to, after it took the batch or before."""

    linger_s = 0.0

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self.got: list[tuple[int, bytes]] = []
        self.fails_before = self.fails_after = False

    def send(self, records: Sequence[tuple[int, bytes]]) -> None:
        if self.fails_before:
            raise Unavailable("LM6101", to="memory", reason="told to")
        self.got += records
        if self.fails_after:
            raise Unavailable("LM6101", to="memory", reason="told to")

    def close(self) -> None:
        """Nothing."""


def pump_of(tmp_path: pathlib.Path, sink: Keeping, **more: object) -> Pump:
    return Pump(cursor=Cursor(tmp_path / "cursor", ORIGIN), sink=sink, **more)  # type: ignore[arg-type]


def drain(pump: Pump, reader: Reader) -> None:
    while pump.step(reader):
        pass


def test_every_record_is_delivered_in_order_and_later_ones_after_them(tmp_path: pathlib.Path) -> None:
    key = make_log(tmp_path / "log", 10)
    sink = Keeping()
    pump = pump_of(tmp_path, sink)
    drain(pump, Reader(tmp_path / "log", key))
    log = open_log(tmp_path / "log")
    log.append([make(number) for number in range(10, 300)])
    log.close()
    drain(pump, Reader(tmp_path / "log", key))
    assert sink.got == [(number, make(number)) for number in range(300)]
    assert (pump.next, pump.delivered) == (300, 300)


@given(st.lists(st.sampled_from(["step", "before", "after", "restart"]), max_size=12))
@settings(max_examples=15)
def test_whatever_fails_nothing_is_skipped(tmp_path_factory: pytest.TempPathFactory, events: list[str]) -> None:
    folder = tmp_path_factory.mktemp("pump")
    key = make_log(folder / "log", 30)
    reader, sink = Reader(folder / "log", key), Keeping()
    pump = pump_of(folder, sink)
    for event in [*events, *["step"] * 10]:
        sink.fails_before, sink.fails_after = event == "before", event == "after"
        if event == "restart":
            pump = pump_of(folder, sink)
            continue
        try:
            pump.step(reader)
        except Problem as problem:
            assert problem.code == "LM6101"
    assert {index for index, _ in sink.got} == set(range(30))
    # in order, but for what comes again
    seen = -1
    for index, _ in sink.got:
        assert index <= seen + 1
        seen = max(seen, index)


def test_what_is_not_selected_is_passed(tmp_path: pathlib.Path) -> None:
    key = make_log(tmp_path / "log", 10)
    sink = Keeping()
    pump = pump_of(tmp_path, sink, since=START + dt.timedelta(seconds=3), until=START + dt.timedelta(seconds=5))
    drain(pump, Reader(tmp_path / "log", key))
    assert ([index for index, _ in sink.got], pump.next) == ([3, 4], 10)
    other = Keeping()
    (tmp_path / "cursor").unlink()
    drain(pump_of(tmp_path, other, kinds={"review"}), Reader(tmp_path / "log", key))
    assert other.got == []


def test_a_batch_has_bounded_bytes(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path / "log")
    log.append([make(number, text="x" * 60_000) for number in range(40)])
    log.close()
    key = (tmp_path / "log" / "key.pub").read_text()
    sink = Keeping(most=1000)
    passed = pump_of(tmp_path, sink).step(Reader(tmp_path / "log", key))
    assert passed == MAX_BATCH_BYTES // 60_000 + 1


def test_a_log_that_lost_records_is_not_exported_as_if_nothing_had_happened(tmp_path: pathlib.Path) -> None:
    key = make_log(tmp_path / "log", 10)
    Cursor(tmp_path / "cursor", ORIGIN).save(11)
    with pytest.raises(Problem) as caught:
        pump_of(tmp_path, Keeping()).step(Reader(tmp_path / "log", key))
    assert caught.value.code == "LM6102"


def test_waits_grow_to_a_minute() -> None:
    assert [wait_after(count) for count in (0, 1, 2, 3, 8, 10_000)] == [0.5, 0.5, 1.0, 2.0, 60.0, 60.0]


# one export of a log to a file, at full speed, until it is killed
EXPORTS = """
import pathlib, sys
from audit.cursor import Cursor
from audit.formats.forms import FORMS
from audit.pump import Pump
from audit.reader import Reader
from audit.sinks.appending import FileSink
folder = pathlib.Path(sys.argv[1])
sink = FileSink(folder / "out", FORMS["jsonl"], 20_000)
sink.most = 7
pump = Pump(cursor=Cursor(folder / "cursor", sys.argv[2]), sink=sink)
reader = Reader(folder / "log", (folder / "log" / "key.pub").read_text())
while pump.step(reader):
    pass
"""


@pytest.mark.slow
def test_an_export_that_is_killed_at_any_moment_delivers_all(tmp_path: pathlib.Path) -> None:
    make_log(tmp_path / "log", 600)
    words = [sys.executable, "-c", EXPORTS, str(tmp_path), ORIGIN]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent.parent.parent)}
    for kills in range(6):
        before = sum(path.stat().st_size for path in tmp_path.glob("out*"))
        process = subprocess.Popen(words, env=environment)
        # it is killed while it writes: some bytes more than it began with
        while process.poll() is None:
            if sum(path.stat().st_size for path in tmp_path.glob("out*")) > before + 997 * kills:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.001)
    subprocess.run(words, env=environment, check=True, timeout=120)
    lines = [line for path in tmp_path.glob("out*") for line in path.read_bytes().splitlines()]
    assert set(lines) == {make(number) for number in range(600)}
