"""A program's own enforcer: how it begins, what it decides and records, what a fork has of it."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from enforcer.native.http1 import RequestHead, read_request
from enforcer.sdk import Limen, connect
from mesh.problems import Forbidden, Invalid, Unavailable
from tests.enforcer.native.harness import ALLOW_WEB, DB, OPS, ROOT, WEB, Realm, policies
from tests.enforcer.sdk.conftest import Teller

Make = Callable[..., tuple[Limen, Teller]]
HEAVY = ("grpc", "google.protobuf", "pydantic", "yaml", "sqlalchemy", "fastapi", "structlog", "xds")
PARTS = (
    ("enforcer.sdk", HEAVY),
    ("enforcer.sdk.asgi", HEAVY),
    ("enforcer.sdk.uvicornserver", HEAVY),
    ("enforcer.sdk.httpxtransport", HEAVY),
    ("enforcer.sdk.grpcaio", tuple(name for name in HEAVY if name != "grpc")),
)


@pytest.mark.parametrize(("part", "heavy"), PARTS, ids=[part for part, _ in PARTS])
def test_importing_it_loads_nothing_heavy(part: str, heavy: tuple[str, ...]) -> None:
    told = f"import sys, {part}\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout == "[]\n"


def head(target: bytes = b"/orders", method: bytes = b"GET") -> RequestHead:
    return read_request(method, target, [(b"host", b"db.corp.test")])


def test_a_program_that_was_not_launched_so_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMEN_SDK_SOCKET", raising=False)
    with pytest.raises(Forbidden, match="LM3463"):
        connect()


def test_an_agent_that_refuses_is_believed(tellers: Callable[[], Teller]) -> None:
    teller = tellers()
    teller.say({"type": "failed", "code": "LM3463", "facts": {}})
    with pytest.raises(Forbidden, match="LM3463"):
        connect(path=str(teller.path), timeout_s=60)


def test_without_an_agent_nothing_begins(tellers: Callable[[], Teller]) -> None:
    teller = tellers()
    with pytest.raises(Unavailable, match="LM3464"):
        connect(path=str(teller.path), timeout_s=0.2)
    teller.end()
    with pytest.raises(Unavailable, match="LM3464"):
        connect(path=str(teller.path), timeout_s=0.2)


CASES = [
    (WEB, b"/orders", b"GET", "allow"),
    (WEB, b"/orders/7", b"POST", "allow"),
    (WEB, b"/orders", b"DELETE", "deny"),
    (WEB, b"/x/../orders", b"GET", "allow"),
    (WEB, b"/orders;x", b"GET", "deny"),
    (OPS, b"/orders", b"GET", "deny"),
    (None, b"/orders", b"GET", "deny"),
]


@pytest.mark.parametrize(("caller", "target", "method", "expected"), CASES)
def test_requests_are_decided_as_a_sidecar_decides_them(
    limens: Make, caller: str | None, target: bytes, method: bytes, expected: str
) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    judgement, name = limen.judge_request(limen.contact(caller, 8080, "127.0.0.1"), head(target, method))
    assert judgement.decision.effect == expected
    found = teller.programs[0].record(decision=expected)
    assert (found["source"], found["caller"], found["method"]) == (f"sdk:{DB}", caller, method.decode())
    assert (found["snapshot"], found["protocol"], found["port"]) == ("sha256:1", "http", 8080)
    if expected == "deny":
        assert found["id"] == name != ""


def test_a_denial_says_in_the_log_what_it_is_and_how_to_ask_why(limens: Make, caplog: pytest.LogCaptureFixture) -> None:
    limen, _ = limens(DB, policies(ALLOW_WEB))
    with caplog.at_level(logging.WARNING, "limen.sdk"):
        judgement, name = limen.judge_request(limen.contact(OPS, 8080, ""), head(b"/secret/path?token=x"))
    text = caplog.messages[-1]
    assert text.startswith(judgement.decision.code)
    assert f"limen audit show {name}" in text
    assert OPS in text
    assert "secret" not in text


def test_a_port_that_nothing_is_declared_for_is_denied(limens: Make) -> None:
    limen, _ = limens(DB, policies(ALLOW_WEB))
    assert not limen.judge_request(limen.contact(WEB, 9999, ""), head())[0].decision.is_allowed


def test_a_port_whose_requests_no_rule_reads_is_decided_by_the_caller(limens: Make) -> None:
    limen, _ = limens(DB, policies({"id": "all", "effect": "allow", "from": [WEB]}))
    # as at a sidecar, which would not even see the path
    assert limen.judge_request(limen.contact(WEB, 8080, ""), head(b"/a;b"))[0].decision.is_allowed
    assert not limen.judge_request(limen.contact(OPS, 8080, ""), head())[0].decision.is_allowed


def test_what_was_refused_before_any_rule_is_recorded_too(limens: Make) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    name = limen.refuse(limen.contact(None, 8080, "127.0.0.1"), Invalid("LM3466"), "http")
    assert teller.programs[0].record(code="LM3466")["id"] == name


def test_exchanges_are_counted(limens: Make) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    contact = limen.contact(WEB, 8080, "127.0.0.1")
    judgement, _ = limen.judge_request(contact, head())
    for _ in range(3):
        limen.exchanged(contact, judgement, method="GET", status=200)
    row = teller.programs[0].flow(3)
    assert (row["source"], row["path"], row["status"], row["connections"]) == (WEB, "/orders", 200, 3)


def test_places_of_a_service_are_those_of_its_members(limens: Make) -> None:
    limen, _ = limens(WEB, policies(ALLOW_WEB), ((DB, 1), (OPS, 2), (DB, 3)))
    assert {place.port for place in limen.places("db", None, 0.0)} == {1, 3}
    assert [place.port for place in limen.places("db", 3, 0.0)] == [3]
    assert [place.port for place in limen.places(OPS, None, 0.0)] == [2]
    assert limen.places("unheard-of", None, 0.0) == ()
    limen.failed(limen.places("db", 3, 0.0)[0], 100.0)
    assert limen.places("db", None, 101.0)[-1].port == 3


def test_a_forked_process_denies_and_its_parent_goes_on(limens: Make) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    pid = os.fork()
    if pid == 0:
        try:
            allowed = limen.judge_request(limen.contact(WEB, 8080, ""), head())[0].decision.is_allowed
            os._exit(int(allowed or bool(limen.spiffe_id)))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert limen.judge_request(limen.contact(WEB, 8080, ""), head())[0].decision.is_allowed
    teller.policy(policies(), 2)
    assert not limen.judge_request(limen.contact(WEB, 8080, ""), head())[0].decision.is_allowed


def test_watchers_hear_of_every_change(limens: Make, corp: Realm) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    seen: list[str] = []
    limen.watch(lambda: seen.append(limen.snapshot))
    teller.policy(policies(), 2)
    assert "sha256:2" in seen


def test_closing_twice_is_closing(limens: Make) -> None:
    limen, _ = limens(DB, policies(ALLOW_WEB))
    limen.close()
    limen.close()
    assert not limen.spiffe_id
