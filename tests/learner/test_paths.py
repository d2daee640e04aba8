import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.paths import learn_templates, segment_type
from policyengine.canonical import PathPattern, canonical_path


def templates(*paths: str) -> set[str]:
    return set(learn_templates(paths).of.values())


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("12", "int"),
        ("1.5", "decimal"),
        ("3f0c9d7e-6c2f-4b0e-9a55-1d2f7b1c9e10", "uuid"),
        ("2026-11-24", "date"),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "ulid"),
        ("deadbeef01", "hex"),
        ("dGhpc19pc19hX3Rva2VuXzEyMw", "token"),
        ("products", ""),
        ("deadbeef", ""),
        ("v1", ""),
        ("alice", ""),
        ("", ""),
    ],
)
def test_the_narrowest_type(segment: str, name: str) -> None:
    assert segment_type(segment) == name


def test_two_values_of_one_type_are_a_parameter_and_one_is_not() -> None:
    assert templates("/orders/1") == {"/orders/1"}
    assert templates("/orders/1", "/orders/2") == {"/orders/{id:int}"}
    ids = [str(uuid.uuid4()) for _ in range(3)]
    assert templates(*(f"/c/{one}/items/{number}" for number, one in enumerate(ids))) == {
        "/c/{id:uuid}/items/{id2:int}"
    }


def test_static_siblings_stay_what_they_are() -> None:
    assert templates("/orders/1", "/orders/2", "/orders/new", "/healthz") == {
        "/orders/{id:int}",
        "/orders/new",
        "/healthz",
    }


def test_a_few_words_are_literals_and_many_different_ones_are_a_parameter() -> None:
    assert templates(*(f"/page/{word}" for word in ("home", "about", "jobs"))) == {
        "/page/home",
        "/page/about",
        "/page/jobs",
    }
    names = [f"/users/name{chr(97 + n)}{chr(97 + m)}" for n in range(6) for m in range(6)]
    learned = learn_templates(names)
    assert set(learned.of.values()) == {"/users/{id}"}
    fold = learned.folds["/users/{id}"][0]
    assert (fold.type, fold.distinct, fold.singles, len(fold.examples)) == ("", 36, 36, 3)


def test_often_repeated_words_stay_closed() -> None:
    words = [f"/page/w{chr(97 + n)}" for n in range(10)] * 50
    assert templates(*words) == {f"/page/w{chr(97 + n)}" for n in range(10)}


def test_words_that_go_on_differently_stay_apart() -> None:
    assert len(templates(*(f"/w{chr(97 + n)}/{'x' * n}" for n in range(1, 20)))) == 19


@pytest.mark.parametrize("path", ["/a/../b", "/a//b/%2f", "/a;x", "no-slash", "/%2e%2e/../.."])
def test_ambiguous_paths_are_never_templated(path: str) -> None:
    learned = learn_templates([path, "/a/b"])
    for template in learned.of.values():
        assert ".." not in template
        assert ";" not in template
        assert "%2F" not in template.upper()


def test_garbage_with_good_answers_aside_templates_do_not_depend_on_order() -> None:
    rng = random.Random(3)
    paths = [f"/o/{rng.randrange(1000)}/x" for _ in range(50)] + ["/h"] * 5
    first = learn_templates(paths)
    rng.shuffle(paths)
    assert learn_templates(paths) == first


SEGMENT = st.sampled_from(["a", "b", "1", "22", "x y", "ü", "2026-01-01", "", "deadbeef0", "..", "%41", "*", "{x}"])


@given(st.lists(st.lists(SEGMENT, max_size=4).map(lambda parts: "/" + "/".join(parts)), max_size=12))
def test_every_learned_path_matches_its_own_template(paths: list[str]) -> None:
    learned = learn_templates(paths)
    for path in paths:
        template = learned.template(path)
        if template is not None:
            found = canonical_path(path)
            assert PathPattern.parse(template).matches(found.segments)  # type: ignore[union-attr]


@given(st.lists(st.text(max_size=30), max_size=8))
def test_any_text_is_learned_or_left_out(paths: list[str]) -> None:
    learn_templates(paths)
