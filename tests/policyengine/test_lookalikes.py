import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.lookalikes import hidden_character, mixed_word, skeleton


@pytest.mark.parametrize(
    ("one", "other"),
    [("db-1", "db-l"), ("db-1", "db-I"), ("web0", "webO"), ("Cart", "cart"), ("team", "tearn"), ("modern", "rnodern")],
)
def test_names_that_look_alike_have_one_skeleton(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other)


@pytest.mark.parametrize(("one", "other"), [("db-1", "db-2"), ("a-b", "a_b"), ("cart", "carts"), ("web", "wed")])
def test_names_that_do_not_look_alike_have_two(one: str, other: str) -> None:
    assert skeleton(one) != skeleton(other)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("team-d\u0430ta", "d\u0430ta"),
        ("/\u0430dmin", "\u0430dmin"),
        ("p\u03b1y", "p\u03b1y"),
        ("\uff41dmin", "\uff41dmin"),
        ("\U0001d41admin", "\U0001d41admin"),
        ("team-data", None),
        ("café", None),
        ("cafe\u0301", None),
        ("команда-данные", None),
        ("data-данные", None),
        ("Tokyo東京", None),
        ("カタカナとひらがな", None),
        ("", None),
    ],
)
def test_a_word_holds_letters_of_one_script(text: str, word: str | None) -> None:
    assert mixed_word(text) == word


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("a b é", None),
        ("a\u00a0b", None),
        ("a\nb", "\n"),
        ("a\u200bb\x00", "\u200b"),
        ("\u2028", "\u2028"),
        ("\ud800", "\ud800"),
    ],
)
def test_a_character_that_does_not_show_is_found(text: str, hidden: str | None) -> None:
    assert hidden_character(text) == hidden


@given(st.text(max_size=40))
def test_any_text_is_looked_at(text: str) -> None:
    found = mixed_word(text)
    assert found is None or found in text
