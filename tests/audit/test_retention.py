import datetime as dt
import pathlib
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.log import Log
from audit.reader import Reader
from audit.record import record, to_bytes
from audit.retention import KIND, MAX_HOLDS, Hold, Retention, newest, prunable, retention_in, said_by
from audit.verify import prove, verify_log
from mesh.problems import Conflict, NotFound, Problem, Severity
from tests.audit.making import START, id_of, make, open_log
from tests.examples import examples

SECOND = dt.timedelta(seconds=1)
HOLD = Hold(id="H1", reason="case", since=START + 300 * SECOND, until=START + 310 * SECOND)


def said(retention: Retention, *, source: str = "server:t", number: int = 5000) -> bytes:
    moment = START + number * SECOND
    fields = retention.fields()
    return to_bytes(record(KIND, now=moment, random=number.to_bytes(10, "big"), source=source, **fields))


def bundles(count: int, **fields: object) -> list[tuple[int, list[bytes]]]:
    return [(at, [make(number, **fields) for number in range(at * 256, at * 256 + 256)]) for at in range(count)]


def pruned_log(directory: pathlib.Path, *ranges: int, size: int = 1000) -> Log:
    log = open_log(directory)
    log.append([make(number) for number in range(size)])
    log.append([said(Retention().with_pruned(ranges))])
    log.remove(ranges)
    return log


@pytest.mark.parametrize(
    ("seconds", "holds", "found"),
    [
        pytest.param(256, [], [0], id="every-record-is-older"),
        pytest.param(255, [], [], id="one-record-is-not"),
        pytest.param(768, [], [0, 1, 2], id="all"),
        pytest.param(768, [HOLD], [0, 2], id="a-hold-by-time"),
        pytest.param(768, [Hold(id="h", reason="r", service="db")], [0, 1, 2], id="a-hold-of-another-service"),
        pytest.param(768, [Hold(id="h", reason="r")], [], id="a-hold-of-everything"),
    ],
)
def test_what_may_be_pruned(seconds: int, holds: list[Hold], found: list[int]) -> None:
    assert list(prunable(bundles(3), START + seconds * SECOND, holds)) == found


def test_a_hold_by_service_keeps_what_shares_its_bundle() -> None:
    mixed = bundles(2)
    mixed[1][1][77] = make(333, destination="spiffe://a/ns/shop/sa/db")
    assert list(prunable(mixed, START + 9999 * SECOND, [Hold(id="h", reason="r", service="db")])) == [0]


def test_what_cannot_be_read_stays() -> None:
    found = bundles(2)
    found[0][1][3] = b"{}"
    assert list(prunable(found, START + 9999 * SECOND, [])) == [1]


@settings(max_examples=examples(60), deadline=None)
@given(numbers=st.sets(st.integers(0, 40)), more=st.sets(st.integers(0, 40)))
def test_ranges_say_what_is_pruned_and_nothing_else(numbers: set[int], more: set[int]) -> None:
    found = Retention(holds=(HOLD,)).with_pruned(numbers).with_pruned(more)
    assert {bundle for bundle in range(50) if found.is_pruned(bundle)} == numbers | more
    assert said_by(said(found)) == found


def test_an_agent_cannot_say_what_is_pruned() -> None:
    assert said_by(said(Retention(), source="spiffe://t/limen/agent/a")) is None
    assert said_by(make(1)) is None


def test_holds_are_added_and_released() -> None:
    one = Retention().with_hold(HOLD)
    assert one.without_hold("H1") == Retention()
    with pytest.raises(NotFound):
        one.without_hold("H2")
    full = Retention(holds=(HOLD,) * MAX_HOLDS)
    with pytest.raises(Conflict):
        full.with_hold(HOLD)
    assert len(said(full)) < 0xFFFF


def test_the_newest_record_counts(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    first, second = Retention(holds=(HOLD,)), Retention()
    log.append([make(1), said(first, number=5000), make(2)])
    assert newest(Reader(tmp_path, (tmp_path / "key.pub").read_text()).tiles, log.size) == first
    log.append([make(number) for number in range(10, 400)] + [said(second, number=5001)])
    reader = Reader(tmp_path, (tmp_path / "key.pub").read_text())
    assert newest(reader.tiles, log.size) == second == retention_in(reader.records())
    log.close()


def test_a_pruned_log_verifies_and_says_what_was_pruned(tmp_path: pathlib.Path) -> None:
    pruned_log(tmp_path, 0, 2).close()
    key = (tmp_path / "key.pub").read_text()
    found = verify_log(tmp_path, key)
    assert found.is_good
    said_so = [(item.code, item.facts["first"], item.facts["last"], item.facts["index"]) for item in found.findings]
    assert said_so == [("LM6090", 0, 255, 1000), ("LM6090", 512, 767, 1000)]
    # what is left is proved under the same root, and the log goes on
    proof = prove(tmp_path, key, id_of(300))
    assert proof["index"] == 300
    reader = Reader(tmp_path, key)
    assert len(list(reader.records())) == 1001 - 512
    assert reader.missing == {0, 2}


def test_a_bundle_that_no_record_lets_go_is_missed(tmp_path: pathlib.Path) -> None:
    pruned_log(tmp_path, 0).close()
    (tmp_path / "tile" / "entries" / "001").unlink()
    found = verify_log(tmp_path, (tmp_path / "key.pub").read_text())
    errors = [dict(item.facts) for item in found.findings if item.severity is Severity.ERROR]
    assert errors == [{"path": "tile/entries/001"}]
    with pytest.raises(Problem) as caught:
        open_log(tmp_path)
    assert caught.value.code == "LM6020"


def test_a_pruned_log_opens_again_and_brings_nothing_back(tmp_path: pathlib.Path) -> None:
    log = pruned_log(tmp_path, 0, 2)
    # killed: nothing is closed, and what the journal holds must not make the bundles anew
    copy = tmp_path.with_name(f"{tmp_path.name}-copy")
    shutil.copytree(tmp_path, copy)
    log.close()
    again = open_log(copy)
    assert again.size == 1001
    # what was delivered before is known though its bytes are gone
    assert again.append([make(5), make(2000)]) == 1
    again.close()
    assert not (copy / "tile" / "entries" / "000").exists()
    assert verify_log(copy, (copy / "key.pub").read_text()).is_good


def test_a_log_killed_between_the_record_and_the_removal_still_verifies(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    log.append([make(number) for number in range(1000)])
    log.append([said(Retention().with_pruned([0, 1]))])
    log.close()
    (tmp_path / "tile" / "entries" / "000").unlink()
    found = verify_log(tmp_path, (tmp_path / "key.pub").read_text())
    assert found.is_good
    assert [(item.facts["first"], item.facts["last"]) for item in found.findings] == [(0, 255)]
