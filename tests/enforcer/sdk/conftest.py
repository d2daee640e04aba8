"""An agent for programs that enforce by themselves: the test speaks for it, at a socket of its own."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enforcer import sdk
from enforcer.native import wire
from enforcer.sdk import Limen
from enforcer.sdk.uvicornserver import Server, config
from mesh.bundle import TrustBundle
from mesh.clock import SystemClock
from mesh.tls import client_context
from mesh.x509svid import X509Svid
from tests.enforcer.native.harness import DB, Agent, Realm, identity_message, policies

PATIENCE_S = 100.0


def eventually(claim: Callable[[], bool]) -> bool:
    """Whether a claim comes true before patience ends."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if claim():
            return True
        threading.Event().wait(0.01)
    return False


def connect(port: int, svid: X509Svid, *bundles: TrustBundle) -> ssl.SSLSocket:
    """A caller's TLS connection."""
    context = client_context(svid, {bundle.trust_domain: bundle for bundle in bundles})
    raw = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    try:
        return context.wrap_socket(raw)
    except OSError:
        raw.close()
        raise


class Program(Agent):
    """The agent's end of a program's conversation; a busy machine is waited for."""

    def wait(self, kind: str, matches: Callable[[wire.Message], bool] = lambda _: True) -> wire.Message:
        """The first message of a kind that matches."""
        with self.changed:
            self.changed.wait_for(lambda: self.has_ended or any(True for _ in self._found(kind, matches)), PATIENCE_S)
            found = next(self._found(kind, matches), None)
            assert found is not None, f"no {kind}; heard {self.heard}"
            return found

    def listen(self) -> None:
        """Hear all there is, and hang up, as an agent does."""
        super().listen()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def requests(self) -> list[list[Any]]:
        """What was counted: port, caller, outcome, class of status and how many, of all that was told."""
        with self.changed:
            return sorted(row for message in self._found("signals", lambda _: True) for row in message["requests"])  # type: ignore[attr-defined]  # a list of rows

    def counted(self, *expected: list[Any]) -> None:
        """Wait until exactly these requests were counted, each told at once."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.requests() == sorted(expected), PATIENCE_S), self.requests()

    def record(self, **fields: object) -> dict[str, Any]:
        """The first decision record with these fields."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.records(**fields), PATIENCE_S), f"no {fields}; {self.heard}"
        return self.records(**fields)[0]


class Teller:
    """Tells every program that connects the same, and hears what they say."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.told: list[wire.Message] = []
        self.programs: list[Program] = []
        self._listener: socket.socket | None = None
        self.begin()

    def begin(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            nobody: Any = None
            agent = Program(nobody, sock, lambda _: {})
            self.programs.append(agent)
            threading.Thread(target=agent.listen, daemon=True).start()
            for message in [*self.told]:
                agent.send(message)

    def say(self, message: wire.Message) -> None:
        """Say something to all, and to those that come later."""
        self.told.append(message)
        for program in self.programs:
            program.send(message)

    def identify(self, svid: X509Svid, *bundles: TrustBundle, trust: int = 1) -> None:
        """Another SVID, or other bundles; returns when every program goes by them."""
        self.say({**identity_message(svid, *bundles), "trust": trust})
        for program in self.programs:
            program.wait("trusts", lambda found: found["trust"] == trust)

    def policy(self, found: dict[str, object] | None, epoch: int) -> None:
        """Other policies; returns when every program decides by them."""
        active = None if found is None else {"hash": f"sha256:{epoch}", "policies": found}
        self.say({"type": "policy", "epoch": epoch, "active": active, "candidate": None})
        for program in self.programs:
            program.wait("applied", lambda said: said["epoch"] == epoch)

    def end(self) -> None:
        """Be gone, as a killed agent is."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for program in self.programs:
            with contextlib.suppress(OSError):
                program.sock.shutdown(socket.SHUT_RDWR)
            program.sock.close()


@pytest.fixture(scope="session")
def corp() -> Realm:
    return Realm("corp.test", SystemClock().now())


@pytest.fixture(scope="session")
def evil() -> Realm:
    return Realm("evil.test", SystemClock().now())


@pytest.fixture
def tellers() -> Iterator[Callable[[], Teller]]:
    made: list[Teller] = []
    folder = pathlib.Path(tempfile.mkdtemp(prefix="limen-s-"))

    def make() -> Teller:
        made.append(Teller(folder / f"{len(made)}.sock"))
        return made[-1]

    yield make
    for teller in made:
        teller.end()
    shutil.rmtree(folder)


@pytest.fixture
def limens(tellers: Callable[[], Teller], corp: Realm) -> Iterator[Callable[..., tuple[Limen, Teller]]]:
    """Programs' own enforcers, each with an agent of its own: who it is, and its policies."""
    made: list[Limen] = []

    def make(
        spiffe_id: str = DB, found: dict[str, object] | None = None, endpoints: tuple[tuple[str, int], ...] = ()
    ) -> tuple[Limen, Teller]:
        teller = tellers()
        rows = [{"spiffe_id": name, "address": "127.0.0.1", "port": port} for name, port in endpoints]
        serves = [{"address": "127.0.0.1", "port": 8080}]
        teller.say(
            {"type": "listeners", "inbound": [], "outbound": [], "egress": [], "intercept": None, "serves": serves}
        )
        teller.say(
            {
                "type": "policy",
                "epoch": 1,
                "active": {"hash": "sha256:1", "policies": found or policies()},
                "candidate": None,
            }
        )
        teller.say({"type": "endpoints", "is_partial": False, "endpoints": rows})
        teller.say(identity_message(corp.svid(spiffe_id), corp.bundle))
        limen = sdk.connect(path=str(teller.path), timeout_s=PATIENCE_S)
        made.append(limen)
        return limen, teller

    yield make
    for limen in made:
        limen.close()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    said = {"caller": scope["limen"]["caller"], "path": scope["path"], "client": scope["client"][0]}
    body = json.dumps(said).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Served:
    def __init__(self, limen: Limen, loop: str, served: Any, options: dict[str, Any]) -> None:
        # any free port listens; policies speak of the one that is named
        made = config(served, limen, host="127.0.0.1", port=0, loop=loop, log_level="error", lifespan="off", **options)
        self._server = Server(made, limen)
        made.load()
        made.loaded_app._port = 8080
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        assert eventually(lambda: self._server.started)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]

    def leave(self) -> None:
        """Be told to end; returns when nothing new is taken."""
        self._server.should_exit = True
        assert eventually(self._is_closed)

    def _is_closed(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), PATIENCE_S).close()
            return False
        return True

    def beginning(self) -> int:
        """How many handshakes are under way."""
        return len(self._server.config.http_protocol_class.beginning)  # type: ignore[attr-defined]  # ours

    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def serving() -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def make(limen: Limen, loop: str = "asyncio", served: Any = app, **options: Any) -> Served:
        made.append(Served(limen, loop, served, options))
        return made[-1]

    yield make
    for served in made:
        served.close()
