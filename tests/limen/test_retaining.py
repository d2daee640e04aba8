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
from limen.retaining import Retaining
from mesh.clock import ManualClock
from mesh.problems import Problem
from tests.audit.making import ORIGIN, START, make, open_log

SECOND = dt.timedelta(seconds=1)


class Server:
    """A log with its retention, as `App` has it."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.clock, self.count = ManualClock(START + dt.timedelta(days=1)), 0
        self.log: Log = open_log(directory)
        self.retaining = Retaining(self.log, clock=self.clock, random=bytes, record=self._record)

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
