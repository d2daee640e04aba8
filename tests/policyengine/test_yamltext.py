import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.yamltext import UnsplittableError, comments_of, lines_of, pieces_of
from tests.policyengine.yamltexts import texts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1 # x\n", [(0, 5, "# x", False)]),
        ("# x \n  # y\na: 1\n", [(0, 0, "# x", True), (1, 2, "# y", True)]),
        ("a: 'x # y'\nb: x#y\nc: \"#\"\n", []),
        ("a: | # head\n  # text\n# tail\n", [(0, 5, "# head", False), (2, 0, "# tail", True)]),
        ("a: [b, # c\n  d]\n", [(0, 7, "# c", False)]),
        ("a: 'x\n  # y'\n# z\n", [(2, 0, "# z", True)]),
        ("é: 'é #' # x\n", [(0, 9, "# x", False)]),
    ],
)
def test_comments_are_what_no_value_holds(text: str, found: list[tuple[int, int, str, bool]]) -> None:
    assert [(item.line, item.column, item.text, item.stands_alone) for item in comments_of(text)] == found


def test_pieces_are_what_separators_separate() -> None:
    text = "# a\n---\nb: |\n  ---x\n---\n...\nc: 1\n"
    assert [(piece.first, piece.text) for piece in pieces_of(text)] == [
        (0, "# a\n"),
        (2, "b: |\n  ---x\n"),
        (5, ""),
        (6, "c: 1\n"),
    ]


@pytest.mark.parametrize("text", ["%YAML 1.2\n---\na: 1\n", "--- a\n", "--- # x\na: 1\n"])
def test_what_stands_beside_a_separator_is_left_alone(text: str) -> None:
    with pytest.raises(UnsplittableError):
        pieces_of(text)


@given(texts())
def test_pieces_and_separators_are_the_whole_file(text: str) -> None:
    pieces = pieces_of(text)
    assert "\n---\n".join("\n".join(piece.lines) for piece in pieces) == "\n".join(lines_of(text))


@given(
    st.text(alphabet="a# :'\"\n-", max_size=30).map(lambda text: f"# {text.splitlines()[0] if text else ''}\na: 1\n")
)
def test_a_comment_alone_is_found_whole(text: str) -> None:
    assert comments_of(text)[0].text == lines_of(text)[0].rstrip()
