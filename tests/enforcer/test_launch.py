import dataclasses
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import pytest

from enforcer.launch import Order
from enforcer.process import read_stat
from mesh.problems import Invalid
from tests.launching import launch
from tests.tools import needs


def order(*argv: str, cwd: pathlib.Path, out: int = 1, **env: str) -> Order:
    return Order(
        argv=argv,
        cwd=str(cwd),
        env={"PATH": os.environ["PATH"], **env},
        uid=os.getuid(),
        gid=os.getgid(),
        streams=(0, out, 2),
    )


def output(found: Order, out: int) -> tuple[str, int, dict[str, str]]:
    child, made = launch(found)
    os.close(found.streams[1])
    with os.fdopen(out, "rb") as file:
        text = file.read().decode()
    return text, child.wait(), dict(made.facts)


def test_argv_directory_environment_and_exit_code_arrive(tmp_path: pathlib.Path) -> None:
    (tmp_path / "app.py").write_text(
        "import os, sys, near\nprint(sys.argv[1:], os.getcwd(), os.environ['X'], near.y, sys.path[0])\nsys.exit(7)\n"
    )
    (tmp_path / "near.py").write_text("y = 'near'\n")
    out, inner = os.pipe()
    text, code, facts = output(order(sys.executable, "app.py", "a b", cwd=tmp_path, out=inner, X="1"), out)
    assert text == f"['a b'] {tmp_path} 1 near {tmp_path}\n"
    assert code == 7
    assert facts["launch:script"] == str(tmp_path / "app.py")
    assert facts["launch:script_basename"] == "app.py"
    assert facts["launch:script_sha256"] == hashlib.sha256((tmp_path / "app.py").read_bytes()).hexdigest()
    assert facts["launch:path"] == facts["unix:path"]


def test_a_symlinked_script_is_the_file_it_leads_to(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real").write_text("print(1)\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    out, inner = os.pipe()
    _, _, facts = output(order(sys.executable, "link", cwd=tmp_path, out=inner), out)
    assert facts["launch:script"] == str(tmp_path / "real")


def test_a_native_program_has_no_script(tmp_path: pathlib.Path) -> None:
    out, inner = os.pipe()
    text, code, facts = output(order("echo", "hi", cwd=tmp_path, out=inner), out)
    assert (text, code) == ("hi\n", 0)
    assert "launch:script" not in facts


def test_what_runs_is_what_was_hashed_whatever_stands_at_the_path_then(launched: Any) -> None:
    before = dict(launched.launch.facts)["launch:script_sha256"]
    launched.script.unlink()
    launched.script.write_text("raise SystemExit('evil')\n")
    assert hashlib.sha256(launched.script.read_bytes()).hexdigest() != before
    launched.do(f"connect {launched.port}")
    assert launched.attest().code == ""


def test_a_session_and_an_image_of_its_own(launched: Any) -> None:
    assert launched.launch.session == launched.launch.pid
    assert launched.launch.session != os.getsid(0)
    assert any(launched.launch.layout)
    assert launched.launch.layout != read_stat(os.getpid()).layout


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        (0o644, "LM3432"),
        pytest.param(0o000, "LM3433", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root reads all")),
    ],
)
def test_what_cannot_be_executed_or_read_is_refused(mode: int, code: str, tmp_path: pathlib.Path) -> None:
    program = tmp_path / "p"
    program.write_bytes(pathlib.Path("/bin/true").read_bytes())
    program.chmod(mode)
    with pytest.raises(Invalid, match=code):
        launch(order("./p", cwd=tmp_path))


def test_a_directory_that_is_not_there_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Invalid, match="LM3432"):
        launch(order("/bin/true", cwd=tmp_path / "none"))


@pytest.mark.system
def test_a_workload_ends_with_its_agent(tmp_path: pathlib.Path) -> None:
    (tmp_path / "app.py").write_text("import signal; signal.pause()\n")
    program = (
        "import os, sys, signal; from enforcer.launch import Order\nfrom tests.launching import launch\n"
        f"c, l = launch(Order(argv=(sys.executable, 'app.py'), cwd={str(tmp_path)!r}, env={{}}, uid=os.getuid(),"
        " gid=os.getgid(), streams=(0, 1, 2)))\n"
        "print(l.pid, flush=True); signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        handle = os.pidfd_open(int(agent.stdout.readline()))
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        import select

        assert select.select([handle], [], [], 60)[0]
        os.close(handle)


def test_a_program_that_ends_at_once_was_launched_all_the_same(tmp_path: pathlib.Path) -> None:
    for _ in range(20):
        child, found = launch(order("/bin/true", cwd=tmp_path))
        assert child.wait() == 0
        assert ("launch:path", str(pathlib.Path("/bin/true").resolve())) in found.facts


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_root_becomes_the_user_and_gives_up_its_groups() -> None:
    out, inner = os.pipe()
    code = "import os; print(os.getresuid(), os.getresgid(), os.getgroups(), flush=True); input()"
    wait, feed = os.pipe()
    found = Order(
        argv=("/usr/bin/python3", "-c", code), cwd="/", env={}, uid=61000, gid=61000, streams=(wait, inner, 2)
    )
    child, made = launch(found)
    assert os.read(out, 200) == b"(61000, 61000, 61000) (61000, 61000, 61000) [61000]\n"
    assert ("unix:uid", "61000") in made.facts
    for handle in (wait, feed, out, inner):
        os.close(handle)
    child.wait()


def test_a_program_that_executes_another_at_once_is_never_recorded_as_the_other(tmp_path: pathlib.Path) -> None:
    wanted, other = (str(pathlib.Path(f"/usr/bin/{name}").resolve()) for name in ("sh", "cat"))
    for _ in range(30):
        wait, feed = os.pipe()
        child, made = launch(dataclasses.replace(order("sh", "-c", "exec cat", cwd=tmp_path), streams=(wait, 1, 2)))
        assert ("launch:path", wanted) in made.facts
        assert other not in dict(made.facts).values()
        os.close(feed)
        os.close(wait)
        assert child.wait() == 0


@needs("setarch")
def test_an_image_that_was_not_placed_at_random_proves_nothing(tmp_path: pathlib.Path) -> None:
    wait, feed = os.pipe()
    found = order("sh", "-c", "exec setarch -R cat", cwd=tmp_path)
    child, made = launch(dataclasses.replace(found, streams=(wait, 1, 2)))
    # the shell is launched; what it executes in the end has the personality
    while pathlib.Path(f"/proc/{made.pid}/exe").readlink().name != "cat":
        os.sched_yield()
    from enforcer.process import is_randomised

    assert is_randomised(os.getpid())
    assert not is_randomised(made.pid)
    os.close(feed)
    os.close(wait)
    child.wait()


def shown(folder: pathlib.Path, *argv: str, **env: str) -> tuple[str, int, dict[str, str]]:
    """What a program printed, its exit code and the facts of its launch."""
    out, inner = os.pipe()
    return output(order(*argv, cwd=folder, out=inner, **env), out)


def python_script(folder: pathlib.Path, name: str, text: str, first: str = "") -> pathlib.Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{first}\n{text}\n")
    path.chmod(0o755)
    return path


WHERE = "import sys; print(sys.argv[1:], sys.path[0], sys.flags.dont_write_bytecode)"


@pytest.mark.parametrize("first", [f"#!{sys.executable}", f"#!{sys.executable} -B", "#!/usr/bin/env python3"])
def test_a_script_with_a_shebang_is_launched_as_that_script(first: str, tmp_path: pathlib.Path) -> None:
    path = python_script(tmp_path, "bin/app", WHERE, first)
    near = str(pathlib.Path(sys.executable).parent)
    text, code, facts = shown(tmp_path, "./bin/app", "a b", "-x", PATH=f"{near}:/usr/bin:/bin")
    # an interpreter of the kernel's gets one option at most; Limen knows the script behind it all the same
    assert text == f"['a b', '-x'] {path.parent} {int(first.endswith('-B'))}\n"
    assert code == 0
    assert facts["launch:script"] == str(path)
    assert facts["launch:path"] == str(pathlib.Path(sys.executable).resolve())


@pytest.mark.parametrize("options", [("-B",), ("-W", "error", "-B"), ("-X", "dev", "-B")], ids=" ".join)
def test_options_of_the_interpreter_come_before_the_script(options: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    python_script(tmp_path, "sub/app", WHERE)
    text, _, facts = shown(tmp_path, sys.executable, *options, "sub/app", "-B")
    assert text == f"['-B'] {tmp_path}/sub 1\n"
    assert facts["launch:script_basename"] == "app"


def test_the_three_streams_are_the_ones_that_were_given(tmp_path: pathlib.Path) -> None:
    feed_end, feed = os.pipe()
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    program = "import sys; print(sys.stdin.read()); print('err', file=sys.stderr)"
    found = order(sys.executable, "-c", program, cwd=tmp_path)
    child, _ = launch(dataclasses.replace(found, streams=(feed_end, out_end, err_end)))
    for handle in (feed_end, out_end, err_end):
        os.close(handle)
    os.write(feed, b"in")
    os.close(feed)
    assert child.wait() == 0
    assert (os.read(out, 10), os.read(err, 10)) == (b"in\n", b"err\n")
    os.close(out)
    os.close(err)


def test_a_native_program_inherits_nothing_but_its_streams(tmp_path: pathlib.Path) -> None:
    text, _, _ = shown(tmp_path, "ls", "/proc/self/fd")
    # the fourth is the directory that ls reads
    assert text.split() == ["0", "1", "2", "3"]
    text, _, _ = shown(tmp_path, "grep", "SigIgn", "/proc/self/status")
    assert int(text.split()[1], 16) & (1 << signal.SIGXFSZ - 1 | 1 << signal.SIGPIPE - 1) == 0


@pytest.mark.parametrize(("program", "code"), [("exit 7", 7), ("kill -9 $$", -9), ("kill -TERM $$", -15)])
def test_the_way_it_ended_is_told(program: str, code: int, tmp_path: pathlib.Path) -> None:
    assert shown(tmp_path, "sh", "-c", program)[1] == code


def test_a_file_that_must_not_be_executed_hides_no_other_on_the_path(tmp_path: pathlib.Path) -> None:
    python_script(tmp_path, "a/tool", "echo a", "#!/bin/sh").chmod(0o644)
    python_script(tmp_path, "b/tool", "echo b", "#!/bin/sh")
    text, _, facts = shown(tmp_path, "tool", PATH=f"{tmp_path}/a:{tmp_path}/b")
    assert (text, facts["launch:script"]) == ("b\n", f"{tmp_path}/b/tool")
    with pytest.raises(Invalid, match="LM3432"):
        launch(order("tool", cwd=tmp_path, PATH=f"{tmp_path}/a"))
    # named to its interpreter it is data, as for a shell
    assert shown(tmp_path, "sh", "a/tool")[0] == "a\n"


def test_an_environment_that_no_kernel_takes_is_refused_with_the_reason(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Invalid, match="LM3432") as caught:
        launch(order("true", cwd=tmp_path, X="a\0b"))
    assert "null byte" in caught.value.message


def test_bytes_that_are_no_text_arrive_as_they_are(tmp_path: pathlib.Path) -> None:
    out, inner = os.pipe()
    child, _ = launch(order("printf", "%s", "\udcff\udc80", cwd=tmp_path, out=inner))
    os.close(inner)
    assert os.read(out, 10) == b"\xff\x80"
    os.close(out)
    assert child.wait() == 0


def test_every_launch_records_the_finished_image(tmp_path: pathlib.Path) -> None:
    for _ in range(50):
        wait, feed = os.pipe()
        out, inner = os.pipe()
        child, made = launch(dataclasses.replace(order("cat", cwd=tmp_path), streams=(wait, inner, 2)))
        os.write(feed, b"x")
        # it runs, so that its image is what it will ever be
        os.read(out, 1)
        assert read_stat(child.pid).layout == made.layout
        # not held any more
        assert read_stat(child.pid).state not in "tTZX"
        for handle in (wait, feed, out, inner):
            os.close(handle)
        child.wait()
