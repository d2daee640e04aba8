"""Formatting has one result, says what the file said, and keeps every comment; where it cannot, the file stays."""

# ruff: noqa: E501  a table reads best with one case a line

import pathlib

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from mesh.problems import Invalid
from mesh.yamlio import compose_documents
from policyengine.formatting import formatted
from policyengine.loader import load_text
from policyengine.yamltext import comments_of
from tests.examples import examples
from tests.policyengine.yamltexts import texts

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param("a:   1\n", "a: 1\n", id="spaces"),
        pytest.param("a: {  b:  1,c: 2 }\n", "a: {b: 1, c: 2}\n", id="flow"),
        pytest.param("a:\n    - 1\n    - b: 2\n      c: 3\n", "a:\n- 1\n- b: 2\n  c: 3\n", id="indentation"),
        pytest.param("a: 'x'\nb: 'say \"x\"'\nc: x\n", "a: \"x\"\nb: 'say \"x\"'\nc: x\n", id="quotes"),
        pytest.param("spec: 1\nkind: 2\napiVersion: 3\n", "apiVersion: 3\nkind: 2\nspec: 1\n", id="order"),
        pytest.param("spec: 1  # x\nkind: 2\n", "spec: 1  # x\nkind: 2\n", id="order-stays-beside-comments"),
        pytest.param("a: 1\r\nb: 2\r\n", "a: 1\nb: 2\n", id="line-ends"),
        pytest.param("\n\na: 1   \n\n\n\nb: 2\n\n", "a: 1\n\nb: 2\n", id="blank-lines"),
        pytest.param("---\na: 1\n---\n---\n# only\n---\nb: 2\n...\n", "a: 1\n---\n# only\n---\nb: 2\n", id="documents"),
        pytest.param("a: 1 # x\n#y\n    # z\nb:\n# deep\n  c: 1\n", "a: 1  # x\n#y\n# z\nb:\n  # deep\n  c: 1\n", id="comments"),
        pytest.param("a: |\n  # text\n\n  x  \nb: '#'\n", 'a: |\n  # text\n\n  x  \nb: "#"\n', id="no-comments"),
        pytest.param("a: x\n  y\n", "a: x y\n", id="folded"),
        pytest.param("a: [" + ", ".join(["x" * 30] * 5) + "]\n", "a:\n" + f"- {'x' * 30}\n" * 5, id="long-lists-are-blocks"),
        pytest.param("a:\nb: null\nc: ~\nd: ''\n", 'a:\nb: null\nc: ~\nd: ""\n', id="nothing-stays-nothing"),
        pytest.param("a: 1.0\nb: 2027-01-01T00:00:00Z\nc: 1.50\n", "a: 1.0\nb: 2027-01-01T00:00:00Z\nc: 1.50\n", id="values-stay"),
        pytest.param("", "", id="empty"),
        pytest.param("# only\n", "# only\n", id="only-a-comment"),
    ],
)  # fmt: skip
def test_one_form(text: str, result: str) -> None:
    assert formatted(text, "f.yaml") == result
    assert formatted(result, "f.yaml") == result


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [\n", "LM5102"),
        ("a: no\n", "LM5109"),
        ("a: 1\na: 2\n", "LM5107"),
        ("%YAML 1.2\n---\na: 1\n", "LM2711"),
        ("--- {a: 1}\n", "LM2711"),
    ],
)
def test_what_cannot_be_formatted_is_refused_with_its_code(text: str, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        formatted(text, "f.yaml")
    assert caught.value.code == code


@settings(max_examples=examples(25), deadline=None)
@given(texts())
def test_formatting_keeps_meaning_and_comments_and_is_done_at_once(text: str) -> None:
    before, found = load_text(text, "f.yaml")
    try:
        result = formatted(text, "f.yaml")
    except Invalid as problem:
        # comments inside flow are where the library gives up; the file stays as it is
        event(problem.code)
        assert problem.code == "LM2711"
        assert "[" in text or "{" in text
        return
    event("formatted")
    after, again = load_text(result, "f.yaml")
    assert after == before
    assert sorted(item.code for item in again) == sorted(item.code for item in found)
    assert formatted(result, "f.yaml") == result
    assert [item.text for item in comments_of(result)] == [item.text for item in comments_of(text)]
    assert "\t" not in result
    assert all(line == line.rstrip() for line in result.split("\n"))


@settings(max_examples=examples(100), deadline=None)
@given(st.text(alphabet="ab: -[]{},'\"#|>\n", max_size=60))
def test_any_text_is_formatted_without_a_change_of_meaning_or_refused(text: str) -> None:
    try:
        result = formatted(text, "f.yaml")
    except Invalid:
        return

    def plain(of: str) -> list[object]:
        return [node.plain() for node in compose_documents(of, "f.yaml")[0] if node.kind != "null"]

    assert plain(result) == plain(text)
    assert formatted(result, "f.yaml") == result
