import asyncio
import pathlib
import struct
from collections.abc import Callable

import pytest

from limen import filewatch
from limen.filewatch import FileWatch, read_events
from tests.handles import handles, nothing_stays_open


def replaced(path: pathlib.Path) -> None:
    other = path.with_suffix(".new")
    other.write_text("a")
    other.rename(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.write_text("b"), id="written"),
        pytest.param(replaced, id="replaced"),
        pytest.param(lambda path: path.unlink(), id="removed"),
        pytest.param(lambda path: path.rename(path.with_suffix(".old")), id="moved-away"),
    ],
)
def test_every_way_to_change_a_file_is_told(change: Callable[[pathlib.Path], object], tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("a")

    async def main() -> None:
        before = handles()
        woken = asyncio.Event()
        watch = FileWatch([path, tmp_path / "other.yaml"], woken.set)
        assert watch.is_open
        (tmp_path / "unrelated").write_text("x")
        for _ in range(3):
            await asyncio.sleep(0)
        assert not woken.is_set()
        change(path)
        async with asyncio.timeout(60):
            await woken.wait()
        watch.close()
        watch.close()
        assert nothing_stays_open(before)

    asyncio.run(main())


def test_without_a_directory_to_watch_nobody_is_woken_and_nothing_leaks(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        before = handles()
        assert not FileWatch([tmp_path / "gone" / "x"], lambda: None).is_open
        assert nothing_stays_open(before)

    asyncio.run(main())


def test_lost_events_count_as_a_change() -> None:
    lost = struct.pack("iIII", -1, 0x4000, 0, 0)
    named = struct.pack("iIII", 3, 8, 0, 16) + b"rules.yaml".ljust(16, b"\0")
    assert read_events(lost + named) == [(-1, b""), (3, b"rules.yaml")]
    assert filewatch.read_events(b"") == []
