"""What the listeners of a sidecar share: verification that is remembered, and a clock that is not believed blindly."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from enforcer.native.records import Recorder
from enforcer.native.workload import Identity, Workload
from mesh.clock import ManualClock, SystemClock
from mesh.problems import Invalid
from tests.enforcer.native.harness import DB, WEB, Realm


def shared(clock: ManualClock) -> Workload:
    return Workload(clock, Recorder("t", bytes), asyncio.TaskGroup())


def test_time_is_unknown_while_the_clock_is_far_behind_itself() -> None:
    clock = ManualClock(dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC))
    workload = shared(clock)
    assert workload.decision_time() == clock.now()
    clock.advance(dt.timedelta(seconds=-30))
    assert workload.decision_time() == clock.now()
    clock.advance(dt.timedelta(hours=-2))
    assert workload.decision_time() is None
    clock.advance(dt.timedelta(hours=3))
    assert workload.decision_time() == clock.now()


def test_without_an_identity_nothing_begins() -> None:
    workload = shared(ManualClock(dt.datetime(2026, 11, 24, tzinfo=dt.UTC)))
    assert workload.name == ""
    with pytest.raises(Invalid) as err:
        workload.require_identity()
    assert err.value.code == "LM3012"


def test_a_chain_that_was_verified_is_still_refused_once_it_has_expired(corp: Realm) -> None:
    clock = ManualClock(corp.now)
    identity = Identity(corp.svid(DB), {corp.trust_domain: corp.bundle}, clock)
    chain = corp.svid(WEB, ttl=dt.timedelta(seconds=30)).chain_der
    assert str(identity.verify(chain).spiffe_id) == WEB
    clock.advance(dt.timedelta(seconds=20))
    assert str(identity.verify(chain).spiffe_id) == WEB
    clock.advance(dt.timedelta(seconds=20))
    with pytest.raises(Invalid):
        identity.verify(chain)


def test_another_chain_is_never_taken_for_a_verified_one(corp: Realm, evil: Realm) -> None:
    identity = Identity(corp.svid(DB), {corp.trust_domain: corp.bundle}, SystemClock())
    identity.verify(corp.svid(WEB).chain_der)
    with pytest.raises(Invalid):
        identity.verify(evil.svid(WEB).chain_der)


def test_what_fails_beside_the_others_ends_alone(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            workload = Workload(SystemClock(), Recorder("t", bytes), tasks)
            workload.start(fail())
            workload.start(fail(), lambda: closed.append(True))

    closed: list[bool] = []
    asyncio.run(run())
    assert capsys.readouterr().err.count("LM3009") == 2
    # whatever waits for it does not wait for ever
    assert closed == [True]
