"""YAML with names for what stands in several places: the same data, each shared object written once."""

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.compile import sharedyaml
from tests.examples import examples

texts = st.text(st.characters(blacklist_categories=("Cs",)), max_size=6)
plain = st.none() | st.booleans() | st.integers(-9, 9) | texts
data = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=12
)


@settings(max_examples=examples(300), deadline=None)
@given(st.dictionaries(texts, data, max_size=4))
def test_what_is_read_is_what_was_written(value: dict[str, object]) -> None:
    several = {"a": value, "b": [value, {"c": value}]}
    assert yaml.load(sharedyaml.write(several), yaml.SafeLoader) == several


def test_an_object_in_several_places_is_written_once() -> None:
    shared = {"matcher": {"a": 1, "b": [2]}}
    text = sharedyaml.write({f"caller-{number}": shared for number in range(1000)})
    assert text.count('"matcher"') == 1
    assert text.count("*m1") == 999


def test_equal_objects_that_are_not_one_are_written_each() -> None:
    assert "&" not in sharedyaml.write([{"a": [1]}, {"a": [1]}])


def test_an_object_of_one_word_has_no_name() -> None:
    small = {"a": 1}
    assert "&" not in sharedyaml.write([small, small])
