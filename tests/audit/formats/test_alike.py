import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.formats import ocsf
from audit.formats.alike import Alike, write
from tests.audit.formats.samples import CONNECTION, REQUEST, SAMPLES, SPAN, TRACE, any_record, sample

TIMES = (
    "2026-11-24T12:00:00.000001Z",
    "1999-09-09T09:09:09.000000Z",
    "2026-11-24T12:00:00Z",
    "2026-13-24T12:00:00.000000Z",
)
OWN: dict[str, st.SearchStrategy[Any]] = {
    "path": st.sampled_from(["/a", "/a?b=c", "?b", "/a?", "/a b", '/"', "/é", "@0path0@", "/a?@0query0@?x", ""]),
    "trace_id": st.sampled_from([TRACE, "0" * 32, SPAN, "x", "0123456789abcdefedcba98765432100"]),
    "span_id": st.sampled_from([SPAN, "0" * 16, TRACE]),
    "latency_us": st.sampled_from([0, 7, -1, 2**60, True, 1.5, "7", 710019990909001]),
    "bytes_in": st.sampled_from([0, 7, -1, 2**60, 2**53, "7"]),
    "bytes_out": st.integers(),
    "status": st.sampled_from([200, 999, True]),
    "port": st.sampled_from([1, True, 1.0, 8080]),
    "candidate": st.none() | st.just({"decision": "deny"}),
    "caller": st.none() | st.sampled_from(["spiffe://a/b", "@0id0@", "936868149000"]),
}


def same(alike: Alike, index: int, record: dict[str, Any]) -> bool:
    """Whether the quick way answers, and says what the form says."""
    found = alike.line(index, record)
    if found is not None:
        assert found == write(ocsf.event(index, record))
    return found is not None


@st.composite
def decisions(draw: st.DrawFn) -> list[dict[str, Any]]:
    base = draw(st.sampled_from([REQUEST, CONNECTION]))
    found = []
    for number in range(draw(st.integers(1, 4))):
        own = draw(st.fixed_dictionaries({}, optional=OWN))
        time = draw(st.sampled_from(TIMES[:2]))
        found.append({"schema": 1, "id": f"ID{number}", "time": time, "kind": "decision", "source": "s", **base, **own})
    return found


@given(decisions(), st.integers(0, 10**15))
def test_what_is_alike_is_written_as_the_form_writes_it(rows: list[dict[str, Any]], index: int) -> None:
    alike = Alike(ocsf.event)
    for row in [*rows, *rows]:
        same(alike, index, row)


@given(any_record())
def test_any_record_is_written_as_the_form_writes_it(item: tuple[int, bytes]) -> None:
    same(Alike(ocsf.event), item[0], json.loads(item[1]))


def test_ordinary_decisions_go_the_quick_way() -> None:
    alike = Alike(ocsf.event)
    for name in ("request", "denied", "observed", "connection", "refused connection"):
        index, data = sample(name)
        assert same(alike, index, json.loads(data)), name
        assert same(alike, index + 1, {**json.loads(data), "time": TIMES[0]}), name


def test_fields_in_another_order_are_written_in_that_order() -> None:
    alike = Alike(ocsf.event)
    row = json.loads(sample("request")[1])
    for names in (list(row), sorted(row), sorted(row, reverse=True)):
        assert same(alike, 0, {name: row[name] for name in names})


@pytest.mark.parametrize("time", TIMES[2:])
def test_an_unusual_time_is_for_the_form_to_judge(time: str) -> None:
    row = {**json.loads(sample("request")[1]), "time": time}
    assert Alike(ocsf.event).line(0, row) is None


def test_other_kinds_are_for_the_form() -> None:
    for name, fields in SAMPLES.items():
        if fields["kind"] != "decision":
            assert Alike(ocsf.event).line(0, json.loads(sample(name)[1])) is None


def test_many_different_decisions_take_bounded_room() -> None:
    alike = Alike(lambda index, record: {"a": record["caller"]})
    for number in range(5000):
        row = {"id": "x", "time": TIMES[0], "kind": "decision", "source": "s", "caller": str(number)}
        assert alike.line(0, row) == f'{{"a":"{number}"}}'
    assert len(alike._known) == 4096
