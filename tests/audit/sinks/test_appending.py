import os
import pathlib
import stat

import pytest

from audit.formats.forms import FORMS
from audit.sinks.appending import FileSink, StdoutSink
from mesh.problems import Problem
from tests.audit.making import make

RECORDS = [(number, make(number)) for number in range(10)]


def sink_of(path: pathlib.Path, rotate: int = 1 << 20) -> FileSink:
    return FileSink(path, FORMS["jsonl"], rotate)


def lines(path: pathlib.Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_records_are_appended_whole(tmp_path: pathlib.Path) -> None:
    sink = sink_of(tmp_path / "a")
    sink.send(RECORDS[:3])
    sink.close()
    sink.send(RECORDS[3:])
    sink.close()
    assert lines(tmp_path / "a") == [data for _, data in RECORDS]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


@pytest.mark.parametrize("torn", [b"{", b"x" * 200_000])
@pytest.mark.parametrize("whole", [0, 2])
def test_a_line_that_a_crash_tore_is_cut_off(torn: bytes, whole: int, tmp_path: pathlib.Path) -> None:
    sink = sink_of(tmp_path / "a")
    if whole:
        sink.send(RECORDS[:whole])
        sink.close()
    with (tmp_path / "a").open("ab") as file:
        file.write(torn)
    sink.send(RECORDS[whole:])
    assert lines(tmp_path / "a") == [data for _, data in RECORDS]
    sink.close()


def test_a_large_file_is_put_aside(tmp_path: pathlib.Path) -> None:
    sink = sink_of(tmp_path / "a", 300)
    for item in RECORDS:
        sink.send([item])
    sink.close()
    parts = sorted(tmp_path.iterdir(), key=lambda path: (path.name == "a", path.name))
    assert len(parts) > 2
    assert all(path.name == "a" or path.name[2:].isdigit() for path in parts)
    assert [line for path in parts for line in lines(path)] == [data for _, data in RECORDS]


def test_a_link_is_not_followed(tmp_path: pathlib.Path) -> None:
    os.symlink(tmp_path / "elsewhere", tmp_path / "a")
    with pytest.raises(Problem) as caught:
        sink_of(tmp_path / "a").send(RECORDS)
    assert caught.value.code == "LM6101"
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_is_said_and_what_it_tore_is_cut_off() -> None:
    # the kernel's own full device
    with pytest.raises(Problem) as caught:
        sink_of(pathlib.Path("/dev/full")).send(RECORDS)
    assert caught.value.code == "LM6101"


def test_stdout_gets_lines(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    sink = StdoutSink(FORMS["jsonl"])
    sink.send(RECORDS[:2])
    sink.close()
    assert capfdbinary.readouterr().out.splitlines() == [data for _, data in RECORDS[:2]]
