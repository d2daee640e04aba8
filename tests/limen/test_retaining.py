import datetime as dt
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from audit.cursor import Cursor
from audit.log import Log
from audit.record import record, to_bytes
from audit.verify import verify_log
from limen.exportsfile import load_exports
from limen.exportstate import WANTED
from limen.retaining import AT_ONCE, REST, Retaining
from mesh.clock import ManualClock
from mesh.problems import Problem
from tests.audit.making import ORIGIN, START, make, open_log

SECOND = dt.timedelta(seconds=1)


class Server:
    """A log with its retention, as `App` has it."""

    def __init__(self, directory: pathlib.Path, keep: dt.timedelta | None = None) -> None:
        self.clock, self.count = ManualClock(START + dt.timedelta(days=1)), 0
        self.log: Log = open_log(directory)
        self.retaining = Retaining(self.log, clock=self.clock, random=bytes, record=self._record, keep=keep)

    def pass_hours(self, hours: int) -> list[list[int]]:
        """An hour after the other, with a step at each end; what is pruned then."""
        self.retaining.step()
        for _ in range(hours):
            self.clock.advance(REST)
            for _ in range(3):
                self.retaining.step()
        return list(self.retaining.show()["pruned"])

    def _record(self, kind: str, actor: str, **fields: object) -> None:
        self.count += 1
        random = self.count.to_bytes(10, "big")
        made = record(kind, now=self.clock.now(), random=random, source="server:t", actor=actor, **fields)
        self.log.append([to_bytes(made)])


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    found = Server(tmp_path)
    found.log.append([make(number) for number in range(1000)])
    yield found
    found.log.close()


def verified(directory: pathlib.Path) -> list[tuple[str, Any]]:
    found = verify_log(directory, (directory / "key.pub").read_text())
    assert found.is_good
    return [(item.code, (item.facts["first"], item.facts["last"])) for item in found.findings]


def test_prunes_what_is_old_and_records_it(server: Server, tmp_path: pathlib.Path) -> None:
    found = server.retaining.prune(START + 600 * SECOND, actor="uid:0")
    assert (found["records"], found["pruned"]) == (512, [[0, 511]])
    assert verified(tmp_path) == [("LM6090", (0, 511))]
    assert server.retaining.prune(START + 600 * SECOND, actor="uid:0")["records"] == 0
    assert server.log.size == 1001


def test_a_hold_stops_pruning_until_it_is_released(server: Server, tmp_path: pathlib.Path) -> None:
    held = server.retaining.hold(reason="case 17", since=START, until=START + SECOND, service=None, actor="uid:0")
    assert server.retaining.prune(START + 600 * SECOND, actor="uid:0")["pruned"] == [[256, 511]]
    server.retaining.release(held["id"], actor="uid:0")
    assert server.retaining.prune(START + 600 * SECOND, actor="uid:0")["pruned"] == [[0, 511]]
    assert verified(tmp_path) == [("LM6090", (0, 511))]


def test_a_server_that_comes_back_knows_what_is_pruned_and_held(server: Server, tmp_path: pathlib.Path) -> None:
    held = server.retaining.hold(reason="r", since=None, until=None, service="db", actor="uid:0")
    server.retaining.prune(START + 300 * SECOND, actor="uid:0")
    server.log.close()
    again = Server(tmp_path)
    assert again.retaining.show() == {"pruned": [[0, 255]], "holds": [held]}
    again.log.close()


def test_what_a_crash_left_is_removed_by_the_next_pruning(server: Server, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tile" / "entries" / "000"
    kept = path.read_bytes()
    server.retaining.prune(START + 300 * SECOND, actor="uid:0")
    path.write_bytes(kept)
    server.retaining.prune(START + 300 * SECOND, actor="uid:0")
    assert not path.exists()


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("LM6093", lambda found: found.prune(START + dt.timedelta(days=2), actor="a")),
        ("LM6091", lambda found: found.release("none", actor="a")),
        ("LM6094", lambda found: found.hold(reason=" ", since=None, until=None, service=None, actor="a")),
        ("LM6094", lambda found: found.hold(reason="r", since=START, until=START, service=None, actor="a")),
    ],
)
def test_what_cannot_be_done_is_refused(server: Server, code: str, call: Any) -> None:
    with pytest.raises(Problem) as caught:
        call(server.retaining)
    assert caught.value.code == code
    assert server.log.size == 1000


def test_what_an_export_has_not_delivered_stays_until_it_has(tmp_path: pathlib.Path) -> None:
    server = Server(tmp_path / "audit")
    server.log.append([make(number) for number in range(1000)])
    for folder in ("server", "exports"):
        (tmp_path / folder).mkdir()
    wanted, found = load_exports("exports: [{name: a, to: 'file:///a'}, {name: b, to: 'file:///b'}]", "exports.yaml")
    assert found == []
    (tmp_path / WANTED).write_text(json.dumps([item.to_json() for item in wanted]))
    Cursor(tmp_path / "exports" / "a.cursor", ORIGIN).save(1000)
    # one that has delivered nothing holds everything
    assert server.retaining.prune(START + 900 * SECOND, actor="uid:0")["pruned"] == []
    slow = Cursor(tmp_path / "exports" / "b.cursor", ORIGIN)
    for delivered, pruned in ((255, []), (256, [[0, 255]]), (700, [[0, 511]]), (1000, [[0, 767]])):
        slow.save(delivered)
        assert server.retaining.prune(START + 900 * SECOND, actor="uid:0")["pruned"] == pruned
    server.log.close()


DAY = dt.timedelta(days=1)
# at the end of its first hour a log that keeps this long has 600 records that are older
KEPT = DAY + REST - 600 * SECOND


@pytest.fixture
def ageing(tmp_path: pathlib.Path) -> Iterator[Server]:
    found = Server(tmp_path / "audit", KEPT)
    found.log.append([make(number) for number in range(1000)])
    yield found
    found.log.close()


def test_what_is_older_than_the_setting_says_goes_by_itself_with_a_record(ageing: Server) -> None:
    assert ageing.pass_hours(1) == [[0, 511]]
    _, data = next(iter(ageing.log.records(1000)))
    row = json.loads(data)
    assert (row["kind"], row["event"], row["actor"], row["pruned"]) == ("retention", "prune", "server", [[0, 511]])
    assert row["before"] == "2026-11-24T12:10:00.000000Z"
    # an hour later the rest is old too; the newest record shares its bundle with what is not
    assert ageing.pass_hours(1) == [[0, 767]]
    assert ageing.log.size == 1002
    assert verified(ageing.log.directory) == [("LM6090", (0, 767))]


def test_without_the_setting_nothing_goes_by_itself(server: Server) -> None:
    assert server.pass_hours(1000) == []
    assert server.log.size == 1000


def test_nothing_goes_in_the_first_hour_nor_in_the_hour_after_a_clock_that_jumped(ageing: Server) -> None:
    ageing.retaining.step()
    ageing.clock.advance(REST - SECOND)
    ageing.retaining.step()
    for jump in (REST + SECOND, -2 * SECOND, 400 * DAY):
        ageing.clock.advance(jump)
        ageing.retaining.step()
        ageing.clock.advance(REST - SECOND)
        ageing.retaining.step()
    assert ageing.log.size == 1000
    ageing.clock.advance(SECOND)
    ageing.retaining.step()
    assert ageing.retaining.show()["pruned"] == [[0, 767]]


def test_a_hold_stops_pruning_by_age_until_it_is_released(ageing: Server) -> None:
    held = ageing.retaining.hold(reason="case 17", since=START, until=START + SECOND, service=None, actor="uid:0")
    assert ageing.pass_hours(3) == [[256, 767]]
    ageing.retaining.release(held["id"], actor="uid:0")
    assert ageing.pass_hours(1) == [[0, 767]]


def test_what_an_export_has_not_delivered_does_not_go_by_age(ageing: Server, tmp_path: pathlib.Path) -> None:
    for folder in ("server", "exports"):
        (tmp_path / folder).mkdir()
    wanted, _ = load_exports("exports: [{name: a, to: 'file:///a'}]", "exports.yaml")
    (tmp_path / WANTED).write_text(json.dumps([item.to_json() for item in wanted]))
    assert ageing.pass_hours(2) == []
    Cursor(tmp_path / "exports" / "a.cursor", ORIGIN).save(300)
    assert ageing.pass_hours(2) == [[0, 255]]
    assert ageing.log.size == 1001


def test_a_step_looks_at_some_of_a_long_log_and_the_next_goes_on(tmp_path: pathlib.Path) -> None:
    found = Server(tmp_path, DAY)
    count = (2 * AT_ONCE + 3) * 256
    found.log.append([make(number, time="2026-01-01T00:00:00Z") for number in range(count)])
    found.retaining.step()
    found.clock.advance(REST)
    for bundles in (AT_ONCE, 2 * AT_ONCE, 2 * AT_ONCE + 3):
        found.retaining.step()
        assert found.retaining.show()["pruned"] == [[0, bundles * 256 - 1]]
    found.log.close()


def test_what_a_crash_left_goes_by_itself(ageing: Server) -> None:
    path = ageing.log.directory / "tile" / "entries" / "001"
    kept = path.read_bytes()
    ageing.pass_hours(1)
    path.write_bytes(kept)
    ageing.log.close()
    again = Server(ageing.log.directory, KEPT)
    again.retaining.step()
    assert path.exists()
    again.clock.advance(REST)
    again.retaining.step()
    assert not path.exists()
    again.log.close()
