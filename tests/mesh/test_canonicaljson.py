import enum
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.canonicaljson import NotCanonicalError, _dumps, _parse, dumps, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet="abcé", max_size=4), inner, max_size=4)
    ),
    max_leaves=10,
)

# with what the two libraries write, read or refuse in ways of their own
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 0])
    | st.floats()
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.sampled_from(["é", "\U0001f600", "\uffff", "", "a", "B"]), inner)
        | st.dictionaries(st.integers() | st.none(), inner, max_size=1)
    ),
    max_leaves=12,
)


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except ValueError as err:
        # which of `ValueError`s it is counts only where the caller can tell
        return NotCanonicalError if isinstance(err, NotCanonicalError) else ValueError


@given(ANY)
def test_the_fast_way_writes_what_the_other_writes(value: object) -> None:
    assert outcome(lambda: dumps(value)) == outcome(lambda: _dumps(value))


SPELLED = ANY.map(lambda value: json.dumps(value).encode()) | ANY.map(
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
)


@given(SPELLED | st.binary(max_size=40))
def test_the_fast_way_reads_what_the_other_reads(data: bytes) -> None:
    assert repr(outcome(lambda: parse(data))) == repr(outcome(lambda: _parse(data)))


@pytest.mark.parametrize(
    "data",
    [
        b"1e16", b"1e+16", b"1.0", b"-0", b"0", b"-0.0", b"18446744073709551615", b"18446744073709551616",
        b"-9223372036854775809", b'{"b":1,"a":1.5}', b'{"a":[1,1.5]}', b'"\x7f"', '"\u2028"'.encode(), rb'"\u001f"',
        rb'"\u001F"', rb'"\b\t\n\f\r"', b"[" * 300 + b"]" * 300, b'{"":{"":""}}',
    ],
    ids=repr,
)  # fmt: skip
def test_every_spelling_is_the_one_form_for_both_ways_or_for_neither(data: bytes) -> None:
    assert repr(outcome(lambda: parse(data))) == repr(outcome(lambda: _parse(data)))


@given(JSON)
def test_reads_back_as_what_was_written(value: object) -> None:
    assert json.loads(dumps(value)) == value


@given(JSON)
def test_one_form_is_read(value: object) -> None:
    assert parse(dumps(value)) == value


OTHER_FORMS = [
    b'{"b":1,"a":2}', b'{"a":1,"a":1}', b'{"a":1,"a":2}', b'{"a": 1}', b" 1", b"1 ", b"1.0e1", b"-0.00", b"[1,\n2]",
    rb'"\u0061"', rb'"\u00e9"', rb'"\/"', rb'"\ud83d\ude00"', rb'"\ud800"', rb'{"\u0061":1}',
]  # fmt: skip


@pytest.mark.parametrize("data", OTHER_FORMS, ids=repr)
def test_another_form_of_the_same_is_refused(data: bytes) -> None:
    json.loads(data)
    with pytest.raises(NotCanonicalError):
        parse(data)


NO_JSON = [
    b"", b"{", b"{}x", b"\xff", b'"\xed\xa0\x80"', b"\xef\xbb\xbf1", "1".encode("utf-16"), "1".encode("utf-32"),
    b"NaN", b"-Infinity", b'{"a":NaN}', b"01", b"'a'", b'"a\nb"', b"{1:2}", b"9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("data", NO_JSON, ids=lambda data: repr(data[:12]))
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        parse(data)
    assert not isinstance(caught.value, NotCanonicalError)


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_bytes_are_read_when_they_are_what_is_written_and_only_then(data: bytes) -> None:
    try:
        found = parse(data)
    except ValueError:
        try:
            assert dumps(json.loads(data)) != data
        except ValueError:
            pass
    else:
        assert dumps(found) == data


def test_writes_one_form() -> None:
    assert dumps({"b": [1, None, True], "a": "é/\n"}) == '{"a":"é/\\n","b":[1,null,true]}'.encode()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {1: 2}, [{None: 1}], {"a": {"b": {True: 1}}}, ({"a": ({2: 1},)},), "\ud800"],
    ids=repr,
)
def test_refuses_what_json_cannot_say(value: object) -> None:
    with pytest.raises(ValueError):
        dumps(value)


class Name(enum.StrEnum):
    ONE = "one"


def test_text_of_another_kind_is_text_all_the_same() -> None:
    assert dumps({Name.ONE: Name.ONE, "a": [Name.ONE]}) == b'{"a":["one"],"one":"one"}'
    with pytest.raises(ValueError, match="keys"):
        dumps({Name.ONE: {Name.ONE: {1: 2}}})
