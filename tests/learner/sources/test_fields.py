import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.sources import fields


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("FE80::1%eth0", "fe80::1"),
        ("2001:DB8::", "2001:db8::"),
    ],
)
def test_an_address_has_one_spelling(value: str, expected: str) -> None:
    assert fields.ip("x", value) == expected


@pytest.mark.parametrize("value", [None, 1, "", "10.0.0", "010.0.0.1", "x"])
def test_what_is_no_address_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="`x` is an IP address"):
        fields.ip("x", value)


def test_numbers_are_json_or_decimal_text() -> None:
    assert fields.number("x", "12") == fields.number("x", 12) == 12
    for wrong in (True, -1, "1.0", "٣", "", None, "9" * 30):
        with pytest.raises(ValueError, match="`x`"):
            fields.number("x", wrong)
    with pytest.raises(ValueError, match="`p`"):
        fields.port("p", 65536)


@pytest.mark.parametrize("wrong", [-1, "x", None, True, float("nan"), float("inf"), 1e18])
def test_what_is_no_moment_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="`t`"):
        fields.seconds("t", wrong)


def test_moments_of_every_unit_are_the_same() -> None:
    expected = dt.datetime(2026, 5, 1, 12, 0, 0, 500000, tzinfo=dt.UTC)
    base = int(expected.timestamp())
    assert fields.seconds("t", base + 0.5) == fields.seconds("t", f"{base}.500000") == expected
    assert fields.milliseconds("t", base * 1000 + 500) == expected
    assert fields.nanoseconds("t", str(base * 10**9 + 500_000_000)) == expected
    assert (
        fields.moment("t", "2026-05-01T12:00:00.5Z")
        == fields.moment("t", "2026-05-01T14:00:00.500000+0200")
        == expected
    )
    with pytest.raises(ValueError, match="`t`"):
        fields.moment("t", "yesterday")


def test_texts_objects_and_lists_are_what_they_say() -> None:
    assert fields.text({"a": "-"}, "a") is fields.text({}, "a") is fields.text({"a": ""}, "a") is None
    assert fields.mapping({}, "a") == {}
    assert fields.items({}, "a") == []
    for call in (fields.text, fields.mapping, fields.items):
        with pytest.raises(ValueError, match="`a`"):
            call({"a": 1}, "a")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("10.0.0.1", ("10.0.0.1", None)),
        ("-", None),
        (None, None),
        ("unix:/tmp/x", None),
        ("example.org:80", None),
    ],
)
def test_sockets_are_addresses_with_ports(value: str | None, expected: object) -> None:
    assert fields.socket("s", value) == expected


@given(st.text(max_size=40))
def test_no_text_makes_more_than_a_finding(value: str) -> None:
    for read in (fields.ip, fields.number, fields.port, fields.seconds, fields.moment, fields.milliseconds):
        try:
            read("x", value)
        except ValueError as err:
            assert "`x`" in str(err)


def test_names_that_are_no_spiffe_id_are_none() -> None:
    assert fields.spiffe_id("spiffe://corp.test/a") == "spiffe://corp.test/a"
    assert fields.spiffe_id("https://corp.test") is fields.spiffe_id(7) is None
