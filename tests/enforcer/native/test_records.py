"""What is remembered for the agent, and what goes first when there is too much."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import gc
import json
import os
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.record import check_record
from enforcer.native import records, wire
from enforcer.native.judge import Judgement, denied
from enforcer.native.records import Contact, Recorder, end
from mesh.flow import flow_from_json
from mesh.request import Decision, Effect, Mode
from mesh.ulid import is_ulid
from tests.enforcer.native.harness import DB, WEB

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(seconds=1)
CONTACT = Contact(direction="inbound", port=8080, peer_ip="127.0.0.1", caller=WEB, destination=DB)
ALLOWED = Decision(
    effect=Effect.ALLOW, policy_effect=Effect.ALLOW, mode=Mode.ENFORCE, snapshot="h", tier="app", policy="p", rule="r",
    code="LM2300",
)  # fmt: skip
OBSERVED = Decision(
    effect=Effect.ALLOW, policy_effect=Effect.DENY, mode=Mode.OBSERVE, snapshot="h", tier="", policy="", rule="",
    code="LM2302",
)  # fmt: skip


class _Held(Contact):
    """A contact of which one can tell whether it is still there."""


def recorder() -> Recorder:
    return Recorder("sidecar:test", bytes)


def judged(decision: Decision) -> Judgement:
    return Judgement(decision, None, "/a?secret=1", "/a")


def rows_of(found: Recorder, now: dt.datetime = NOW) -> list[dict[str, Any]]:
    taken = found.take_records(now)
    return [] if taken is None else [json.loads(text) for text in taken[1]]


def test_a_record_says_who_what_and_why_and_holds_no_query() -> None:
    found = recorder()
    found.decision(CONTACT, judged(ALLOWED), now=NOW, protocol="http", method="GET", host="db")
    (row,) = rows_of(found)
    check_record(row)
    assert (row["schema"], row["kind"], row["source"]) == (1, "decision", "sidecar:test")
    assert (row["caller"], row["destination"], row["path"], row["code"]) == (WEB, DB, "/a", "LM2300")
    assert "secret" not in str(row)


def test_a_record_says_the_target_as_it_came_whose_token_it_was_and_how_it_went() -> None:
    found = recorder()
    contact = dataclasses.replace(CONTACT, serial="1f")
    judgement = Judgement(ALLOWED, None, "/a/b", "/a/b", "alice")
    found.decision(
        contact, judgement, now=NOW, protocol="http", method="GET", host="db", target="/a/./b?t=hunter2", latency_us=7
    )
    first = found.last
    found.decision(contact, judgement, now=NOW, protocol="http", method="GET", host="db", target="/a/b")
    end(first, 200, 0, 12)
    one, other = rows_of(found)
    assert (one["serial"], one["path"], one["target"]) == ("1f", "/a/b", "/a/./b?[removed]")
    assert (one["sub"], one["latency_us"]) == ("alice", 7)
    assert (one["status"], one["bytes_in"], one["bytes_out"]) == (200, 0, 12)
    # what had not ended when it was written says nothing of it
    assert other.keys() & {"target", "latency_us", "status", "bytes_in", "bytes_out"} == set()


def test_the_id_that_a_denied_caller_is_told_is_the_records() -> None:
    found = recorder()
    assert found.decision(CONTACT, judged(ALLOWED), now=NOW, protocol="tcp") == ""
    name = found.decision(CONTACT, judged(denied("LM2302")), now=NOW, protocol="tcp")
    first, second = rows_of(found)
    assert (is_ulid(first["id"]), second["id"]) == (True, name)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ALLOWED, OBSERVED, denied("LM2302")]),
            st.sampled_from([None, OBSERVED]),
            st.sampled_from([None, "GET", "PUT"]),
            st.text(st.characters(max_codepoint=255), max_size=20),
            st.sampled_from([CONTACT, Contact(direction="inbound", port=1, peer_ip="::1", facts={"é": 'a"b'})]),
        ),
        max_size=8,
    )
)
def test_records_written_together_say_what_each_would_say_alone(rows: list[tuple[Any, Any, Any, str, Contact]]) -> None:
    def wrote(*some: tuple[Any, Any, Any, str, Contact]) -> list[dict[str, Any]]:
        found = Recorder("sidecar:test", os.urandom)
        for decision, candidate, method, path, contact in some:
            judgement = Judgement(decision, candidate, "", path)
            found.decision(contact, judgement, now=NOW, protocol="http", method=method, host=method and "db")
        return rows_of(found)

    together, alone = wrote(*rows), [wrote(row)[0] for row in rows]
    for row in (*together, *alone):
        check_record(row)
        del row["id"]
    assert together == alone
    for row, (decision, candidate, method, path, contact) in zip(together, rows, strict=True):
        assert (row["code"], row["candidate"] is None) == (decision.code, candidate is None)
        assert (row.get("path"), row.get("facts")) == (path if method else None, contact.facts)


@pytest.mark.parametrize("bound", [0, records.MAX_BEGUN], ids=["nothing-remembered", "remembered"])
def test_what_one_batch_began_the_next_ones_say_as_if_it_were_new(monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    monkeypatch.setattr(records, "MAX_BEGUN", bound)
    found = recorder()
    for number in range(20):
        # objects of one batch are gone in the next, and others may stand where they stood
        contact = dataclasses.replace(CONTACT, port=8000 + number)
        decision = dataclasses.replace((ALLOWED, OBSERVED)[number % 2], rule=f"r{number}")
        asked = [(None, None, "tcp"), ("GET", "db", "http"), ("GET", "db", "grpc"), ("PUT", "web", "http")] * 2
        for method, host, protocol in asked:
            made: Any = {"protocol": protocol, "method": method, "host": host}
            found.decision(contact, judged(decision), now=LATER, **made)
        rows = rows_of(found)
        assert [(row.get("method"), row.get("host"), row["protocol"]) for row in rows] == asked
        assert {(row["port"], row["rule"], row["time"]) for row in rows} == {
            (8000 + number, f"r{number}", "2026-11-24T12:00:01.000000Z")
        }


def test_what_is_remembered_of_connections_is_bounded() -> None:
    found = recorder()
    refs = []
    for number in range(2000):
        contact = _Held(direction="inbound", port=8080, peer_ip=f"10.0.{number // 256}.{number % 256}", caller=WEB)
        refs.append(weakref.ref(contact))
        found.decision(contact, judged(ALLOWED), now=NOW, protocol="tcp")
        if number % 100 == 99:
            assert len(rows_of(found)) == 100
    gc.collect()
    assert sum(ref() is not None for ref in refs) < 1000


def test_what_was_decided_under_one_name_is_written_under_it() -> None:
    found = recorder()
    found.decision(CONTACT, judged(ALLOWED), now=NOW, protocol="tcp")
    found.rename("sidecar:other")
    found.decision(CONTACT, judged(ALLOWED), now=NOW, protocol="tcp")
    assert [row["source"] for row in rows_of(found)] == ["sidecar:test", "sidecar:other"]


def test_records_are_kept_until_they_are_acknowledged() -> None:
    found = recorder()
    found.decision(CONTACT, judged(ALLOWED), now=NOW, protocol="tcp")
    assert found.unacknowledged == 1
    taken = found.take_records(NOW)
    assert taken is not None
    assert found.take_records(NOW) is None
    assert (found.unacknowledged, found.in_flight) == (1, 1)
    found.acknowledge(taken[0])
    assert (found.unacknowledged, found.in_flight) == (0, 0)


def test_when_there_is_too_much_allowed_ones_go_first_and_the_loss_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_WAITING", 2)
    found = recorder()
    for decision in (ALLOWED, ALLOWED, ALLOWED, denied("LM2302"), denied("LM2302"), denied("LM2302")):
        found.decision(CONTACT, judged(decision), now=NOW, protocol="tcp")
    rows = rows_of(found)
    assert [row.get("code") for row in rows[:-1]] == ["LM2300", "LM2300", "LM2302", "LM2302"]
    assert (rows[-1]["kind"], rows[-1]["records"]) == ("lost", 2)


def test_flows_are_folded() -> None:
    found = recorder()
    for now, decision in ((NOW, ALLOWED), (LATER, ALLOWED), (NOW, OBSERVED), (NOW, denied("LM2302"))):
        found.flow(CONTACT, decision, now=now, protocol="http", method="GET", path="/a", status=200)
    rows = [json.loads(row) for row in found.take_flows()]
    assert sorted((str(row["verdict"]), row["connections"]) for row in rows) == [
        ("allowed", 2), ("denied", 1), ("would-deny", 1),
    ]  # fmt: skip
    assert (rows[0]["start"], rows[0]["end"]) == ("2026-11-24T12:00:00.000000Z", "2026-11-24T12:00:01.000000Z")
    assert found.take_flows() == []


def test_flows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_FLOWS", 3)
    found = recorder()
    for number in range(100):
        found.flow(CONTACT, ALLOWED, now=NOW, protocol="http", method="GET", path=f"/{number}", status=200)
    rows = [json.loads(row) for row in found.take_flows()]
    assert len(rows) == 4
    assert sum(int(str(row["connections"])) for row in rows) == 100


def test_a_caller_without_identity_is_not_established() -> None:
    found = recorder()
    contact = Contact(direction="inbound", port=8080, peer_ip="10.0.0.9", destination=DB)
    found.flow(contact, denied("LM3020"), now=NOW, protocol="tcp")
    (row,) = [json.loads(row) for row in found.take_flows()]
    assert (row["source"], row["source_ip"], row["established"]) == (None, "10.0.0.9", False)


def test_a_portion_of_the_longest_paths_fits_into_a_message() -> None:
    found = recorder()
    for number in range(records.MAX_PORTION):
        path = f"/{number}" + "é" * (32 * 1024)
        found.flow(CONTACT, ALLOWED, now=NOW, protocol="http", method="GET", path=path, status=200)
    rows = found.take_flows()
    assert len(wire.encode_with({"type": "flows"}, "flows", rows)) < wire.MAX_MESSAGE_BYTES
    assert sum(json.loads(row)["connections"] for row in rows) == records.MAX_PORTION


@given(
    st.lists(
        st.tuples(
            st.sampled_from([CONTACT, Contact(direction="inbound", port=1, peer_ip="::1", destination=DB)]),
            st.sampled_from([ALLOWED, OBSERVED, denied("LM2302")]),
            st.sampled_from([None, "GET", "PUT"]),
            st.none() | st.text(st.characters(max_codepoint=255), max_size=8),
            st.sampled_from([None, 200, 403]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_flows_written_together_are_what_each_is_in_public_form(rows: list[tuple[Any, Any, Any, Any, Any]]) -> None:
    found = recorder()
    for contact, decision, method, path, status in rows:
        found.flow(contact, decision, now=NOW, protocol="http", method=method, path=path, status=status)
    written = [json.loads(row) for row in found.take_flows()]
    assert sum(row["connections"] for row in written) == len(rows)
    assert all(flow_from_json(row).to_json() == row for row in written)
    wanted = {(row[0].caller, row[0].port, *row[2:]) for row in rows}
    got = {
        (row["source"], row["destination_port"], row.get("method"), row.get("path"), row.get("status"))
        for row in written
    }
    assert got == wanted


def test_flows_are_taken_in_portions_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_PORTION", 3)
    found = recorder()
    for number in range(7):
        found.flow(CONTACT, ALLOWED, now=NOW, protocol="http", method="GET", path=f"/{number}", status=200)
    portions = [found.take_flows() for _ in range(4)]
    assert [len(rows) for rows in portions] == [3, 3, 1, 0]
    assert [json.loads(row)["path"] for rows in portions for row in rows] == [f"/{number}" for number in range(7)]


def test_an_answer_waits_until_the_batch_of_its_record_is_acknowledged() -> None:
    found = recorder()
    did: list[str] = []
    woken: list[int] = []
    found.wake = lambda: woken.append(1)
    denials = denied("LM2302")
    found.decision(CONTACT, judged(denials), now=NOW, protocol="tcp")
    assert not found.waits_for_disk(lambda: did.append("never"))
    found.keeps_denials = True
    for name in ("first", "second"):
        found.decision(CONTACT, judged(denials), now=NOW, protocol="tcp")
        assert found.waits_for_disk(functools.partial(did.append, name))
        # a batch for each, in the order in which they were made
        assert found.take_records(NOW) is not None
    found.decision(CONTACT, judged(ALLOWED), now=NOW, protocol="tcp")
    assert (did, len(woken), found.is_waited_for) == ([], 2, True)
    found.acknowledge(1)
    assert did == ["first"]
    found.rename("sidecar:other")
    found.acknowledge(2)
    assert (did, found.is_waited_for) == (["first", "second"], False)


def test_a_record_that_found_no_room_is_waited_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_WAITING", 1)
    found = recorder()
    found.keeps_denials = True
    did: list[int] = []
    for number in range(3):
        found.decision(CONTACT, judged(denied("LM2302")), now=NOW, protocol="tcp")
        assert found.waits_for_disk(functools.partial(did.append, number))
    taken = found.take_records(NOW)
    assert taken is not None
    found.acknowledge(taken[0])
    assert did == [0, 1]
