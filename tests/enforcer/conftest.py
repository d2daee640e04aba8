"""A launched script that connects where it is told, and what the agent would say of the connection."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from enforcer.attest import Attested, Launch, attest_connection
from enforcer.launch import Order
from enforcer.session import members
from enforcer.sight import Sight, open_sight
from enforcer.sockdiag import SockDiag
from tests.launching import launch

# what the workload does for the tests: each line on stdin is one thing to do, each answered by a line
WORKLOAD = """
import json, os, socket, sys, time
kept = []
def connect(port):
    c = socket.create_connection(("127.0.0.1", port)); c.set_inheritable(True); kept.append(c); return c
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "connect":
        connect(int(rest)); print("ok", flush=True)
    elif word == "fork":
        pid = os.fork()
        if pid == 0:
            connect(int(rest)); print(os.getpid(), flush=True); time.sleep(600); os._exit(0)
        kept.append(pid)
    elif word == "setsid":
        pid = os.fork()
        if pid == 0:
            os.setsid(); connect(int(rest)); print(os.getpid(), flush=True); time.sleep(600); os._exit(0)
    elif word == "orphan":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while os.getppid() == os.getsid(0): time.sleep(0.01)
                connect(int(rest)); print(os.getpid(), flush=True); time.sleep(600)
            os._exit(0)
        os.wait()
    elif word == "setsid-exec":
        if os.fork() == 0:
            os.setsid(); connect(int(rest))
            code = "import os; print(os.getpid(), flush=True); __import__('time').sleep(600)"
            os.execv(sys.executable, [sys.executable, "-c", code])
    elif word == "exec":
        connect(int(rest)); os.execv(sys.executable, [sys.executable, "-c", "print('ok', flush=True); input()"])
    elif word == "exec-self":
        connect(int(rest)); os.execv(sys.executable, [sys.executable, os.readlink(sys.argv[0])])
    elif word == "child":
        import subprocess
        c = connect(int(rest)); subprocess.Popen(["/bin/sleep", "600"], pass_fds=[c.fileno()]); print("ok", flush=True)
    elif word == "run":
        import subprocess
        subprocess.Popen([sys.executable, *rest.split(" ")], stdin=subprocess.PIPE)
    elif word == "hold":
        how, path, port = rest.split(" ")
        program, own = "/proc/self/exe", os.path.realpath(sys.executable)
        pid = os.fork()
        if pid == 0:
            connect(int(port)).set_inheritable(True)
            if how == "symlink":
                os.symlink(own, path); program = path
            elif how == "memory-file":
                handle = os.memfd_create("x", 0); os.write(handle, open(own, "rb").read())
                program = f"/proc/self/fd/{handle}"
            else:
                open(path, "wb").write(open(own, "rb").read()); os.chmod(path, 0o755); program = path
            say = f"import os; os.path.exists({path!r}) and {how!r} == 'deleted' and os.unlink({path!r})"
            # isolated: a copied interpreter finds its library where this one has it
            os.execve(program, [own, "-c", say + "; print(os.getpid(), flush=True); input()"], {**os.environ})
        os.wait()
    elif word == "fork-as":
        import ctypes, struct
        number = ctypes.c_int(int(rest)); arguments = (ctypes.c_uint64 * 11)()
        arguments[4] = 17; arguments[8] = ctypes.addressof(number); arguments[9] = 1
        pid = ctypes.CDLL(None).syscall(435, arguments, 88)
        if pid == 0:
            time.sleep(600); os._exit(0)
        print(pid, flush=True)
    elif word == "receive":
        u = socket.socket(socket.AF_UNIX); u.connect(rest); kept.append(socket.recv_fds(u, 1, 1)[1]); u.send(b"x")
        print("ok", flush=True)
    elif word == "pass":
        port, path = rest.split(" "); c = connect(int(port)); u = socket.socket(socket.AF_UNIX); u.connect(path)
        socket.send_fds(u, [b"x"], [c.fileno()]); u.recv(1); print("ok", flush=True)
"""


def _ways() -> tuple[str, ...]:
    found = open_sight(lambda _: None)
    found.close()
    return ("scanned", "stamped") if found.stamps is not None else ("scanned",)


WAYS = _ways()


@dataclasses.dataclass(slots=True)
class Launched:
    """A launched workload and a listener that stands for its sidecar's way out."""

    child: subprocess.Popen[bytes]
    launch: Launch
    stdin: int
    stdout: int
    server: socket.socket
    sight: Sight
    script: pathlib.Path

    @property
    def port(self) -> int:
        return int(self.server.getsockname()[1])

    def do(self, text: str) -> str:
        os.write(self.stdin, text.encode() + b"\n")
        return os.read(self.stdout, 100).decode().strip()

    def say(self, text: str) -> None:
        os.write(self.stdin, text.encode() + b"\n")

    def attest(self) -> Attested:
        """What is said of the next connection."""
        accepted, peer = self.server.accept()
        with accepted:
            return attest_connection(self.launch, peer, self.server.getsockname(), self.sight)


@pytest.fixture(params=WAYS)
def sight(request: pytest.FixtureRequest) -> Iterator[Sight]:
    """Every way by which this host can tell who is behind a connection."""
    found = open_sight(lambda _: None) if request.param == "stamped" else Sight(diag=SockDiag())
    yield found
    found.close()


@pytest.fixture
def make_launched(tmp_path: pathlib.Path, sight: Sight) -> Iterator[Callable[..., Launched]]:
    made: list[Launched] = []

    def make(argv: tuple[str, ...] | None = None, name: str = "app") -> Launched:
        script = tmp_path / name
        script.write_text(WORKLOAD, "utf-8")
        inner, stdin = os.pipe()
        stdout, outer = os.pipe()
        order = Order(
            argv=argv or (sys.executable, str(script)),
            cwd=str(tmp_path),
            env={"PATH": os.environ["PATH"]},
            uid=os.getuid(),
            gid=os.getgid(),
            streams=(inner, outer, 2),
        )
        child, found = launch(order)
        os.close(inner)
        os.close(outer)
        server = socket.create_server(("127.0.0.1", 0))
        server.settimeout(60)
        made.append(Launched(child, found, stdin, stdout, server, sight, script))
        return made[-1]

    yield make
    for item in made:
        os.close(item.stdin)
        # the leader is reaped last: until then the session's number means no other
        while left := members(item.launch.session):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        item.child.wait()
        os.close(item.stdout)
        item.server.close()


@pytest.fixture
def launched(make_launched: Callable[..., Launched]) -> Launched:
    return make_launched()


def to_json(value: object) -> str:
    return json.dumps(value)
