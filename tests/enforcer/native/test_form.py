"""Heads that are read by their form say what they say when they are read alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.native import serial
from enforcer.native.form import MAX_GAPS, Form, learned
from enforcer.native.http1 import Framing, RequestHead, RequestReader
from mesh.problems import Invalid

NAMES = [b"traceparent", b"x-a", b"Accept", b"Connection", b"Content-Length", b"Host", b"x-limen-source", b"x_b", b"te"]
VALUES = [b"1", b" 2 ", b"", b"db", b"close", b"x-a", b"a\rb", b"a\n", b"a\x00", b"\xff", b"0", b"x" * 200, b"a\r\n b"]
_LINES = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=4)


def block(*lines: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"%b:%b\r\n" % line for line in lines) + b"\r\n"


def head_of(reader: RequestReader, data: bytes) -> RequestHead | str | None:
    reader.feed(data)
    try:
        return reader.head()
    except Invalid as err:
        return err.code


def said(head: RequestHead | str | None) -> object:
    return head._replace(form=None) if isinstance(head, RequestHead) else head


# INVARIANT: a head means the same whatever came before it on its connection, and so do the bytes that are sent on.
@given(_LINES, st.lists(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(VALUES)), max_size=3), max_size=6))
def test_heads_that_differ_in_values_read_as_each_would_alone(
    lines: list[tuple[bytes, bytes]], changes: list[list[tuple[int, bytes]]]
) -> None:
    reader, writer = RequestReader(), serial.Writer(b"x-limen-source: a\r\n")
    for number, change in enumerate([[], *changes]):
        now = [(b"Host", b"db"), *lines]
        for place, value in change:
            if place < len(lines):
                now[place + 1] = lines[place][0], value
        data = b"GET /%d HTTP/1.1\r\n%b" % (number, block(*now))
        after, alone = head_of(reader, data), head_of(RequestReader(), data)
        assert said(after) == said(alone)
        if not isinstance(after, RequestHead):
            break
        fresh = serial.Writer(b"x-limen-source: a\r\n")
        assert writer.head(after, "/x", serial.forwarded_host) == fresh.head(
            after._replace(form=None), "/x", serial.forwarded_host
        )
        if not after.keep_alive or after.framing is not Framing.NONE:
            break  # nothing follows, or a body does


def test_only_what_differs_is_read_anew() -> None:
    reader = RequestReader()
    heads = [
        head_of(
            reader, b"GET / HTTP/1.1\r\n" + block((b"Host", b"db"), (b"traceparent", b"%d" % number), (b"x-a", b"1"))
        )
        for number in range(4)
    ]
    found = [head for head in heads if isinstance(head, RequestHead)]
    assert [head.fields[0] for head in found] == [(b"traceparent", b"%d" % number) for number in range(4)]
    assert found[1].form is found[2].form is found[3].form
    assert found[1].form == Form((b"Host:db\r\ntraceparent:", b"\r\nx-a:1\r\n\r\n"), (0,))


@pytest.mark.parametrize(
    ("before", "after", "places"),
    [
        (block((b"a", b"1")), block((b"a", b"2")), [None]),
        (block((b"a", b"1")), block((b"b", b"1")), [0]),
        (block((b"a", b"1")), block((b"a", b"1"), (b"a", b"1")), [0, 1]),
        (block(*[(b"a", b"1")] * (MAX_GAPS + 1)), block(*[(b"a", b"2")] * (MAX_GAPS + 1)), [*range(MAX_GAPS + 1)]),
    ],
    ids=["a field with a meaning of its own", "another name", "another field", "too many at once"],
)
def test_no_form_is_learned_where_more_differs(before: bytes, after: bytes, places: list[int | None]) -> None:
    assert learned(before, after, places) is None


@pytest.mark.parametrize("rest", [b"1", b"1\r", b"1\n\r\n", b"1\x00\r\n\r\n", b"1\r\nb:2\r\n\r\n"])
def test_what_no_value_may_hold_fits_into_no_gap(rest: bytes) -> None:
    assert Form((b"a:", b"\r\n\r\n"), (0,)).read(b"a:" + rest, 0) is None
