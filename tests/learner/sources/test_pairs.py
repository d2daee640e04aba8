import datetime as dt

from learner.sources.pairs import PAUSE, Half, Pairs
from mesh.flow import Flow
from tests.learner.sources.accounts import ledger, seen

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
WEB, DB = ("10.0.0.1", 40000), ("10.0.0.2", 5432)


def half(source: tuple[str, int], destination: tuple[str, int], minutes: float = 0, **facts: object) -> Half:
    start = NOW + dt.timedelta(minutes=minutes)
    values = {"start": start, "end": start, "protocol": "tcp"} | facts
    return Half(source=source, destination=destination, **values)  # type: ignore[arg-type]


def given(*halves: Half, limit: int = 1000) -> tuple[list[str], list[Flow], int]:
    account = ledger()
    pairs = Pairs(account, "vpc", limit)
    flows = [flow for item in halves for flow in pairs.add(item)]
    flows += pairs.finish()
    return [seen(flow) for flow in flows], flows, account.ambiguous


def test_a_syn_or_its_answer_tells_who_began_in_any_order() -> None:
    expected = ["10.0.0.1 > 10.0.0.2:5432 tcp yes"]
    assert given(half(WEB, DB, is_initiator=True), half(DB, WEB))[0] == expected
    assert given(half(DB, WEB, is_initiator=False), half(WEB, DB))[0] == expected


def test_without_flags_the_socket_with_several_peers_is_the_callee() -> None:
    other = ("10.0.0.3", 40001)
    lines, _, ambiguous = given(half(DB, WEB), half(WEB, DB), half(other, DB), half(DB, other))
    assert lines == ["10.0.0.1 > 10.0.0.2:5432 tcp yes", "10.0.0.3 > 10.0.0.2:5432 tcp yes"]
    assert ambiguous == 0


def test_where_nothing_tells_or_evidence_disagrees_nobody_is_guessed() -> None:
    assert given(half(WEB, DB), half(DB, WEB))[::2] == ([], 1)
    assert given(half(WEB, DB, is_initiator=True), half(DB, WEB, is_initiator=True))[::2] == ([], 1)


def test_what_was_refused_denied_or_never_answered_did_not_come_about() -> None:
    assert given(half(WEB, DB, is_initiator=True))[0] == ["10.0.0.1 > 10.0.0.2:5432 tcp no"]
    assert given(half(WEB, DB, is_initiator=True), half(DB, WEB, is_refusal=True))[0] == [
        "10.0.0.1 > 10.0.0.2:5432 tcp no"
    ]
    assert given(half(WEB, DB, is_denied=True))[0] == ["10.0.0.1 > 10.0.0.2:5432 tcp no denied"]


def test_windows_of_one_conversation_are_one_and_a_port_that_comes_again_is_another() -> None:
    pause = PAUSE.total_seconds() / 60
    halves = [half(WEB, DB, at, is_initiator=True) for at in (0, 10, 20, 20 + pause + 1)]
    lines, flows, _ = given(*halves, half(DB, WEB, 20 + pause + 1))
    assert lines == ["10.0.0.1 > 10.0.0.2:5432 tcp no", "10.0.0.1 > 10.0.0.2:5432 tcp yes"]
    assert flows[0].end == NOW + dt.timedelta(minutes=20)


def test_memory_is_bounded_and_the_oldest_make_room() -> None:
    halves = [half(("10.0.0.1", 1024 + index), DB, is_initiator=True) for index in range(500)]
    lines, _, _ = given(*halves, limit=10)
    assert len(lines) == 500
