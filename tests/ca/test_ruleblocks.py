import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ca import rulefile
from ca.ruleblocks import divide
from ca.rulefile import load_rules, read_rules
from tests.examples import examples

ONE = "id: a{n}\n  match: {{'unix:path': /opt/{n}, 'unix:sha256': '{n:064x}'}}\n  spiffe_id: /sa/a{n}\n"


def many(count: int, *, indent: str = "", head: str = "rules:\n") -> str:
    return head + "".join(indent + "- " + ONE.format(n=n).replace("\n  ", f"\n{indent}  ") for n in range(count))


@pytest.mark.parametrize("indent", ["", "  "])
@pytest.mark.parametrize("head", ["rules:\n", "# who\n\n---\nrules:   # all\n# the first\n", "rules:\r\n"])
def test_the_parts_are_the_file(indent: str, head: str) -> None:
    text = many(500, indent=indent, head=head)
    parts = list(divide(text))
    assert sum(count for _, count, _ in parts) == 500
    assert len(parts) > 1
    for content, count, begin in parts:
        assert content.count(f"{indent}- id") == count
        assert text.startswith(content, begin)


def test_a_rule_more_changes_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    text = many(2000)
    before = {content for content, _, _ in divide(text)}
    for place in (0, 700, 1999):
        changed = text.replace(
            f"- id: a{place}\n", f"- id: new\n  match: {{'unix:uid': '1'}}\n  spiffe_id: /new\n- id: a{place}\n"
        )
        assert len({content for content, _, _ in divide(changed)} - before) <= 2


@pytest.mark.parametrize(
    "text", ["", "rules: []\n", "rules: [{id: a}]\n", "other: 1\n", "rules:\n", "- id: a\n", "rules: \n\n"]
)
def test_a_file_of_another_form_has_no_parts(text: str) -> None:
    assert list(divide(text)) == []


PIECES = st.sampled_from(
    [
        ONE.format(n=1),
        ONE.format(n=2),
        "id: b\n  match: {'unix:uid': '1'}\n  spiffe_id: /b\n",
        "id: b\n  match:\n    'unix:uid': 1\n  spiffe_id: /b\n  dns_names:\n  - b.test\n  - c.test\n",
        'id: "two\n- lines"\n  match: {"unix:uid": "1"}\n',
        'id: "not ended\n',
        "id: x\n  match: {'unix:uid': '1',\n- 'unix:gid': '2'}\n",
        "id: [a,\n- b]\n",
        "id: |\n    text\n  match: {}\n",
        "|\n  text\n- more\n",
        "# nothing\n",
        "\n",
        "- nested\n",
        "id: a\n...\n",
        "id: a\n---\nrules:\n- id: c\n",
        "id: a\nother: 1\n",
        "id: &x a\n",
        "id: a\n\t- tab\n",
        "'a': 1\n  'a': 2\n",
        "? complex\n  : value\n",
        "id: no\n",
        "plain\n  goes on\n",
        "- \n",
        "id: a\n  hint: >-\n    folded\n\n    text\n",
    ]
)


def shown(text: str) -> tuple[object, ...]:
    rules, findings = load_rules(text, "f")
    return rules.rules, [rule.span for rule in rules.rules], sorted({(item.code, item.span) for item in findings})


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(PIECES, max_size=7), st.sampled_from(["rules:\n", "# c\nrules:\n\n"]), st.booleans())
def test_reading_in_parts_is_reading_the_whole(pieces: list[str], head: str, alone: bool) -> None:
    text = head + "".join(f"- {piece}" for piece in pieces)
    with pytest.MonkeyPatch.context() as patched:
        if alone:
            # every rule by itself
            patched.setattr("ca.ruleblocks._MOST", 0)
        in_parts = shown(text)
        patched.setattr(rulefile, "divide", lambda _: iter(()))
        assert in_parts == shown(text)


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(PIECES, max_size=9), st.lists(PIECES, max_size=4), st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_reading_what_changed_is_reading_all(
    pieces: list[str], others: list[str], begin: int, end: int, alone: bool
) -> None:
    def made(found: list[str]) -> str:
        return "rules:\n" + "".join(f"- {piece}" for piece in found)

    first, second = made(pieces), made([*pieces[:begin], *others, *pieces[begin + end :]])
    with pytest.MonkeyPatch.context() as patched:
        if alone:
            patched.setattr("ca.ruleblocks._MOST", 0)
        loaded = read_rules(first, "f")
        for text in (second, first, "# moved\n" + second, first):
            loaded, plain = read_rules(text, "f", loaded), read_rules(text, "f")
            assert loaded.rules == plain.rules
            assert [(item.code, item.span) for item in loaded.findings] == [
                (item.code, item.span) for item in plain.findings
            ]
