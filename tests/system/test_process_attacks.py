"""Other programs at a workload's way out, on a running installation: each is refused by a decision that says why.

What hangs on the moment at which a process is looked at (descriptors that are passed on, a pid that is taken over, a
program that executes another after it connected) is tried at chosen moments in `tests/enforcer/test_attest.py`.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ports import free_port

pytestmark = [pytest.mark.system, pytest.mark.slow]
PYTHON = os.path.realpath(sys.executable)
SEIZE, INTERRUPT, CONT, DETACH, WALL = 0x4206, 0x4207, 7, 17, 0x40000000

# connects, asks by HTTP and says what came back
CLIENT = """
import socket, sys
def ask(port):
    with socket.create_connection(("127.0.0.1", int(port)), 30) as sock:
        sock.sendall(b"GET / HTTP/1.1\\r\\nHost: db\\r\\n\\r\\n")
        data = b""
        while part := sock.recv(65536): data += part
    return data.decode("latin-1").encode("unicode_escape").decode()
"""
VICTIM = (
    CLIENT
    + """
import os, subprocess
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "pid":
        print(os.getpid(), flush=True)
    elif word == "ask":
        print(ask(rest), flush=True)
    else:
        # a child that is another file from its exec on, under the program's own name
        path, own, program, port = rest.split(" ")
        if word == "memory-file":
            handle = os.memfd_create("x", 0); os.write(handle, open(own, "rb").read()); path = f"/proc/self/fd/{handle}"
        else:
            open(path, "wb").write(open(own, "rb").read()); os.chmod(path, 0o755)
        code = f"import os; os.path.exists({path!r}) and {word!r} == 'deleted' and os.unlink({path!r})"
        code += f"\\nimport sys; sys.argv = ['x', {port!r}]\\n" + open(program).read()
        pid = os.fork()
        if pid == 0:
            os.execve(path, [own, "-c", code], dict(os.environ))
        os.waitpid(pid, 0)
"""
)
# a program of its own that does the same
STRANGER = CLIENT + "print(ask(sys.argv[1]), flush=True)\n"


class Scene:
    """A launched victim with a way out."""

    def __init__(self, installation: Any, folder: pathlib.Path, port: int, victim: subprocess.Popen[str]) -> None:
        self.installation, self.folder, self.port, self.victim = installation, folder, port, victim

    def do(self, text: str) -> str:
        assert self.victim.stdin is not None
        assert self.victim.stdout is not None
        self.victim.stdin.write(text + "\n")
        self.victim.stdin.flush()
        return self.victim.stdout.readline().encode().decode("unicode_escape")

    def run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
        return done.stdout.encode().decode("unicode_escape")


@pytest.fixture(scope="module")
def scene(own_installation: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("attacks")
    (folder / "victim").write_text(VICTIM)
    (folder / "stranger").write_text(STRANGER)
    own_installation.rules(
        f'rules:\n- id: s\n  match: {{"launch:script": "{folder}/*"}}\n  spiffe_id: "/{{launch:script_basename}}"\n'
    )
    port = free_port()
    words = ["run", "--outbound", f"{port}=db", "--", sys.executable, str(folder / "victim")]
    with subprocess.Popen(
        [sys.executable, "-m", "limen", "--state", str(own_installation.state), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as victim:
        found = Scene(own_installation, folder, port, victim)
        # the genuine program is let through, as far as a service that is not there
        while "LM3221" not in found.do(f"ask {port}"):
            continue
        yield found
        victim.terminate()


def another_program(scene: Scene) -> str:
    return scene.run("/usr/bin/env", "python3", str(scene.folder / "stranger"), str(scene.port))


def another_script_under_the_same_interpreter(scene: Scene) -> str:
    return scene.run(sys.executable, str(scene.folder / "stranger"), str(scene.port))


def the_script_swapped_at_its_path(scene: Scene) -> str:
    swapped = scene.folder / "victim"
    genuine = swapped.read_text()
    swapped.unlink()
    swapped.write_text(STRANGER)
    try:
        return scene.run(sys.executable, str(swapped), str(scene.port))
    finally:
        swapped.unlink()
        swapped.write_text(genuine)


def the_genuine_program_with_other_modules(scene: Scene) -> str:
    (scene.folder / "sitecustomize.py").write_text(f"import sys\nsys.argv = ['x', '{scene.port}']\n" + STRANGER)
    environment = {**os.environ, "PYTHONPATH": str(scene.folder)}
    done = subprocess.run(
        [sys.executable, "-c", ""], env=environment, capture_output=True, text=True, timeout=200, check=True
    )
    return done.stdout.encode().decode("unicode_escape")


def a_copied_interpreter(scene: Scene) -> str:
    copy = scene.folder / "python-copy"
    shutil.copy(PYTHON, copy)
    # it finds its library where the one it was copied from has it
    return scene.run(
        "/usr/bin/env", f"PYTHONHOME={sys.base_prefix}", str(copy), str(scene.folder / "stranger"), str(scene.port)
    )


def a_symbolic_link(scene: Scene) -> str:
    link = scene.folder / "python-link"
    link.symlink_to(PYTHON)
    return scene.run(str(link), str(scene.folder / "stranger"), str(scene.port))


def a_child(how: str) -> Callable[[Scene], str]:
    def run(scene: Scene) -> str:
        return scene.do(f"{how} {scene.folder / how} {PYTHON} {scene.folder / 'stranger'} {scene.port}")

    return run


def ptrace(scene: Scene) -> str:
    pid = int(scene.do("pid"))
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (SEIZE, INTERRUPT):
        assert libc.ptrace(request, pid, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(pid, WALL)
    try:
        assert libc.ptrace(CONT, pid, None, None) == 0
        return scene.do(f"ask {scene.port}")
    finally:
        with contextlib.suppress(ChildProcessError):
            assert libc.ptrace(INTERRUPT, pid, None, None) == 0
            os.waitpid(pid, WALL)
        libc.ptrace(DETACH, pid, None, None)


ATTACKS: dict[str, tuple[Callable[[Scene], str], str]] = {
    "another-program-same-user-same-cgroup": (another_program, "LM3422"),
    "another-script-same-interpreter": (another_script_under_the_same_interpreter, "LM3422"),
    "script-swap": (the_script_swapped_at_its_path, "LM3422"),
    "PYTHONPATH": (the_genuine_program_with_other_modules, "LM3422"),
    "copied-binary": (a_copied_interpreter, "LM3422"),
    "symlink": (a_symbolic_link, "LM3422"),
    "child-copied-binary": (a_child("copied"), "LM3423"),
    "memfd": (a_child("memory-file"), "LM3423"),
    "deleted-executable": (a_child("deleted"), "LM3423"),
    "ptrace": (ptrace, "LM3427"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_and_the_decision_says_why(scene: Scene, name: str, until: Callable[..., Any]) -> None:
    attack, code = ATTACKS[name]
    answer = attack(scene)
    assert answer.startswith("HTTP/1.1 403 "), answer
    body = json.loads(answer[answer.index("{") :])
    assert (body["code"], body["why"]) == (code, f"limen audit show {body['decision']}")
    assert body["help"]

    def shown() -> str:
        done = scene.installation.limen("audit", "show", body["decision"])
        return done.stdout if done.returncode == 0 else ""

    text = until(shown, 200)
    assert code in text
    assert str(scene.port) in text
    # the genuine program goes on meanwhile
    assert "LM3221" in scene.do(f"ask {scene.port}")
