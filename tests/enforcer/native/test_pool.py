"""When a connection that waits may serve again, and that there are never too many of them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from typing import Any

import pytest

from enforcer.native import pool
from enforcer.native.endpoints import Endpoint
from enforcer.native.pool import Connection, Finish, Pool, may_serve
from tests.enforcer.native.harness import DB

NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
A, B = (Endpoint(DB, "127.0.0.1", port) for port in (1, 2))
FACTS = [field.name for field in dataclasses.fields(Finish)]


class Quiet:
    """A stream on which nothing happens, unless a test says so."""

    def __init__(self) -> None:
        self.sink: Any = None
        self.is_quiet = True
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def resume(self) -> None:
        """Nothing arrives."""


def connection(endpoint: Endpoint = A, *, era: int = 1, born: float = 0.0, life_s: float = 3600) -> Connection:
    ends = NOW + dt.timedelta(seconds=life_s)
    return Connection(endpoint, Quiet(), era, ends, ends, born)  # type: ignore[arg-type]  # as much as is asked of it


def take(found: Pool, endpoint: Endpoint = A, *, era: int = 1, now: float = 1.0) -> Connection | None:
    return found.take(endpoint, era=era, now=now, moment=NOW)


def give(found: Pool, one: Connection, *, era: int = 1, now: float = 1.0, moment: dt.datetime = NOW) -> None:
    found.give(one, era=era, now=now, moment=moment)


@pytest.mark.parametrize(
    "facts",
    list(itertools.product([True, False], repeat=len(FACTS))),
    ids=lambda facts: "-".join(name for name, is_true in zip(FACTS, facts, strict=True) if not is_true) or "clean",
)
def test_an_exchange_is_clean_only_if_everything_about_its_end_is(facts: tuple[bool, ...]) -> None:
    assert Finish(**dict(zip(FACTS, facts, strict=True))).is_clean is all(facts)


@pytest.mark.parametrize(
    ("change", "may"),
    [
        ({}, True),
        ({"era": 2}, False),
        ({"now": pool.MAX_LIFE_SECONDS - 1.0}, True),
        ({"now": float(pool.MAX_LIFE_SECONDS)}, False),
        ({"moment": NOW + dt.timedelta(seconds=3600) - pool.BEFORE_THE_END}, False),
        ({"moment": NOW + dt.timedelta(seconds=3599) - pool.BEFORE_THE_END}, True),
        ({"moment": NOW + dt.timedelta(seconds=3600)}, False),
    ],
)
def test_a_connection_serves_within_its_era_its_life_and_its_certificates(change: dict[str, Any], may: bool) -> None:
    asked: dict[str, Any] = {"era": 1, "now": 1.0, "moment": NOW} | change
    assert may_serve(connection(), **asked) is may


def test_what_was_given_is_taken_once_and_only_for_its_endpoint() -> None:
    found, one = Pool(), connection()
    give(found, one)
    assert (len(found), take(found, B)) == (1, None)
    assert take(found) is one
    assert (len(found), take(found)) == (0, None)


def test_the_one_that_waited_least_goes_first() -> None:
    found, one, other = Pool(), connection(), connection()
    give(found, one, now=1.0)
    give(found, other, now=2.0)
    assert (take(found, now=3.0), take(found, now=3.0)) == (other, one)


@pytest.mark.parametrize("what", ["received", "ended", "lost", "not quiet", "waited too long", "other era", "closed"])
def test_what_has_happened_to_it_while_it_waited_ends_it(what: str) -> None:
    found, one = Pool(), connection()
    give(found, one)
    stream: Any = one.stream
    match what:
        case "received":
            stream.sink.received(b"HTTP/1.1 200 OK\r\n\r\n")
        case "ended" | "lost":
            getattr(stream.sink, what)()
        case "not quiet":
            stream.is_quiet = False
        case "closed":
            found.clear()
    era, now = 2 if what == "other era" else 1, 1.0 + pool.MAX_IDLE_SECONDS if what == "waited too long" else 2.0
    assert take(found, era=era, now=now) is None
    assert (len(found), stream.is_closed, stream.sink) == (0, True, None)


@pytest.mark.parametrize("why", ["other era", "ends", "lives too long"])
def test_what_may_not_serve_again_is_not_kept(why: str) -> None:
    found, one = Pool(), connection(life_s=1 if why == "ends" else 3600)
    stream: Any = one.stream
    give(found, one, era=2 if why == "other era" else 1, now=4000.0 if why == "lives too long" else 1.0)
    assert (len(found), stream.is_closed) == (0, True)


def test_those_that_wait_are_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_IDLE", 2)
    found, all_of_them = Pool(), [connection(A), connection(B), connection(A)]
    for at, one in enumerate(all_of_them):
        give(found, one, now=float(at + 1))
    assert len(found) == 2
    assert [one.stream.is_closed for one in all_of_them] == [True, False, False]  # type: ignore[attr-defined]


def test_time_ends_what_waits() -> None:
    found, one, other = Pool(), connection(), connection(B)
    give(found, one, now=1.0)
    give(found, other, now=5.0)
    found.tick(era=1, now=1.0 + pool.MAX_IDLE_SECONDS, moment=NOW)
    assert list(found) == [other]
