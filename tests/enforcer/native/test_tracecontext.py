"""Which trace context is believed: W3C Trace Context, level 1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.native.tracecontext import MAX_MEMBERS, Parent, is_state, parse_parent, write_parent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def parent(text: str) -> Parent | None:
    return parse_parent([text.encode("latin-1")])


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_a_valid_parent_is_read(text: str, is_sampled: bool) -> None:
    assert parent(text) == Parent(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0\xb2",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_malformed_is_as_if_it_were_not_there(text: str) -> None:
    assert parent(text) is None


def test_two_parents_are_none_and_so_is_no_parent() -> None:
    one = f"00-{TRACE}-{SPAN}-01".encode()
    assert parse_parent([one, one]) is None
    assert parse_parent([]) is None


@given(st.binary(min_size=16, max_size=16).filter(any), st.binary(min_size=8, max_size=8).filter(any))
def test_what_is_written_is_read_as_sampled(trace: bytes, span: bytes) -> None:
    assert parse_parent([write_parent(trace.hex(), span.hex())]) == Parent(trace.hex(), span.hex(), True)


@pytest.mark.parametrize(
    ("values", "is_valid"),
    [
        ([], True),
        ([b""], True),
        ([b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], True),
        ([b"rojo=1 , congo=2", b"fw529a3039@dt=FfAAAf,1a@b=c"], True),
        ([b"a=" + b"x" * 256], True),
        ([b",".join(b"k%d=1" % number for number in range(MAX_MEMBERS))], True),
        ([b",".join(b"k%d=1" % number for number in range(MAX_MEMBERS + 1))], False),
        ([b"a=1,a=2"], False),
        ([b"a=1", b"a=2"], False),
        ([b"A=1"], False),
        ([b"1a=1"], False),
        ([b"a"], False),
        ([b"a="], False),
        ([b"a=b=c"], False),
        ([b"a=\xff"], False),
        ([b"a=" + b"x" * 257], False),
        ([b"a=1" + b"," * 9000], False),
    ],
)
def test_a_state_is_one_valid_list(values: list[bytes], is_valid: bool) -> None:
    assert is_state(values) is is_valid
