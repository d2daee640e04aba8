import pytest

from ca.acme import names
from mesh.problems import Problem


def order(kind: str, value: str) -> tuple[names.Identifier, ...]:
    return names.identifiers([{"type": kind, "value": value}])


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("dns", "A.Test", "a.test"),
        ("dns", "*.a.test", "*.a.test"),
        ("dns", "xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("dns", "printer", "printer"),
        ("ip", "10.0.0.1", "10.0.0.1"),
        ("ip", "::1", "::1"),
    ],
)
def test_a_name_has_one_form(kind: str, value: str, expected: str) -> None:
    assert order(kind, value) == ((kind, expected),)


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        ("dns", "", "LM1406"),
        ("dns", "a..test", "LM1406"),
        ("dns", "a.test.", "LM1406"),
        ("dns", "-a.test", "LM1406"),
        ("dns", "a_b.test", "LM1406"),
        ("dns", "a*.test", "LM1406"),
        ("dns", "*.*.test", "LM1406"),
        ("dns", "*.test", "LM1406"),
        ("dns", "b\u00fccher.test", "LM1406"),
        ("dns", "ab--c.test", "LM1406"),
        ("dns", "10.0.0.1", "LM1406"),
        ("dns", "x" * 64 + ".test", "LM1406"),
        ("dns", ".".join(["x" * 60] * 5), "LM1406"),
        ("dns", "a.test\0", "LM1406"),
        ("ip", "10.0.0.01", "LM1400"),
        ("ip", "::0001", "LM1400"),
        ("ip", "fe80::1%eth0", "LM1400"),
        ("uri", "spiffe://a/b", "LM1420"),
    ],
)
def test_a_name_that_is_none_is_refused(kind: str, value: str, code: str) -> None:
    with pytest.raises(Problem, match=code):
        order(kind, value)


@pytest.mark.parametrize("found", [None, [], {}, [{}], [{"type": "dns"}], [{"type": "dns", "value": 1}], ["a"] * 101])
def test_a_list_of_another_shape_is_refused(found: object) -> None:
    with pytest.raises(Problem, match="LM1400"):
        names.identifiers(found)


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [("test", True), ("a.test", True), ("*.a.test", True), ("atest", False), ("test.evil", False)],
)
def test_a_name_is_below_a_suffix_or_is_it(value: str, is_allowed: bool) -> None:
    if is_allowed:
        names.check_allowed([("dns", value)], ["test"], [])
    else:
        with pytest.raises(Problem, match="LM1406"):
            names.check_allowed([("dns", value)], ["test"], [])
    names.check_allowed([("dns", value)], [], [])
