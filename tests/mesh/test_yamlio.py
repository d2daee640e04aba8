import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.yamlio import MAX_DEPTH, compose_documents


def codes(text: str) -> list[str]:
    return [item.code for item in compose_documents(text, "f.yaml")[1]]


def plain(text: str) -> list[object]:
    nodes, findings = compose_documents(text, "f.yaml")
    assert not findings
    return [node.plain() for node in nodes]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("0o80", "0o80"),
        ("0x10", "0x10"),
        ("080", "080"),
        ("22:30", "22:30"),
        ("2026-01-01", "2026-01-01"),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("1_000", "1_000"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("12", 12),
        ("-3", -3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ('"12"', "12"),
        ("'true'", "true"),
        ("9" * 40, "9" * 40),
        ("1e999", "1e999"),
        ("-1e999", "-1e999"),
        ("é漢😀", "é漢😀"),
    ],
)
def test_A50_values_are_those_of_yaml_1_2_core_and_no_more(text: str, value: object) -> None:
    assert plain(f"a: {text}\n") == [{"a": value}]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("\ufeffa: 1", "LM5101"),
        ("a: \u202eb", "LM5101"),
        ("a: \u200bb", "LM5101"),
        ("a: \x00", "LM5101"),
        ("a: b\x85c: d", "LM5101"),
        ("a: b\rc: d", "LM5101"),
        ("a: b\u2028c: d", "LM5101"),
        ("a: \u061cb", "LM5101"),
        ("a: \u2060b", "LM5101"),
        ("a: \xadb", "LM5101"),
        ("a: \u3164b", "LM5101"),
        ("a: \U000e0041b", "LM5101"),
        ("a: [", "LM5102"),
        ("a:\n\t- 1", "LM5102"),
        ("a: &x 1", "LM5103"),
        ("a: *x", "LM5103"),
        ("<<: {a: 1}", "LM5103"),
        ("a: !!str 1", "LM5104"),
        ("a: !x 1", "LM5104"),
        ("a: ! 1", "LM5104"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "LM5105"),
        ("? [a]\n: 1", "LM5106"),
        ("a: 1\na: 2", "LM5107"),
        ("a: 1\n'a': 2", "LM5107"),
        ("x" * (8 << 20) + "x", "LM5100"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_A50_what_is_not_part_of_the_subset_is_found(text: str, code: str) -> None:
    assert code in codes(text)


def test_a_billion_laughs_are_never_expanded() -> None:
    text = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(20))
    assert set(codes(text)) == {"LM5103"}


def test_every_value_knows_its_place_and_all_findings_come_at_once() -> None:
    nodes, findings = compose_documents("a:\n  - b: 1\n---\nc: 2\nc: 3\n---\nd: !x 1\n", "f.yaml")
    assert {item.code for item in findings} == {"LM5104"}
    nodes, findings = compose_documents("a:\n  - b: 1\n---\nc: 2\nc: 3\n", "f.yaml")
    assert [str(item.span) for item in findings] == ["f.yaml:5:1"]
    item = nodes[0].get("a")
    assert item is not None
    assert str(item.items[0].pairs[0][1].span) == "f.yaml:2:8"
    assert nodes[0].get("z") is None


@given(st.text(max_size=200))
def test_any_text_gives_values_or_findings(text: str) -> None:
    nodes, findings = compose_documents(text, "f.yaml")
    for node in nodes:
        node.plain()
    for item in findings:
        assert item.code.startswith("LM51")
        assert item.message


@given(st.text(alphabet="ab:-[]{}&*!#'\"\n ,<|>%@`?", max_size=60))
def test_any_yamlish_text_gives_values_or_findings(text: str) -> None:
    compose_documents(text, "f.yaml")


@given(st.lists(st.sampled_from(["a", "b", "1", ": ", "\n", "\r\n", "  ", "- ", "é", "'", "#"]), max_size=40))
def test_a_value_stands_on_the_line_that_a_reader_sees(parts: list[str]) -> None:
    text = "".join(parts)
    lines = text.split("\n")
    nodes, findings = compose_documents(text, "f.yaml")
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        waiting += [*node.items, *(part for pair in node.pairs for part in pair)]
        assert 1 <= node.span.line <= len(lines)
        assert node.span.column <= len(lines[node.span.line - 1]) + 1
    assert all(item.span is not None and item.span.line >= 1 for item in findings)


def test_a_windows_file_reads_as_another() -> None:
    assert plain("a: 1\r\nb: 2\r\n") == plain("a: 1\nb: 2\n")
