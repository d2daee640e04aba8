import enum
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.canonicaljson import dumps

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet="abcé", max_size=4), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(JSON)
def test_reads_back_as_what_was_written(value: object) -> None:
    assert json.loads(dumps(value)) == value


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
