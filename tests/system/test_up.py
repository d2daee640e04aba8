"""`limen up` from outside: a stranger's SPIFFE library, programs under `limen run`, kills, and the end."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enforcer import control
from enforcer.guard import table_name
from mesh.problems import Unavailable
from tests.ports import free_port

pytestmark = pytest.mark.system

PY_SPIFFE = """
import json, sys
from spiffe import WorkloadApiClient
with WorkloadApiClient(socket_path=sys.argv[1]) as client:
    svid = client.fetch_x509_svid()
    bundles = client.fetch_x509_bundles()
print(json.dumps({"id": str(svid.spiffe_id), "uris": len(svid.cert_chain), "bundles": len(bundles.bundles)}))
"""
LOOP = """
import os, sys
print(os.getpid(), flush=True)
for line in sys.stdin:
    print(line.strip().upper(), flush=True)
"""


def by_user(uid: int, path: str) -> str:
    return f'rules:\n- id: user\n  match: {{"unix:uid": "{uid}"}}\n  spiffe_id: "{path}"\n  direct: true\n'


def ask_with_py_spiffe(installation: Any) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PY_SPIFFE, f"unix://{installation.state / 'agent.sock'}"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr


@contextlib.contextmanager
def running(installation: Any, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A program under `limen run`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "limen", "--state", str(installation.state), "run", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=100)
        process.stdin.close()
        process.stdout.close()


def status(installation: Any) -> dict[str, Any]:
    """What the agent says; empty while it does not answer."""
    try:
        return dict(control.ask(installation.state / "control.sock", {"type": "status"}))
    except Unavailable:
        return {}


def publish(installation: Any, folder: pathlib.Path, path: str) -> None:
    tree = folder / f"tree{len(list(folder.iterdir()))}"
    tree.mkdir()
    (tree / "db.yaml").write_text(
        "apiVersion: limen.dev/v1\nkind: Service\nmetadata: {name: db, owner: t}\nspec:\n"
        '  identities: ["spiffe://test.limen/db"]\n  ports: [{port: 8443, protocol: http}]\n---\n'
        "apiVersion: limen.dev/v1\nkind: Policy\nmetadata: {name: p, owner: t}\nspec:\n  service: db\n  tier: app\n"
        f'  rules:\n  - {{id: r, effect: allow, from: ["spiffe://test.limen/cart"], to: [{{paths: ["{path}"]}}]}}\n'
    )
    done = installation.limen("policy", "publish", "--policies", str(tree))
    assert done.returncode == 0, done.stderr


def kill_part(installation: Any, name: str, until: Callable[..., Any]) -> None:
    """Kill a part and wait for its successor."""
    pid = installation.pid(name)
    os.kill(pid, signal.SIGKILL)
    until(lambda: (installation.state / "run" / f"{name}.json").exists() and installation.pid(name) != pid, 200)
    until(lambda: status(installation).get("connected") is True, 200)


@pytest.mark.peer
def test_a_strange_program_gets_the_identity_that_a_rule_gives_it_without_a_restart(
    make_installation: Callable[..., Any], until: Callable[..., Any]
) -> None:
    installation = make_installation()
    code, text = ask_with_py_spiffe(installation)
    assert code != 0
    assert "PERMISSION_DENIED" in text
    before = {name: installation.pid(name) for name in ("server", "agent")}
    installation.rules(by_user(os.geteuid(), "/user/me"))
    until(lambda: ask_with_py_spiffe(installation)[0] == 0, 200)
    row = json.loads(ask_with_py_spiffe(installation)[1])
    assert row == {"id": "spiffe://test.limen/user/me", "uris": row["uris"], "bundles": 1}
    # another rule, another identity; no rule, none
    installation.rules(by_user(os.geteuid(), "/user/other"))
    until(lambda: "/user/other" in ask_with_py_spiffe(installation)[1], 200)
    installation.rules(by_user(os.geteuid() + 1, "/user/me"))
    until(lambda: ask_with_py_spiffe(installation)[0] != 0, 200)
    assert {name: installation.pid(name) for name in ("server", "agent")} == before


@pytest.mark.parametrize(
    ("program", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -9 $$", 137)], ids=str
)
def test_run_ends_with_the_programs_exit_code(installation: Any, program: str, code: int) -> None:
    assert installation.limen("run", "--", "sh", "-c", program).returncode == code


def test_run_hands_on_what_comes_in_and_goes_out(installation: Any) -> None:
    done = installation.limen("run", "--", "sh", "-c", "cat; echo err >&2", input="in\n")
    assert (done.stdout, done.returncode) == ("in\n", 0)
    assert "err\n" in done.stderr


def test_run_hands_a_signal_on_to_the_program(installation: Any) -> None:
    program = "trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.01; done"
    with running(installation, "--", "sh", "-c", program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "caught\n"
        assert process.wait(timeout=100) == 3


def test_what_is_killed_comes_back_as_who_it_was(
    make_installation: Callable[..., Any],
    until: Callable[..., Any],
    alive: Callable[[int], bool],
    tmp_path: pathlib.Path,
) -> None:
    installation = make_installation()
    for path in ("/one", "/two"):
        publish(installation, tmp_path, path)
    until(lambda: status(installation).get("epoch") == 2, 200)
    before = status(installation)
    node = (installation.state / "agent" / "node.json").read_bytes()
    (tmp_path / "app.py").write_text(LOOP)
    with running(installation, "--", sys.executable, str(tmp_path / "app.py")) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        first = int(process.stdout.readline())
        # agent and server: workloads do not notice
        kill_part(installation, "agent", until)
        kill_part(installation, "server", until)
        process.stdin.write("still here\n")
        process.stdin.flush()
        assert process.stdout.readline() == "STILL HERE\n"
        assert alive(first)
        after = status(installation)
        assert {name: after[name] for name in ("node", "epoch", "snapshot")} == {
            name: before[name] for name in ("node", "epoch", "snapshot")
        }
        # not joined again: the very certificate, key and pins
        assert (
            json.loads((installation.state / "agent" / "node.json").read_bytes())["chain"] == json.loads(node)["chain"]
        )
        publish(installation, tmp_path, "/three")
        until(lambda: status(installation).get("epoch") == 3, 200)


def test_a_stop_takes_programs_sidecars_and_every_socket_with_it(
    make_installation: Callable[..., Any],
    alive: Callable[[int], bool],
    until: Callable[..., Any],
    tmp_path: pathlib.Path,
) -> None:
    installation = make_installation()
    (tmp_path / "app.py").write_text(LOOP)
    with running(
        installation, "--inbound", f"{free_port()}={free_port()}", "--", sys.executable, str(tmp_path / "app.py")
    ) as process:
        assert process.stdout is not None
        program = int(process.stdout.readline())
        # server, agent, sidecar and program; an agent runs others for a moment
        until(lambda: len({program, *descendants(installation.process.pid)}) == 4)
        pids = [program, *descendants(installation.process.pid)]
        installation.process.send_signal(signal.SIGTERM)
        assert installation.process.wait(timeout=200) == 0
    until(lambda: not any(alive(pid) for pid in pids))
    assert [path for path in installation.state.rglob("*") if path.is_socket()] == []


def test_a_stop_takes_what_a_program_started_with_it(
    make_installation: Callable[..., Any], alive: Callable[[int], bool]
) -> None:
    installation = make_installation()
    with running(installation, "--", "sh", "-c", "sleep 1000 & echo $!; wait") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        handle = os.pidfd_open(pid)
        installation.process.send_signal(signal.SIGTERM)
        assert installation.process.wait(timeout=200) == 0
    is_left = alive(pid)
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    assert not is_left


def test_killing_the_whole_of_it_leaves_no_part_running(
    make_installation: Callable[..., Any],
    alive: Callable[[int], bool],
    until: Callable[..., Any],
    tmp_path: pathlib.Path,
) -> None:
    installation = make_installation()
    (tmp_path / "app.py").write_text(LOOP)
    with running(installation, "--", sys.executable, str(tmp_path / "app.py")) as process:
        assert process.stdout is not None
        program = int(process.stdout.readline())
        pids = [program, *descendants(installation.process.pid)]
        installation.process.kill()
        installation.process.wait(timeout=100)
        until(lambda: not any(alive(pid) for pid in pids))


def descendants(pid: int) -> list[int]:
    """The processes below one, sidecars and workloads among them."""
    found: list[int] = []
    # one that ends meanwhile has none
    with contextlib.suppress(OSError):
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text("ascii").split():
                found += [int(child), *descendants(int(child))]
    return found


def guards_of(state: pathlib.Path) -> set[str]:
    """The tables of one installation: others' come and go beside it."""
    text = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    return {line for line in text.splitlines() if table_name(state) in line}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="packet filters take root and nft")
def test_an_agent_that_was_killed_leaves_no_guard_behind_that_its_successor_does_not_own(
    make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    installation = make_installation()
    (tmp_path / "app.py").write_text(LOOP)
    with running(
        installation, "--inbound", f"{free_port()}={free_port()}", "--", sys.executable, str(tmp_path / "app.py")
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(guards_of(installation.state)) == 1
        kill_part(installation, "agent", until)
        until(lambda: status(installation).get("workloads"), 200)
        while_running = guards_of(installation.state)
    until(lambda: status(installation).get("workloads") == [])
    left = guards_of(installation.state)
    for table in left:
        subprocess.run(["nft", "delete", *table.split()], check=True)
    assert (len(while_running), left) == (1, set())
