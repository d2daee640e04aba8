"""Asking an engine in its own process: values, deadlines, death, and what comes after."""

import contextlib
import os
import pathlib
import select
import signal

import pytest

from policyengine.rego import UNDEFINED, Engine, RegoError, Source

MODULE = """package a

x if input.b == 1

slow if {
	some i in input.many
	some j in input.many
	some k in input.many
	some l in input.many
	i + j + k + l == 0
}
"""


def engine(module: str = MODULE, deadline_s: float = 60.0, *, strict: bool = True) -> Engine:
    points = ("a/x", "a/slow") if "slow" in module else ("a/x",)
    return Engine(Source(modules={"m": module}, data={}, entrypoints=points, strict=strict), deadline_s=deadline_s)


def pid_of(found: Engine) -> int:
    assert found._process is not None
    return found._process.pid


def test_values_and_undefined() -> None:
    with engine() as found:
        found.load()
        assert found.ask("a/x", {"b": 1}) is True
        assert found.ask("a/x", {}) is UNDEFINED


def test_a_program_that_may_not_run_is_refused_and_says_why() -> None:
    with engine("package a\nx if opa.runtime()") as found:
        with pytest.raises(RegoError, match="is not allowed"):
            found.load()
        (reason,) = found.refused
        assert reason.endswith(":2: the function `opa.runtime` is not allowed")
        with pytest.raises(RegoError):
            found.ask("a/x", {})


def test_a_rule_that_takes_too_long_is_cut_and_its_process_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.rego._FIRST_PAUSE_S", 1000.0)
    with engine(deadline_s=0.3) as found:
        found.load()
        pid = pid_of(found)
        with pytest.raises(RegoError, match="too long"):
            found.ask("a/slow", {"many": list(range(1, 2000))})
        assert not pathlib.Path(f"/proc/{pid}").exists()
        # what is asked at once fails at once
        with pytest.raises(RegoError, match="not running"):
            found.ask("a/x", {"b": 1})


def test_an_engine_comes_back_after_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.rego._FIRST_PAUSE_S", 0.0)
    with engine() as found:
        found.load()
        os.kill(pid_of(found), 9)
        with pytest.raises(RegoError):
            found.ask("a/x", {"b": 1})
        with contextlib.suppress(RegoError):
            found.ask("a/x", {"b": 1})  # it begins, and nobody waits
        found.load()
        assert found.ask("a/x", {"b": 1}) is True
        assert found.failures == 1


def held() -> Engine:
    """An engine that was stopped before it was ready."""
    while True:
        found = engine()
        os.kill(pid_of(found), signal.SIGSTOP)
        os.waitid(os.P_PID, pid_of(found), os.WSTOPPED | os.WNOWAIT)
        assert found._process is not None
        if not select.select([found._process.stdout], [], [], 0)[0]:
            return found
        found.close()


def test_an_engine_that_is_not_ready_is_not_waited_for() -> None:
    with held() as found:
        with pytest.raises(RegoError, match="not ready"):
            found.ask("a/x", {"b": 1})
        os.kill(pid_of(found), signal.SIGCONT)
        found.load()
        assert found.ask("a/x", {"b": 1}) is True


def test_an_engine_that_grows_too_large_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(deadline_s=60.0) as found:
        found.load()
        # any process is larger than this, so the first look during a long evaluation ends it
        monkeypatch.setattr("policyengine.rego.MAX_RESIDENT_BYTES", 1 << 20)
        with pytest.raises(RegoError, match="memory"):
            found.ask("a/slow", {"many": list(range(1, 2000))})
