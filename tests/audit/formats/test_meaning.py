import pytest

from audit.formats.meaning import Gravity, Meaning, Outcome, address, meaning, number, read, text, version
from mesh.problems import Problem
from tests.audit.formats.samples import SPAN, TRACE, sample, samples
from tests.audit.making import START


def said(name: str) -> Meaning:
    index, data = sample(name)
    return meaning(index, read(index, data))


@pytest.mark.parametrize(
    ("name", "action", "outcome", "gravity"),
    [
        ("request", "allow", Outcome.SUCCESS, Gravity.INFO),
        ("denied", "deny", Outcome.FAILURE, Gravity.WARNING),
        ("observed", "allow", Outcome.OBSERVED, Gravity.WARNING),
        ("certificate", "issuance", Outcome.SUCCESS, Gravity.INFO),
        ("revocation", "revoke", Outcome.SUCCESS, Gravity.NOTICE),
        ("agent's refusal", "refusal", Outcome.FAILURE, Gravity.WARNING),
        ("search", "subject", Outcome.SUCCESS, Gravity.INFO),
        ("login", "login", Outcome.FAILURE, Gravity.WARNING),
        ("lost", "lost", Outcome.SUCCESS, Gravity.ERROR),
        ("unknown kind", "tomorrow", Outcome.SUCCESS, Gravity.NOTICE),
    ],
)
def test_a_record_says_what_was_done_how_it_ended_and_how_grave_it_is(
    name: str, action: str, outcome: Outcome, gravity: Gravity
) -> None:
    found = said(name)
    assert (found.action, found.outcome, found.gravity, found.time) == (action, outcome, gravity, START)


def test_a_message_is_one_line() -> None:
    for index, data in samples():
        message = meaning(index, read(index, data)).message
        assert len(message.splitlines()) == 1
        assert len(message) <= 1000
    assert said("denied").message == (
        "deny spiffe://corp.test/ns/shop/sa/cart to spiffe://corp.test/ns/shop/sa/db:8080 GET /orders/1?page=2 "
        "by LM2300"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"trace_id": TRACE, "span_id": SPAN}, (TRACE, SPAN)),
        ({"trace_id": TRACE}, (TRACE, None)),
        ({"trace_id": TRACE, "span_id": "0" * 16}, (TRACE, None)),
        ({"trace_id": "0" * 32, "span_id": SPAN}, (None, None)),
        ({"trace_id": TRACE.upper()}, (None, None)),
        ({"span_id": SPAN}, (None, None)),
        ({"trace_id": 7}, (None, None)),
        ({"traceparent": f"00-{TRACE}-{SPAN}-01"}, (TRACE, SPAN)),
        ({"traceparent": f"ff-{TRACE}-{SPAN}-01"}, (None, None)),
        ({"traceparent": TRACE}, (None, None)),
    ],
)
def test_only_valid_trace_ids_are_carried(fields: dict[str, object], expected: tuple[str | None, str | None]) -> None:
    found = meaning(0, {"id": "x", "time": "2026-11-24T12:00:00Z", "kind": "k", "source": "s", **fields})
    assert (found.trace_id, found.span_id) == expected


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"{}", b'{"id":"a","kind":"b","source":"c","time":1}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_record_is_named_by_its_place(data: bytes) -> None:
    with pytest.raises(Problem) as caught:
        read(7, data)
    assert (caught.value.code, caught.value.facts["index"]) == ("LM6035", 7)


def test_a_time_that_is_none_is_named_by_its_place() -> None:
    with pytest.raises(Problem) as caught:
        meaning(7, {"id": "x", "time": "yesterday", "kind": "k", "source": "s"})
    assert (caught.value.code, caught.value.facts["index"]) == ("LM6035", 7)


def test_what_is_taken_is_gone_from_the_rest_and_nothing_else() -> None:
    rest: dict[str, object] = {"a": "x", "b": "", "c": 7, "d": True, "e": "10.0.0.1", "f": "10.0.0.1:80"}
    assert (text(rest, "a"), text(rest, "b"), text(rest, "c"), text(rest, "z")) == ("x", None, None, None)
    assert (number(rest, "c", 0, 6), number(rest, "c", 0, 7), number(rest, "d", 0, 9)) == (None, 7, None)
    assert (address(rest, "e"), address(rest, "f")) == ("10.0.0.1", None)
    assert rest == {"b": "", "d": True, "f": "10.0.0.1:80"}


def test_the_version_is_the_packages() -> None:
    assert version()[0].isdigit()
