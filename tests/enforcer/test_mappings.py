import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from enforcer.mappings import foreign_code
from enforcer.process import read_process
from mesh.problems import NotFound

SOMEBODY = 61000
LIBRARY = re.search(r"(/\S+/libc\.so\.6)$", pathlib.Path("/proc/self/maps").read_text(), re.MULTILINE)
Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """A program of root's, /bin/sleep, that runs once it is returned."""
    begun: list[subprocess.Popen[bytes]] = []

    def run(**environment: str) -> int:
        process = subprocess.Popen(["/bin/sleep", "600"], env=environment)
        begun.append(process)
        # it sleeps when everything is loaded
        while "nanosleep" not in pathlib.Path(f"/proc/{process.pid}/wchan").read_text() and not _sleeps(process.pid):
            os.sched_yield()
        return process.pid

    yield run
    for process in begun:
        process.kill()
        process.wait()


def _sleeps(pid: int) -> bool:
    call = pathlib.Path(f"/proc/{pid}/syscall")
    return call.exists() and call.read_text().split(" ")[0] in {"35", "230", "101", "115"}


@pytest.fixture
def library(tmp_path: pathlib.Path) -> pathlib.Path:
    """A library that belongs to somebody, as one that was slipped under a program would."""
    assert LIBRARY is not None
    found = tmp_path / "libother.so"
    source = next(pathlib.Path(LIBRARY[1]).parent.glob("libm.so.6"))
    shutil.copy(source, found)
    if os.geteuid() == 0:
        os.chown(found, SOMEBODY, SOMEBODY)
    return found


def test_a_program_with_the_systems_libraries_executes_nothing_foreign(start: Start) -> None:
    pid = start()
    assert foreign_code(pid, 0) == ""
    assert dict(read_process(pid).facts())["unix:sha256"]


def test_a_library_of_somebody_elses_is_seen_and_the_digest_is_no_fact_then(
    start: Start, library: pathlib.Path
) -> None:
    pid = start(LD_PRELOAD=str(library))
    owner = library.stat().st_uid
    assert foreign_code(pid, 0) == str(library)
    assert foreign_code(pid, owner) == ""
    process = read_process(pid)
    assert process.foreign == str(library)
    assert "unix:sha256" not in dict(process.facts())
    assert dict(process.facts())["unix:path"].endswith("/sleep")
    # a launch looked at the environment before anything was loaded
    assert dict(process.facts(is_launched=True))["unix:sha256"]


@pytest.mark.skipif(os.geteuid() != 0, reason="the owner of a file without a name is root's to ask")
@pytest.mark.root
def test_it_is_seen_too_when_its_file_was_removed_or_replaced(start: Start, library: pathlib.Path) -> None:
    pid = start(LD_PRELOAD=str(library))
    library.unlink()
    assert foreign_code(pid, 0) == f"{library} (deleted)"
    shutil.copy("/bin/true", library)
    assert foreign_code(pid, 0) == f"{library} (deleted)"


def test_a_process_that_is_gone_is_not_found() -> None:
    with pytest.raises(NotFound, match="LM3401"):
        foreign_code(2**22 - 1, 0)
