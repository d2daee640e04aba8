"""Trust domains, applications and sidecar processes for the tests of the native data plane."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from enforcer.native import wire
from mesh.bundle import TrustBundle
from mesh.clock import SystemClock
from mesh.x509svid import X509Svid
from tests.enforcer.native.harness import ROOT, Agent, App, Realm, http_answer, identity_message


@pytest.fixture(scope="session")
def corp() -> Realm:
    return Realm("corp.test", SystemClock().now())


@pytest.fixture(scope="session")
def evil() -> Realm:
    return Realm("evil.test", SystemClock().now())


@pytest.fixture
def apps() -> Iterator[Callable[..., App]]:
    """Applications, closed at the end."""
    found: list[App] = []

    def make(answer: Callable[[socket.socket, App], None] = http_answer) -> App:
        found.append(App(answer))
        return found[-1]

    yield make
    for app in found:
        app.close()


@pytest.fixture(scope="module")
def sidecars() -> Iterator[Callable[..., Agent]]:
    """Sidecar processes with the test as their agent, stopped at the end."""
    found: list[Agent] = []

    def make(
        svid: X509Svid,
        *bundles: TrustBundle,
        inbound: tuple[dict[str, object], ...] = (),
        outbound: tuple[dict[str, object], ...] = (),
        attest: Callable[[wire.Message], dict[str, object]] = lambda _: {"ok": True, "code": "", "facts": {}},
        acknowledges: bool = True,
        uid: int | None = None,
        back: str = "/nonexistent/sidecars.sock",
        program: int | None = None,
        limits: dict[str, int] | None = None,
        files: int | None = None,
        egress: tuple[str, ...] | None = None,
        keeps_denials: bool = False,
    ) -> Agent:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-m", "enforcer.native", str(theirs.fileno()), back, *([] if uid is None else [str(uid)])],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
        )
        if files is not None:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, files))
        theirs.close()
        agent = Agent(process, ours, attest, acknowledges)
        found.append(agent)
        threading.Thread(target=agent.listen, daemon=True).start()
        agent.send(identity_message(svid, *bundles))
        told: dict[str, object] = {"type": "listeners", "inbound": list(inbound), "outbound": list(outbound)}
        if limits is not None:
            told["limits"] = limits
        if keeps_denials:
            told["keeps_denials"] = True
        if egress is not None:
            told |= {"intercept": 0, "egress": list(egress)}
        agent.send(told)
        agent.wait("ready")
        if program is not None:
            agent.send({"type": "program", "pid": program})
        return agent

    yield make
    for agent in found:
        agent.stop()
