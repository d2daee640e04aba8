import datetime as dt
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca import ruletie
from ca.registration import RuleSet
from ca.rulefile import has_errors, load_rules
from mesh.problems import Severity

DIGEST = "0a" * 32
GOOD = """
rules:
- id: shop
  match: {"unix:path": "/opt/shop/*", "unix:uid": "1001", "unix:sha256": "@DIGEST"}
  spiffe_id: "/ns/shop/sa/{unix:basename}"
  ttl: 15m
  dns_names: ["{unix:basename}.corp.test"]
  hint: main
  direct: true
  federates_with: [other.test]
- id: batch
  match: {"launch:path": /opt/batch, "k8s:pod-label:app": batch, "docker:label:a": b, "node:region": eu}
  spiffe_id: /ns/batch
""".replace("@DIGEST", DIGEST)


def load(text: str) -> tuple[RuleSet, list[str]]:
    rules, found = load_rules(textwrap.dedent(text), "identities.yaml")
    return rules, [item.code for item in found]


def errors(text: str) -> list[str]:
    _, found = load_rules(textwrap.dedent(text), "identities.yaml")
    return [item.code for item in found if item.severity is Severity.ERROR]


def one(**fields: str) -> str:
    """A file with one rule whose fields are replaced, or left out when empty."""
    base = {"id": "a", "match": f'{{"unix:sha256": "{DIGEST}"}}', "spiffe_id": "/x", **fields}
    lines = [f"  {name}: {value}" for name, value in base.items() if value != ""]
    return "rules:\n-" + "\n".join(lines)[1:] + "\n"


def test_a_whole_file_is_read() -> None:
    rules, found = load(GOOD)
    assert found == []
    shop, batch = rules.rules
    assert (shop.id, shop.ttl, shop.dns_names, shop.hint, shop.direct) == (
        "shop", dt.timedelta(minutes=15), ("{unix:basename}.corp.test",), "main", True,
    )  # fmt: skip
    assert [str(name) for name in shop.federates_with] == ["other.test"]
    assert [(item.name, item.value, item.prefix) for item in shop.match] == [
        ("unix:path", "/opt/shop/", True), ("unix:sha256", DIGEST, False), ("unix:uid", "1001", False),
    ]  # fmt: skip
    assert (batch.ttl, batch.direct) == (dt.timedelta(hours=1), False)


@pytest.mark.parametrize("text", ["", "rules:\n", "rules: []\n", "# nothing\n"])
def test_an_empty_file_has_no_rules(text: str) -> None:
    assert load(text) == (RuleSet(), [])


def bad() -> list[object]:
    def case(name: str, code: str, text: str) -> object:
        return pytest.param(text, code, id=name)

    return [
        case("a-list", "LM1220", "- id: a\n"),
        case("rules-is-a-map", "LM1220", "rules: {a: b}\n"),
        case("rule-is-text", "LM1220", "rules: [a]\n"),
        case("unknown-top-level", "LM1221", "rule: []\n"),
        case("unknown-field", "LM1221", one(spiffeid="/x")),
        case("unknown-selector", "LM1221", one(match='{"unix:pth": a}')),
        case("bare-family", "LM1221", one(match='{"docker:label:": a}')),
        case("duplicate-id", "LM1222", one() + one()[7:]),
        case("no-id", "LM1223", one(id="")),
        case("no-match", "LM1223", one(match="")),
        case("no-spiffe-id", "LM1223", one(spiffe_id="")),
        case("id-with-space", "LM1224", one(id="a b")),
        case("id-is-a-number", "LM1224", one(id="12")),
        case("empty-match", "LM1224", one(match="{}")),
        case("match-is-text", "LM1224", one(match="any")),
        case("empty-selector", "LM1224", one(match='{"unix:uid": ""}')),
        case("selector-is-a-list", "LM1224", one(match='{"unix:uid": [1]}')),
        case("star-in-the-middle", "LM1224", one(match='{"unix:path": "/a/*/b"}')),
        case("two-stars", "LM1224", one(match='{"unix:path": "/a/**"}')),
        case("digest-of-an-image-as-a-tag", "LM1224", one(match='{"docker:image-digest": "shop:1"}')),
        case("digest-of-another-size", "LM1224", one(match='{"unix:sha256": "ab"}')),
        case("digest-in-upper-case", "LM1224", one(match=f'{{"launch:sha256": "{DIGEST.upper()}"}}')),
        case("digest-with-a-star", "LM1224", one(match=f'{{"launch:script_sha256": "{DIGEST}*"}}')),
        case("limens-own-identity", "LM1231", one(spiffe_id="/limen/agent/n1")),
        case("limens-own-template", "LM1231", one(spiffe_id='"/limen/{unix:basename}"')),
        case("limens-own-root", "LM1231", one(spiffe_id="/limen")),
        case("relative-id", "LM1224", one(spiffe_id="x")),
        case("whole-id", "LM1224", one(spiffe_id='"spiffe://td/x"')),
        case("root-path", "LM1226", one(spiffe_id="/")),
        case("trailing-slash", "LM1226", one(spiffe_id="/a/")),
        case("dots", "LM1226", one(spiffe_id="/a/../b")),
        case("open-brace", "LM1226", one(spiffe_id='"/{unix:uid"')),
        case("unknown-in-template", "LM1225", one(spiffe_id='"/{unix:basname}"')),
        case("empty-in-template", "LM1225", one(spiffe_id='"/{}"')),
        case("ttl-is-a-number", "LM1224", one(ttl="60")),
        case("ttl-too-short", "LM1224", one(ttl="29s")),
        case("ttl-too-long", "LM1224", one(ttl="31d")),
        case("ttl-of-weeks", "LM1224", one(ttl="2w")),
        case("ttl-zero", "LM1224", one(ttl="0h")),
        case("dns-wildcard", "LM1224", one(dns_names='["*.corp.test"]')),
        case("dns-upper-case", "LM1224", one(dns_names="[Corp.test]")),
        case("dns-empty", "LM1224", one(dns_names="[]")),
        case("dns-unknown-in-template", "LM1225", one(dns_names='["{unix:nam}.corp.test"]')),
        case("long-hint", "LM1224", one(hint="x" * 1025)),
        case("direct-is-text", "LM1224", one(direct="yes")),
        case("federates-with-an-id", "LM1224", one(federates_with='["spiffe://td"]')),
        case("anchor", "LM5103", "rules: &a []\n"),
        case("duplicate-key", "LM5107", "rules: []\nrules: []\n"),
    ]


@pytest.mark.parametrize(("text", "code"), bad())
def test_a_mistake_is_found_with_its_place(text: str, code: str) -> None:
    _, found = load_rules(text, "identities.yaml")
    assert code in [item.code for item in found]
    assert has_errors(found)
    assert all(item.span is not None and item.span.file == "identities.yaml" for item in found)


def test_all_mistakes_are_found_at_once() -> None:
    text = one(id="a b", ttl="1w", spiffe_id="x") + "- {id: c}\n"
    assert errors(text) == ["LM1224", "LM1224", "LM1224", "LM1223", "LM1223"]


@pytest.mark.parametrize(
    ("field", "good", "bad"), [("dns_names", "a.test", "B.test"), ("federates_with", "b.test", "C.test")]
)
def test_a_mistake_in_a_list_is_found_where_its_item_stands_and_says_which(field: str, good: str, bad: str) -> None:
    text = one(**{field: f"[{good}, {bad}]"})
    line = next(place for place, line in enumerate(text.splitlines(), 1) if field in line)
    ((found),) = [item for item in load_rules(text, "f")[1] if item.code == "LM1224"]
    assert found.span is not None
    assert (found.span.line, found.span.column) == (line, text.splitlines()[line - 1].index(bad) + 1)
    assert f"`{bad}`" in found.message


def test_an_unknown_name_comes_with_the_one_that_was_meant() -> None:
    _, found = load_rules(one(match='{"unix:pth": a}'), "f")
    assert "unix:path" in found[0].message


def test_a_tie_is_an_error_at_load() -> None:
    two = one(match='{"unix:path": "/a*"}') + one(id="b", match='{"unix:path": "/a/b*"}')[7:]
    assert errors(two) == ["LM1213"]


def test_many_rules_take_comparisons_that_grow_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = "".join(
        f'- id: r{place}\n  match: {{"launch:path": "/opt/{place}/*"}}\n  spiffe_id: /x\n' for place in range(3000)
    )
    # pair by pair it takes four and a half million
    monkeypatch.setattr(ruletie, "MAX_COMPARISONS", 10 * 3000)
    assert errors(f"rules:\n{rules}") == []


@pytest.mark.parametrize("match", ['{"unix:uid": 1001}', '{"launch:path": "*"}'], ids=["uid", "any-launch"])
def test_a_rule_that_names_no_program_is_a_warning(match: str) -> None:
    _, found = load_rules(one(match=match), "f")
    assert [(item.code, item.severity) for item in found] == [("LM1227", Severity.WARNING)]
    assert not has_errors(found)


def test_a_number_is_read_as_it_is_written() -> None:
    rules, _ = load(one(match='{"unix:uid": 1001}'))
    assert rules.rules[0].match[0].value == "1001"


@given(st.text(max_size=200))
def test_any_text_is_read_or_found_wrong(text: str) -> None:
    load_rules(text, "f")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["rules", "id", "match", "spiffe_id", "ttl", "dns_names", "hint", "direct", "unix:uid"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_shape_is_read_or_found_wrong(value: object) -> None:
    import json

    load_rules(json.dumps({"rules": [value]}), "f")


def test_admin_is_shown_and_written_out() -> None:
    assert load(one(admin="true"))[1] == ["LM1216"]
    assert load(one(admin="true"))[0].rules[0].admin
    assert errors(one(admin="true", spiffe_id='"/ops/{unix:basename}"')) == ["LM1217"]
    assert errors(one(admin='"yes"')) == ["LM1224"]


@pytest.mark.parametrize(
    ("match", "codes"),
    [
        pytest.param('{"unix:path": /usr/bin/python3}', ["LM1218", "LM1227"], id="path"),
        pytest.param('{"unix:basename": bash}', ["LM1218", "LM1227"], id="basename"),
        pytest.param('{"launch:path": /usr/bin/python3}', [], id="launched"),
        pytest.param('{"unix:path": /opt/python-app}', ["LM1227"], id="a-program"),
    ],
)
def test_a_rule_that_names_an_interpreter_is_a_warning(match: str, codes: list[str]) -> None:
    assert sorted(load(one(match=match))[1]) == codes


@pytest.mark.parametrize(("ttl", "codes"), [("59s", ["LM1224"]), ("60s", []), ("1m", []), ("31d", ["LM1224"])])
def test_a_life_is_a_minute_at_least(ttl: str, codes: list[str]) -> None:
    assert errors(one(ttl=ttl)) == codes
