import pytest

from limen.values import Ask, Issued


def test_values_are_frozen() -> None:
    ask = Ask(ref="1", spki=b"", facts=())
    with pytest.raises(AttributeError):
        ask.ref = "2"  # type: ignore[misc]


def test_an_answer_without_a_code_is_an_svid() -> None:
    assert Issued(ref="1").code == ""
