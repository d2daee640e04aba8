from collections.abc import Callable

import pytest

from enforcer.native import told
from mesh.problems import Invalid
from mesh.spiffe import TrustDomain

DOMAIN = TrustDomain.parse("corp.test")


def test_each_field_is_read_as_its_kind() -> None:
    row: dict[str, object] = {"type": "x", "t": "a", "n": 7, "h": None, "l": [1], "o": {"a": 1}, "r": [{"a": 1}]}
    assert told.text(row, "t") == "a"
    assert told.number(row, "n") == 7
    assert told.items(row["l"]) == [1]
    assert told.mapping(row, "o") == {"a": 1}
    assert told.rows(row, "r") == [{"a": 1}]
    assert told.handle({}) is None
    assert told.handle({"handle": 3}) == 3


def test_a_bundle_is_read_with_what_narrows_it() -> None:
    found = told.bundle(DOMAIN, {"authorities": ["YQ=="], "intermediates": ["p"], "crls": ["Yg=="]})
    assert found.x509_authorities == (b"a",)
    assert found.intermediates == frozenset(("p",))
    assert found.crls == (b"b",)
    assert told.bundle(DOMAIN, {"authorities": ["YQ=="], "crls": []}).intermediates is None


@pytest.mark.parametrize(
    "read",
    [
        lambda: told.text({"t": 1}, "t"),
        lambda: told.text({}, "t"),
        lambda: told.number({"n": True}, "n"),
        lambda: told.number({"n": -1}, "n"),
        lambda: told.number({"n": 1.5}, "n"),
        lambda: told.handle({"handle": "3"}),
        lambda: told.items({"a": 1}),
        lambda: told.mapping({"o": []}, "o"),
        lambda: told.rows({"type": "x", "r": [1]}, "r"),
        lambda: told.rows({"type": "x"}, "r"),
        lambda: told.bundle(DOMAIN, []),
        lambda: told.bundle(DOMAIN, {"authorities": "YQ=="}),
    ],
)
def test_nothing_stands_in_for_another_kind(read: Callable[[], object]) -> None:
    with pytest.raises(Invalid) as caught:
        read()
    assert caught.value.code == "LM3002"
