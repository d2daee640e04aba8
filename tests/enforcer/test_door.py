import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.door import Door, pin_of, time_of
from mesh.problems import Forbidden, Unavailable
from tests.pki import Pki


def test_the_pin_is_of_the_key_and_not_of_the_certificate() -> None:
    pki = Pki()
    one, two = pki.leaf(), pki.leaf()
    again = pki.leaf(key=one.key)
    assert pin_of(one.der) == pin_of(again.der) != pin_of(two.der)
    assert pin_of(b"x") == ""
    # version 4
    assert pin_of(one.der[:12].replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03") + b"\x03" + one.der[13:]) == ""


DOOR = Door("https://127.0.0.1:1", "sha256:0")


_JSON = st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5)


@given(st.dictionaries(st.sampled_from(["class", "code", "facts", "x"]), _JSON | st.dictionaries(st.text(), _JSON)))
def test_any_refusal_is_a_problem(told: dict[str, object]) -> None:
    with pytest.raises((Forbidden, Unavailable)):
        DOOR._refuse(told)


@pytest.mark.parametrize("answer", [{}, {"time": 7}, {"time": "soon"}], ids=str)
def test_an_answer_may_say_no_time(answer: dict[str, object]) -> None:
    assert time_of(answer) is None
