"""gunicorn's worker class: what it asks for before the application is loaded, and what it does not begin with.

The whole, with a real agent and rotations, is in `tests/system/test_sdk_gunicorn.py`.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from enforcer.sdk.runtime import SOCKET
from tests.enforcer.native.harness import ALLOW_WEB, DB, WEB, Realm, identity_message, policies, read_response
from tests.enforcer.sdk.conftest import Teller, connect, eventually
from tests.ports import free_port

pytestmark = [pytest.mark.system, pytest.mark.slow]
ROOT = pathlib.Path(__file__).parents[3]
APP = """
import os
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    body = (scope["limen"]["caller"] + " " + str(os.getpid())).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
REQUEST = b"GET /orders HTTP/1.1\r\nHost: db.corp.test\r\n\r\n"
LAST = b"GET /orders HTTP/1.1\r\nHost: db.corp.test\r\nConnection: close\r\n\r\n"
WORDS = ["--no-control-socket", "--timeout", "300", "--graceful-timeout", "300", "--log-level", "error"]


class Gunicorn:
    """gunicorn with our worker class, in a folder of its own."""

    def __init__(self, folder: pathlib.Path, teller: Teller | None, *words: str) -> None:
        (folder / "served.py").write_text(APP)
        self.port = free_port()
        bound = ["--bind", f"127.0.0.1:{self.port}", "--chdir", str(folder)]
        told = {} if teller is None else {SOCKET: str(teller.path)}
        environment = {name: value for name, value in os.environ.items() if name != SOCKET}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-k", "enforcer.sdk.gunicornworker.Worker", *WORDS, *bound, *words,
             "served:app"],
            env={**environment, **told},
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )  # fmt: skip

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(300)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def gunicorn(tmp_path: pathlib.Path) -> Iterator[Callable[..., Gunicorn]]:
    made: list[Gunicorn] = []

    def make(teller: Teller | None, *words: str) -> Gunicorn:
        made.append(Gunicorn(tmp_path, teller, *words))
        return made[-1]

    yield make
    for found in made:
        found.close()


def listening(teller: Teller, port: int) -> None:
    """Say what an agent says of a program that serves there."""
    serves = [{"address": "127.0.0.1", "port": port}]
    teller.say({"type": "listeners", "inbound": [], "outbound": [], "egress": [], "intercept": None, "serves": serves})
    active = {"hash": "sha256:1", "policies": policies(ALLOW_WEB, port=port)}
    teller.say({"type": "policy", "epoch": 1, "active": active, "candidate": None})


def ask(port: int, corp: Realm) -> tuple[int, str]:
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(LAST)
        status, body = read_response(sock)
        return status, body.decode()


def test_each_worker_is_told_who_it_is_and_nothing_is_accepted_before(
    gunicorn: Callable[..., Gunicorn], tellers: Callable[[], Teller], corp: Realm
) -> None:
    teller = tellers()
    served = gunicorn(teller, "--workers", "2")
    listening(teller, served.port)
    assert eventually(lambda: len(teller.programs) >= 2)
    # what connects now waits in the queue of gunicorn's socket: nobody has an identity yet
    teller.say(identity_message(corp.svid(DB), corp.bundle))
    workers = set()

    def is_answered_by_both() -> bool:
        status, body = ask(served.port, corp)
        caller, _, pid = body.partition(" ")
        assert (status, caller) == (200, WEB)
        workers.add(pid)
        return len(workers) == 2

    assert eventually(is_answered_by_both)
    assert str(served.process.pid) not in workers


def test_a_worker_that_is_replaced_answers_what_comes_on_connections_that_were_open(
    gunicorn: Callable[..., Gunicorn], tellers: Callable[[], Teller], corp: Realm
) -> None:
    teller = tellers()
    served = gunicorn(teller, "--workers", "1")
    listening(teller, served.port)
    teller.say(identity_message(corp.svid(DB), corp.bundle))
    assert eventually(lambda: bool(teller.programs))
    with connect(served.port, corp.svid(WEB), corp.bundle) as fresh:
        first = ask(served.port, corp)[1]
        served.process.send_signal(signal.SIGHUP)
        # nothing was asked on this one yet, and its worker is told to end
        fresh.sendall(REQUEST)
        status, body = read_response(fresh)
        assert (status, body.decode()) == (200, first)
    assert eventually(lambda: ask(served.port, corp)[1] != first)


def test_what_workers_decided_is_told_exactly_though_each_of_them_is_replaced(
    gunicorn: Callable[..., Gunicorn], tellers: Callable[[], Teller], corp: Realm
) -> None:
    teller = tellers()
    served = gunicorn(teller, "--workers", "1")
    listening(teller, served.port)
    teller.say(identity_message(corp.svid(DB), corp.bundle))
    asked = 0
    for number in range(1, 4):
        assert eventually(lambda number=number: len(teller.programs) >= number)
        with connect(served.port, corp.svid(WEB), corp.bundle) as fresh:
            # the last answer of the old worker, with no second after it in which it would tell by itself
            served.process.send_signal(signal.SIGHUP)
            fresh.sendall(REQUEST)
            assert read_response(fresh)[0] == 200
            asked += 1
        assert eventually(lambda number=number: teller.programs[number - 1].has_ended)
    told = [row for program in teller.programs for row in program.requests()]
    assert sum(row[4] for row in told if row[1:4] == [WEB, "allowed", "2xx"]) == asked
    records = [row for program in teller.programs for row in program.records(kind="decision", caller=WEB)]
    assert len(records) == len({row["id"] for row in records}) == asked


@pytest.mark.parametrize(
    ("words", "code"),
    [((), "LM3463"), (("--certfile", "cert.pem", "--keyfile", "key.pem"), "LM3468")],
    ids=["not launched", "a certificate of gunicorn's own"],
)
def test_what_cannot_be_served_ends_gunicorn_and_says_why(
    gunicorn: Callable[..., Gunicorn], tmp_path: pathlib.Path, words: tuple[str, ...], code: str
) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("")
    served = gunicorn(None, *words)
    assert served.process.stderr is not None
    told = served.process.stderr.read()
    assert served.process.wait(300) == 3  # gunicorn's: a worker failed to boot
    assert code in told
