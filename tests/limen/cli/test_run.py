import contextlib
import dataclasses
import os
import pathlib
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enforcer.loading import without
from limen.cli.run import _inbound, _launch, _listening, _order, _outbound
from mesh.problems import Forbidden, Invalid, Problem


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("8443=8080", {"address": "127.0.0.1", "port": 8443, "app_port": 8080}),
        ("10.0.0.1:1=2", {"address": "10.0.0.1", "port": 1, "app_port": 2}),
        ("[::1]:1=2", {"address": "::1", "port": 1, "app_port": 2}),
    ],
)
def test_inbound_mappings(text: str, row: dict[str, object]) -> None:
    assert _inbound(text) == row


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("9001=db", {"local_port": 9001, "service": "db", "port": None}),
        ("9001=db:5432", {"local_port": 9001, "service": "db", "port": 5432}),
    ],
)
def test_outbound_mappings(text: str, row: dict[str, object]) -> None:
    assert _outbound(text) == row


@pytest.mark.parametrize("text", ["", "1", "=1", "1=", "x=1", "0=1", "65536=1", "1=-1", "\u0661=1"])
def test_mappings_that_cannot_be_read(text: str) -> None:
    with pytest.raises(Invalid, match="LM5240"):
        _inbound(text)


@pytest.mark.parametrize("text", ["", "1", "1=", "1=:2", "x=db", "1=db:", "1=db:x"])
def test_outbound_mappings_that_cannot_be_read(text: str) -> None:
    with pytest.raises(Invalid, match="LM5240"):
        _outbound(text)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("8443", {"address": "127.0.0.1", "port": 8443, "app_port": 8443}),
        ("10.0.0.1:1", {"address": "10.0.0.1", "port": 1, "app_port": 1}),
        ("[::1]:1", {"address": "::1", "port": 1, "app_port": 1}),
    ],
)
def test_where_a_program_that_enforces_by_itself_listens(text: str, row: dict[str, object]) -> None:
    assert _listening(text) == row


@pytest.mark.parametrize("text", ["", "x", "1=2", "0", "65536"])
def test_listening_that_cannot_be_read(text: str) -> None:
    with pytest.raises(Invalid, match="LM5240"):
        _listening(text)


@pytest.mark.system
@pytest.mark.parametrize("more", [("--intercept",), ("--outbound", "1=db")], ids=["intercept", "outbound"])
def test_a_program_that_enforces_by_itself_has_no_sidecar(tmp_path: pathlib.Path, more: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limen", "--state", str(tmp_path), "run", "--sdk", *more, "--", "true"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "LM5247" in done.stderr


@pytest.mark.system
@pytest.mark.parametrize("code", [0, 7])
def test_the_programs_exit_code_is_ours(installation: Any, code: int) -> None:
    done = installation.limen("run", "--", sys.executable, "-c", f"print('hi'); raise SystemExit({code})")
    assert (done.stdout, done.returncode) == ("hi\n", code)


@pytest.mark.system
def test_stdin_stderr_directory_and_environment_are_ours(installation: Any, tmp_path: pathlib.Path) -> None:
    program = "import os, sys; print(sys.stdin.read(), os.getcwd(), os.environ['X'], file=sys.stderr)"
    # what of whoever runs the tests would load code is left out, and that is said: not here
    ours, _ = without(os.environ, ())
    done = installation.limen(
        "run", "--", sys.executable, "-c", program, cwd=tmp_path, input="in", env={**ours, "X": "1"}
    )
    # no rule fits it here, which is said too
    assert f"in {tmp_path} 1" in done.stderr.splitlines()


@pytest.mark.system
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--", "no-such-program"), "LM3430"),
        (("--inbound", "nonsense", "--", "true"), "LM5240"),
        (("--inbound", "203.0.113.1:80=81", "--", "true"), "LM3014"),
    ],
    ids=["program", "mapping", "address"],
)
def test_what_cannot_be_launched_says_why(installation: Any, arguments: tuple[str, ...], code: str) -> None:
    done = installation.limen("run", *arguments)
    assert done.returncode in {2, 3}, (installation.state / "stderr").read_text("utf-8")[-8000:]
    assert code in done.stderr


@pytest.mark.system
def test_no_agent_is_exit_status_3(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limen", "--state", str(tmp_path), "run", "--", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "LM3450" in done.stderr


@pytest.mark.system
def test_signals_are_passed_on(installation: Any) -> None:
    program = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9));"
        "print('up', flush=True); signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "limen", "--state", str(installation.state), "run", "--", sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == 9


@contextlib.contextmanager
def paused(found: Any, folder: pathlib.Path, program: str) -> Iterator[subprocess.Popen[str]]:
    """A program under `limen run` that said a line; the supervisor starts no agent again until the end of the block."""
    command = [sys.executable, "-m", "limen", "--state", str(found.state), "run", "--", sys.executable, "-c", program]
    with (
        (folder / "err").open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(found.process.pid, signal.SIGSTOP)
        try:
            yield process
        finally:
            os.kill(found.process.pid, signal.SIGCONT)


@pytest.mark.system
def test_a_program_outlives_its_agent_and_ends_with_its_own_exit_code(
    make_installation: Callable[..., Any], tmp_path: pathlib.Path, until: Callable[..., Any]
) -> None:
    found = make_installation()
    program = "import signal, sys; signal.signal(10, lambda *_: sys.exit(5)); print(flush=True); signal.pause()"
    with paused(found, tmp_path, program) as process:
        os.kill(found.pid("agent"), signal.SIGKILL)
        os.kill(found.process.pid, signal.SIGCONT)
        until(lambda: '"workload taken over"' in (found.state / "stderr").read_text("utf-8"), 200)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=100) == 5


@pytest.mark.system
def test_a_program_that_ends_while_there_is_no_agent_ends_its_run(
    make_installation: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    found = make_installation()
    program = "import signal, sys; signal.signal(15, lambda *_: sys.exit(6)); print(flush=True); signal.pause()"
    with paused(found, tmp_path, program) as process:
        os.kill(found.pid("agent"), signal.SIGKILL)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == 6


@pytest.mark.system
def test_a_program_that_the_next_agent_cannot_go_on_with_is_launched_again(
    make_installation: Callable[..., Any],
    tmp_path: pathlib.Path,
    alive: Callable[[int], bool],
    until: Callable[..., Any],
) -> None:
    found = make_installation()
    program = "import os, signal; print(); print(os.getpid(), flush=True); signal.pause()"
    with paused(found, tmp_path, program) as process:
        assert process.stdout is not None
        first = int(process.stdout.readline())
        agent = found.pid("agent")
        os.kill(agent, signal.SIGKILL)
        until(lambda: not alive(agent))
        for path in (found.state / "agent" / "workloads").iterdir():
            path.unlink()
        os.kill(found.process.pid, signal.SIGCONT)
        process.stdout.readline()
        second = int(process.stdout.readline())
        assert first != second
        assert not alive(first)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == 128 + signal.SIGTERM


@pytest.mark.system
def test_direct_needs_a_rule_that_says_so(make_installation: Callable[..., Any]) -> None:
    found = make_installation()
    found.rules(f'rules:\n- id: x\n  match: {{"unix:uid": "{os.getuid()}"}}\n  spiffe_id: "/x"\n')
    done = found.limen("run", "--direct", "--", sys.executable, "-c", "import signal; signal.pause()")
    assert "LM3504" in done.stderr


@pytest.mark.system
def test_the_program_has_the_limits_and_the_parent_of_where_it_was_asked_for(installation: Any) -> None:
    code = "import os, resource; print(os.getppid(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    # a process of its own sets the limit: here gRPC may have threads, which a child must not have before it executes
    asked = "import os, resource as r, sys; r.setrlimit(r.RLIMIT_NOFILE, (1077, r.getrlimit(r.RLIMIT_NOFILE)[1]))"
    asked += "; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    limen = ["-m", "limen", "--state", str(installation.state), "run", "--", sys.executable, "-c", code]
    with subprocess.Popen([sys.executable, "-c", asked, *limen], stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate()
        assert out.split() == [str(process.pid), "1077"]


@pytest.mark.root
@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_root_runs_a_program_as_another_user_in_its_home_and_groups(installation: Any) -> None:
    code = "import os; print(os.getresuid(), os.getgroups(), os.environ['USER'], os.environ['HOME'])"
    user = pwd.getpwnam("nobody")
    done = installation.limen("run", "--user", "nobody", "--", "/usr/bin/python3", "-c", code)
    groups = os.getgrouplist("nobody", user.pw_gid)
    assert done.stdout == f"{(user.pw_uid,) * 3} {groups} nobody {user.pw_dir}\n"


def test_only_root_says_as_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Forbidden, match="LM5244"):
        _order(("true",), "nobody", None, ())
    assert _order(("true",), None, None, ())[0].uid == 1000


@pytest.mark.parametrize(
    ("user", "group"),
    [("no-such-user", None), (None, "no-such-group"), ("9" * 30, None)],
    ids=["user", "group", "number"],
)
def test_somebody_who_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, user: str | None, group: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Invalid, match="LM5245") as caught:
        _order(("true",), user, group, ())
    assert caught.value.facts["name"] == (user or group)


def test_a_group_of_its_own_goes_before_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    order, _ = _order(("true",), "0", "12", ())
    assert (order.uid, order.gid) == (0, 12)


@pytest.mark.system
@pytest.mark.parametrize("kept", [(), ("--keep-env", "PYTHONPATH")], ids=["without", "kept"])
def test_code_that_the_environment_would_load_is_left_out_unless_it_is_named(
    installation: Any, tmp_path: pathlib.Path, kept: tuple[str, ...]
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('other code')")
    script = tmp_path / "app.py"
    script.write_text("import os; print('the program', os.environ.get('PYTHONPATH'))")
    done = installation.limen(
        *("run", *kept, "--", "/usr/bin/python3", str(script)), env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    # this command itself is a program that the environment has load code, and writes when it ends
    expected = ["other code", f"the program {tmp_path}"] if kept else ["the program None"]
    assert sorted(done.stdout.splitlines()) == sorted(["other code", *expected])
    assert ("LM3436" in done.stderr and "PYTHONPATH" in done.stderr) is not bool(kept)


@pytest.mark.system
def test_the_agent_refuses_a_program_that_was_begun_with_them_all_the_same(
    installation: Any,
) -> None:
    order, _ = _order(("sleep", "60"), None, None, ())
    other = dataclasses.replace(order, env={**order.env, "LD_AUDIT": "/nonexistent.so"})
    message: dict[str, object] = {"type": "launch", "name": "sleep", "inbound": [], "outbound": []}
    with pytest.raises(Problem, match=r"LM3436.*LD_AUDIT"):
        _launch(installation.state / "control.sock", message, other)
