import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.yamlio import MAX_DEPTH, MAX_FINDINGS, MAX_VALUES, compose_documents, needs_quotes


def codes(text: str) -> list[str]:
    return [item.code for item in compose_documents(text, "f.yaml")[1]]


def plain(text: str) -> list[object]:
    nodes, findings = compose_documents(text, "f.yaml")
    assert not findings
    return [node.plain() for node in nodes]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'no'", "no"),
        ('"0o80"', "0o80"),
        ('"22:30"', "22:30"),
        ("2026-01-01", "2026-01-01"),
        ("nobody", "nobody"),
        ("08:00", "08:00"),
        ("0", 0),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("a:1", "a:1"),
        ("n", "n"),
        ("9007199254740991", 2**53 - 1),
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
        ('"' + "9" * 40 + '"', "9" * 40),
        ("é漢😀", "é漢😀"),
    ],
)
def test_A50_values_are_those_of_yaml_1_2_core_and_no_more(text: str, value: object) -> None:
    assert plain(f"a: {text}\n") == [{"a": value}]


AMBIGUOUS = [
    "no", "No", "NO", "yes", "YES", "on", "Off", "0o17", "0x10", "0b1", "010", "080", "-012", "1_000", "1_0.5",
    "22:30", "1:2:3:4:5:6:7:8", "190:20:30.15", ".inf", "-.INF", ".nan", ".NaN",
]  # fmt: skip


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_A50_what_yaml_1_1_reads_differently_is_quoted(text: str) -> None:
    for written in (f"a: {text}\n", f"{text}: a\n", f"- [{text}]\n"):
        assert codes(written) == ["LM5109"]
        assert compose_documents(written, "f.yaml", foreign=True)[1] == []
    assert plain(f"a: '{text}'\n") == [{"a": text}]


@pytest.mark.parametrize("text", ["9" * 40, "-" + "9" * 19, str(2**53), "1e999", "-1e999", "0." + "1" * 30])
def test_A50_numbers_that_not_every_reader_keeps_are_refused(text: str) -> None:
    assert codes(f"a: {text}\n") == ["LM5111"]
    assert codes(f"a: '{text}'\n") == []


@given(
    st.text(alphabet="0123456789_.:+-eExobaNnfyYsStrue~", max_size=8)
    | st.sampled_from([*AMBIGUOUS, "true", "Null", "~", ""])
)
def test_a_text_that_needs_no_quotes_stays_the_text_that_it_is(text: str) -> None:
    if needs_quotes(text) or text.strip(" :-") != text or text.startswith("-") or ": " in text:
        assert plain(json.dumps([text])) == [[text]]
        return
    nodes, findings = compose_documents(f"- {text}\n", "f.yaml")
    assert not findings
    assert nodes[0].plain() == [text]


def test_a_value_that_is_refused_leaves_the_rest_of_the_file_to_be_read() -> None:
    nodes, findings = compose_documents("a: no\nb: 1\n---\nc: 2\nc: 3\n", "f.yaml")
    assert [(item.code, str(item.span)) for item in findings] == [("LM5109", "f.yaml:1:4"), ("LM5107", "f.yaml:5:1")]
    assert [node.plain() for node in nodes] == [{"a": "no", "b": 1}, {"c": 2}]


def test_findings_and_values_of_one_file_are_bounded() -> None:
    repeated = codes("a: 1\n" * 3_000)
    assert (len(repeated), set(repeated[:-1]), repeated[-1]) == (MAX_FINDINGS + 1, {"LM5107"}, "LM5110")
    assert codes("- &a x\n" * 3_000)[-1] == "LM5110"
    assert codes("-\n" * (MAX_VALUES + 1)) == ["LM5108"]


def test_a_message_repeats_no_more_than_a_reader_needs() -> None:
    (finding,) = compose_documents(f"'{'x' * 1_000}': 1\n'{'x' * 1_000}': 1\n", "f.yaml")[1]
    assert len(finding.message) < 400


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
    assert [(item.code, str(item.span)) for item in findings] == [("LM5104", "f.yaml:7:4"), ("LM5107", "f.yaml:5:1")]
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
