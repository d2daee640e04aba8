import hashlib
import mmap
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from enforcer.process import hash_file, is_randomised, read_process, read_stat
from mesh.problems import Invalid, NotFound
from tests.tools import needs

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
    assert ("unix:gid", str(os.getegid())) in facts
    assert [value for name, value in facts if name == "unix:supplementary-gid"] == sorted(
        {str(gid) for gid in os.getgroups()}, key=int
    )
    assert sum(name == "unix:group" for name, _ in facts) <= 1
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
            signal.pause()
        assert read_stat(pid).layout == mine
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for _ in range(10):
        process = spawn(sys.executable, "-c", "print(1, flush=True); input()")
        assert read_stat(process.pid).layout != mine
        end(process)


def layouts(command: list[str], count: int) -> set[tuple[int, ...]]:
    """The layouts of one program, executed again and again; each is looked at after it has answered."""
    found = set()
    for _ in range(count):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"x")
            process.stdout.read(1)
            found.add(read_stat(process.pid).layout)
            process.stdin.close()
    return found


CAT = "#include <unistd.h>\nint main(void) { char c; while (read(0, &c, 1) == 1) write(1, &c, 1); return 0; }\n"


@pytest.mark.parametrize("options", [[], ["-no-pie"], ["-static"], ["-static-pie"]], ids=" ".join)
def test_executions_of_one_program_never_share_a_layout_however_it_is_linked(
    options: list[str], tmp_path: pathlib.Path
) -> None:
    program = str(tmp_path / "cat")
    if options and shutil.which("gcc") is None:
        pytest.skip("linking in other ways takes a C compiler")
    if options:
        (tmp_path / "cat.c").write_text(CAT)
        built = subprocess.run(["gcc", *options, "-w", "-o", program, str(tmp_path / "cat.c")], check=False)
        if built.returncode != 0:
            pytest.skip("the C library cannot be linked so here")
    else:
        copy_of_cat(tmp_path)
    assert len(layouts([program], 200)) == 200


@needs("setarch")
def test_without_randomisation_all_executions_share_one_and_it_is_noticed() -> None:
    assert len(layouts(["setarch", "-R", "cat"], 20)) == 1
    process = subprocess.Popen(["setarch", "-R", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x")
        process.stdout.read(1)
        assert is_randomised(os.getpid())
        assert not is_randomised(process.pid)
        process.stdin.close()
    assert not is_randomised(GONE)


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


def test_the_hash_notices_a_change_that_does_not_show_in_the_files_times(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 3) as mapped:
        is_hidden = False
        while not is_hidden:
            # the page is dirty from here on: the kernel sees no later write to it, unless it wrote it out in between
            mapped[0:3] = b"one"
            first, before = hash_file(file.fileno()), os.fstat(file.fileno())
            assert first == hashlib.sha256(b"one").hexdigest()
            mapped[0:3] = b"two"
            after = os.fstat(file.fileno())
            assert hash_file(file.fileno()) == hashlib.sha256(b"two").hexdigest()
            is_hidden = (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)


def test_an_executable_changed_between_two_runs_has_another_hash_each_time(tmp_path: pathlib.Path) -> None:
    program = copy_of_cat(tmp_path)
    hashes = set()
    for number in range(20):
        with program.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(bytes([number]))
        with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"x")
            process.stdout.read(1)
            hashes.add(read_process(process.pid).executable.sha256)
            process.stdin.close()
    assert len(hashes) == 20


def test_an_interpreters_digest_is_a_fact_only_of_a_launched_one(tmp_path: pathlib.Path) -> None:
    interpreter = read_process(os.getpid())
    assert "unix:sha256" not in dict(interpreter.facts())
    assert dict(interpreter.facts(is_launched=True))["unix:sha256"] == interpreter.executable.sha256
    process = subprocess.Popen([copy_of_cat(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x\n")
        process.stdin.flush()
        process.stdout.readline()
        found = read_process(process.pid)
        assert dict(found.facts())["unix:sha256"] == found.executable.sha256
    finally:
        end(process)
