import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from enforcer.process import hash_file, read_process, read_stat
from mesh.problems import Invalid, NotFound

GONE = 2**22 - 3


def spawn(*command: str | pathlib.Path) -> subprocess.Popen[bytes]:
    """A process that said something, so that it has executed what it should."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def copy_of_cat(folder: pathlib.Path, name: str = "cat") -> pathlib.Path:
    found = shutil.which("cat")
    assert found is not None
    return pathlib.Path(shutil.copy(pathlib.Path(found).resolve(), folder / name))


def test_this_process_is_who_the_kernel_says() -> None:
    found = read_process(os.getpid())
    facts = found.facts()
    assert ("unix:uid", str(os.geteuid())) in facts
    assert ("unix:path", str(pathlib.Path(sys.executable).resolve())) in facts
    assert found.session == os.getsid(0)
    assert len(found.executable.sha256) == 64


def test_a_process_that_is_gone_is_not_found() -> None:
    for read in (read_stat, read_process):
        with pytest.raises(NotFound, match="LM3401"):
            read(GONE)


def test_a_name_with_spaces_and_parentheses_does_not_confuse(tmp_path: pathlib.Path) -> None:
    program = copy_of_cat(tmp_path, "a) R 1 (b")
    process = subprocess.Popen([program], stdin=subprocess.PIPE)
    assert read_stat(process.pid).ppid == os.getpid()
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def test_a_fork_keeps_the_layout_and_an_exec_never_does() -> None:
    mine = read_stat(os.getpid()).layout
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            os.pause() if hasattr(os, "pause") else __import__("signal").pause()
        assert read_stat(pid).layout == mine
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    for _ in range(10):
        process = spawn(sys.executable, "-c", "print(1, flush=True); input()")
        assert read_stat(process.pid).layout != mine
        end(process)


@pytest.mark.parametrize("how", ["deleted", "replaced", "memfd"])
def test_an_executable_that_cannot_be_looked_at_again_is_refused(how: str, tmp_path: pathlib.Path) -> None:
    program = copy_of_cat(tmp_path)
    if how == "memfd":
        handle = os.memfd_create("cat", 0)
        os.write(handle, program.read_bytes())
        process = subprocess.Popen([f"/proc/self/fd/{handle}"], stdin=subprocess.PIPE, pass_fds=[handle])
        os.close(handle)
    else:
        process = subprocess.Popen([program], stdin=subprocess.PIPE)
        program.unlink()
        if how == "replaced":
            copy_of_cat(tmp_path)
    with pytest.raises(Invalid, match="LM3402"):
        read_process(process.pid)
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def test_the_hash_is_of_the_content_and_notices_a_change(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    with path.open("rb") as file:
        first = hash_file(file.fileno())
        assert hash_file(file.fileno()) == first
    path.write_bytes(b"two")
    with path.open("rb") as file:
        assert hash_file(file.fileno()) != first
