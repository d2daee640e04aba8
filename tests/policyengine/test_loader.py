"""A policy tree loads as a whole, and every finding stands at its file, line and column."""

# ruff: noqa: E501  a table reads best with one case a line

import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.problems import Diagnostic, Invalid, Severity
from policyengine import loader
from policyengine.loader import KeptFiles, load_text, load_tree, require_tree

ROOT = pathlib.Path(__file__).parents[2]
HEAD = "apiVersion: limen.dev/v1\n"
DB = HEAD + (
    'kind: Service\nmetadata: {name: db, owner: t}\nspec:\n  identities: ["spiffe://corp.test/ns/shop/sa/db"]\n'
    "  ports: [{port: 8080, protocol: http}, {port: 5432, protocol: tcp}]\n---\n"
)


def rule(text: str) -> str:
    return (
        DB
        + HEAD
        + "kind: Policy\nmetadata: {name: p, owner: t}\nspec:\n  service: db\n  tier: app\n  rules:\n  - "
        + text
    )


def codes(text: str) -> list[str]:
    return [item.code for item in load_text(text, "f.yaml")[1]]


def places(found: list[Diagnostic]) -> list[tuple[str, int, int]]:
    return [(item.code, item.span.line, item.span.column) for item in found if item.span]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(rule("{id: a, effect: allow, from: [any]}"), [], id="plain"),
        pytest.param(rule("{id: a, effect: allow}"), ["LM2003"], id="from-is-required"),
        pytest.param(rule("{id: a, effect: allow, from: any}"), ["LM2004"], id="from-is-a-list"),
        pytest.param(rule("{id: a, effect: allow, from: []}"), ["LM2005"], id="empty-from"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: []}"), ["LM2005"], id="empty-to"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: [{}]}"), ["LM2019"], id="empty-operation"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: [{ports: []}]}"), ["LM2005"], id="empty-ports"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: [{methods: []}]}"), ["LM2005"], id="empty-methods"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: [{hosts: []}]}"), ["LM2005"], id="empty-hosts"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: [{paths: []}]}"), ["LM2005"], id="empty-paths"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: }"), ["LM2004"], id="null-to"),
        pytest.param(rule("{id: a, effect: allow, from: [any], when: {}}"), ["LM2019"], id="empty-when"),
        pytest.param(rule("{id: a, effect: allow, from: [any], unless: {}}"), ["LM2019"], id="empty-unless"),
        pytest.param(rule("{id: a, effect: allow, from: [any], unless: {from: []}}"), ["LM2005"], id="empty-unless-from"),
        pytest.param(rule("{id: a, effect: allow, from: [any], when: {headers: {}}}"), ["LM2019"], id="empty-headers"),
        pytest.param(rule("{id: a, effect: allow, from: [any], when: {headers: {x: []}}}"), ["LM2005"], id="empty-header"),
        pytest.param(rule("{id: a, effect: allow, from: [any], when: {claims: {issuer: i, r: []}}}"), ["LM2005"], id="empty-claim"),
        pytest.param(rule("{id: a, effect: allow, from: [any], when: {claims: {r: [a]}}}"), ["LM2003"], id="claims-need-issuer"),
        pytest.param(rule("{id: a, effect: allow, from: [any], when: {peer_ip: []}}"), ["LM2005"], id="empty-peer-ip"),
        pytest.param(rule("{id: a, effect: allow, from: [any], when: {peer_ip: [10.0.0.1/8]}}"), ["LM2013"], id="host-bits"),
        pytest.param(rule('{id: a, effect: allow, from: [any], when: {peer_ip: ["::ffff:10.0.0.0/104"]}}'), ["LM2013"], id="mapped-range"),
        pytest.param(rule("{id: a, effect: allow, from: [any], when: {headers: {Host: [a]}}}"), ["LM2015"], id="host-header"),
        pytest.param(rule("{id: a, effect: allow, from: [any], when: {headers: {X: [a], x: [b]}}}"), ["LM2015"], id="header-in-two-cases"),
        pytest.param(rule('{id: a, effect: allow, from: [any], when: {headers: {x: ["a,b"]}}}'), ["LM2021"], id="comma-in-value"),
        pytest.param(rule('{id: a, effect: allow, from: [any], when: {hours: {tz: Mars, from: "8", to: "08:00"}}}'), ["LM2014", "LM2014"], id="hours"),
        pytest.param(rule('{id: a, effect: allow, from: [any], when: {hours: {tz: UTC, from: "08:00", to: "08:00"}}}'), ["LM2014"], id="equal-hours"),
        pytest.param(rule("{id: a, effect: allow, from: [any], when: {rego: data.shop.x}}"), ["LM2040"], id="rego-warns"),
        pytest.param(rule("{id: a, effect: permit, from: [any]}"), ["LM2009"], id="effect"),
        pytest.param(rule("{id: a b, effect: allow, from: [any]}"), ["LM2020"], id="rule-id"),
        pytest.param(rule("{id: a, effect: allow, from: [any]}\n  - {id: a, effect: deny, from: [any]}"), ["LM2031"], id="rule-twice"),
        pytest.param(rule("{id: a, effect: allow, from: ['group:g']}"), ["LM2033"], id="unknown-group"),
        pytest.param(rule("{id: a, effect: allow, from: [any], unless: {from: ['service:web']}}"), ["LM2032"], id="unknown-service"),
        pytest.param(rule('{id: a, effect: allow, from: [any], to: [{ports: ["8080"]}]}'), ["LM2010"], id="A50-port-as-text"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: [{ports: [0o20]}]}"), ["LM5109"], id="A50-octal-port"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: [{ports: [08080]}]}"), ["LM5109"], id="A50-leading-zero"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: [{ports: [true]}]}"), ["LM2010"], id="A50-bool-port"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: [{ports: [8081]}]}"), ["LM2036"], id="undeclared-port"),
        pytest.param(rule("{id: a, effect: allow, from: [any], to: [{methods: [get]}]}"), ["LM2017"], id="method"),
        pytest.param(
            rule("{id: a, effect: deny, from: [any], to: [{methods: ['*', 'GET|PUT']}]}"), ["LM2017"] * 2, id="method-for-many"
        ),
        pytest.param(DB.replace("spec:", "spec:\n  path_case: insensitive"), [], id="A13-case-is-declared"),
        pytest.param(DB.replace("spec:", "spec:\n  path_case: ignored"), ["LM2009"], id="A13-case-is-one-of-two"),
        pytest.param(rule('{id: a, effect: allow, from: [any], to: [{paths: ["/stra\u00dfe"]}]}'), [], id="A13-any-letter-where-case-matters"),
        pytest.param(
            rule('{id: a, effect: allow, from: [any], to: [{paths: ["/x", "/stra\u00dfe"]}]}').replace("spec:", "spec:\n  path_case: insensitive", 1),
            ["LM2045"], id="A13-letter-whose-case-is-ambiguous",
        ),
        # ports on allow and deny
        pytest.param(rule('{id: a, effect: allow, from: [any], to: [{paths: ["/x"]}]}'), [], id="allow-narrows-to-ports-with-a-meaning"),
        pytest.param(rule('{id: a, effect: allow, from: [any], to: [{ports: [5432], paths: ["/x"]}]}'), ["LM2039"], id="A36-allow-on-tcp-with-paths"),
        pytest.param(rule('{id: a, effect: deny, from: [any], to: [{paths: ["/x"]}]}'), ["LM2037"], id="deny-must-name-ports"),
        pytest.param(rule('{id: a, effect: pass, from: [any], to: [{paths: ["/x"]}]}'), ["LM2037"], id="pass-must-name-ports"),
        pytest.param(rule('{id: a, effect: deny, from: [any], to: [{ports: [8080], paths: ["/x"]}]}'), [], id="deny-names-ports"),
        pytest.param(rule("{id: a, effect: deny, from: [any], when: {headers: {x: [a]}}}"), ["LM2037"], id="deny-with-header-must-name-ports"),
        pytest.param(rule("{id: a, effect: deny, from: [any], unless: {when: {claims: {issuer: i}}}}"), ["LM2037"], id="deny-with-claims-in-unless-must-name-ports"),
        pytest.param(rule("{id: a, effect: deny, from: [any], when: {peer_ip: [10.0.0.0/8]}}"), [], id="deny-with-address-means-every-port"),
        pytest.param(rule("{id: a, effect: deny, from: [any]}"), [], id="plain-deny-means-every-port"),
        pytest.param(rule('{id: a, effect: allow, from: [any], to: [{paths: ["/x"]}]}').replace("8080, protocol: http", "8080, protocol: tcp"), ["LM2038"], id="allow-holds-nowhere"),
        # documents
        pytest.param("kind: Policy\n", ["LM2003", "LM2003", "LM2003"], id="no-version"),
        pytest.param(DB.replace("limen.dev/v1", "v1"), ["LM2000"], id="other-version"),
        pytest.param(DB.replace("Service", "Servce"), ["LM2000"], id="other-kind"),
        pytest.param(DB + DB, ["LM2030"], id="name-twice"),
        pytest.param(DB + DB.replace("name: db", "name: db2").replace("sa/db", "**"), ["LM2034"], id="identities-overlap"),
        pytest.param(DB.replace("name: db", "name: \u0434\u0431"), ["LM2020"], id="A50-look-alike-name"),
        pytest.param(DB.replace("name: db", "name: no"), ["LM5109"], id="A50-no-is-quoted"),
        pytest.param(DB.replace("5432", "8080"), ["LM2011"], id="port-twice"),
        pytest.param(DB.replace("ports:", "mode: observe\n  ports:"), ["LM2018"], id="observe-needs-until"),
        pytest.param(DB.replace("ports:", "until: 2027-01-01T00:00:00Z\n  ports:"), ["LM2018"], id="until-needs-observe"),
        pytest.param(DB.replace("ports:", "mode: observe\n  until: 2027-01-01\n  ports:"), ["LM2016"], id="until-is-a-timestamp"),
        pytest.param(DB + HEAD + 'kind: Group\nmetadata: {name: g}\nspec: {members: ["group:g"]}\n', ["LM2035"], id="group-in-itself"),
        pytest.param(DB + HEAD + "kind: Group\nmetadata: {name: g}\nspec: {members: []}\n", ["LM2005"], id="empty-group"),
        pytest.param(DB + HEAD + "kind: Exception\nmetadata: {name: e}\nspec: {rule: {service: db, from: [any]}, reason: r}\n", ["LM2003"], id="exception-needs-until"),
        pytest.param(DB + HEAD + "kind: Invariant\nmetadata: {name: i}\nspec: {forbid: {service: dbb, from: [any]}}\n", ["LM2032"], id="invariant-names-a-service"),
        pytest.param(DB.replace("owner: t", "owner: t, owner: u"), ["LM5107"], id="A50-key-twice"),
        pytest.param("a: &x 1\nb: *x\n", ["LM5103", "LM5103"], id="A50-anchor"),
    ],
)  # fmt: skip
def test_findings(text: str, expected: list[str]) -> None:
    assert codes(text) == expected


def test_all_findings_come_at_once_with_their_places() -> None:
    found = load_text(rule('{id: a, efect: allow, from: ["x"], to: [{ports: [99999], paths: []}]}'), "f.yaml")[1]
    assert places(found) == [
        ("LM2003", 15, 5),
        ("LM2002", 15, 13),
        ("LM2006", 15, 34),
        ("LM2010", 15, 54),
        ("LM2005", 15, 69),
    ]


def test_misspelt_names_get_a_suggestion() -> None:
    found = load_text(rule("{id: a, efect: allow, from: [any]}"), "f.yaml")[1]
    assert "did you mean `effect`?" in "".join(item.message for item in found)


def test_a_rule_after_a_broken_one_keeps_its_place() -> None:
    text = rule("{id: a, effect: what, from: [any]}\n  - {id: b, effect: allow, from: ['group:g']}")
    found = load_text(text, "f.yaml")[1]
    assert places(found) == [("LM2009", 15, 21), ("LM2033", 16, 35)]


def test_a_broken_service_is_not_reported_as_unknown_too() -> None:
    text = rule("{id: a, effect: allow, from: [any]}").replace("port: 8080", "port: x")
    assert codes(text) == ["LM2010"]


def test_rules_know_their_place() -> None:
    policies, found = load_text(rule("{id: a, effect: allow, from: [any]}"), "f.yaml")
    assert not found
    span = policies.policies[0].rules[0].span
    assert span is not None
    assert (span.file, span.line, span.column) == ("f.yaml", 15, 5)


def test_tree_reads_every_file_below(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.yaml").write_text("nonsense: 1")
    (tmp_path / "a" / "db.yaml").write_text(DB)
    (tmp_path / "p.yml").write_text(rule("{id: a, effect: allow, from: [any]}").removeprefix(DB))
    policies, found = load_tree(tmp_path)
    assert not found
    assert [item.name for item in policies.services] == ["db"]
    assert [item.name for item in policies.policies] == ["p"]


def test_unreadable_files_are_findings(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\n")
    assert [item.code for item in load_tree(tmp_path)[1]] == ["LM2022"]
    assert [item.code for item in load_tree(tmp_path / "nowhere")[1]] == ["LM2022"]


def test_an_empty_tree_is_a_finding(tmp_path: pathlib.Path) -> None:
    assert [item.code for item in load_tree(tmp_path)[1]] == ["LM2023"]


def test_require_tree_raises_with_the_findings(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Invalid) as caught:
        require_tree(tmp_path)
    assert caught.value.code == "LM2203"


@pytest.mark.parametrize("folder", ["policies", "policies/examples"])
def test_shipped_policies_load_without_findings(folder: str) -> None:
    policies, found = load_tree(ROOT / folder)
    assert not found
    assert policies.services


@given(st.text(alphabet="abc:[]{}-,\n \"'&*!|>#%@`\t\x00é", max_size=60))
def test_nothing_is_raised_by_any_text(text: str) -> None:
    for prefix in ("", HEAD + "kind: Policy\nmetadata: {name: p}\nspec:\n  "):
        for item in load_text(prefix + text, "f.yaml")[1]:
            assert isinstance(item.severity, Severity)
            assert item.message


def test_messages_of_all_findings_have_their_facts() -> None:
    found = load_text(rule("{id: a, efect: x, from: [z], to: [{}], when: {}, unless: {}}"), "f.yaml")[1]
    assert len(found) == 6
    for item in found:
        for text in (item.message, item.help):
            assert re.search(r"(?<!did you mean `effect`)\?[a-z]", text) is None


ALLOW = "{id: a, effect: allow, from: [any]}"


def _write(folder: pathlib.Path, **texts: str) -> pathlib.Path:
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_a_tree_with_kept_files_says_what_it_says_without(tmp_path: pathlib.Path) -> None:
    old = _write(tmp_path / "old", db=rule(ALLOW), web=DB.replace("db", "web"))
    new = _write(tmp_path / "new", db=rule(ALLOW), web=DB.replace("db", "web").replace("5432", "5433"))
    kept = KeptFiles()
    load_tree(old, kept)
    found, findings = load_tree(new, kept)
    assert (found, findings) == load_tree(new)
    spans = [item.span for item in (*found.services, *found.policies, *found.policies[0].rules)]
    assert spans == [
        item.span for part in [load_tree(new)[0]] for item in (*part.services, *part.policies, *part.policies[0].rules)
    ]
    assert str(spans[-1]).startswith(str(new / "db.yaml"))


def test_a_file_that_did_not_change_is_read_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = _write(tmp_path / "tree", db=rule(ALLOW), web=DB.replace("db", "web"))
    kept, read = KeptFiles(), []
    compose = loader.compose_documents
    monkeypatch.setattr(loader, "compose_documents", lambda text, file: (read.append(file), compose(text, file))[1])
    first, _ = load_tree(tree, kept)
    (tree / "web.yaml").write_text(DB.replace("db", "site"))
    second, _ = load_tree(tree, kept)
    assert [pathlib.Path(file).name for file in read] == ["db.yaml", "web.yaml", "web.yaml"]
    assert second.policies[0] is first.policies[0]


def test_findings_between_files_stand_in_the_file_that_is_read(tmp_path: pathlib.Path) -> None:
    alone = rule(ALLOW).removeprefix(DB)
    kept = KeptFiles()
    good = _write(tmp_path / "good", db=DB, policy=alone)
    bad = _write(tmp_path / "bad", policy=alone)
    assert not load_tree(good, kept)[1]
    found = load_tree(bad, kept)[1]
    assert found == load_tree(bad)[1]
    assert [item.code for item in found] == ["LM2032"]


@pytest.mark.parametrize(
    "text",
    [rule("{id: a, effect: allow, from: [nobody]}"), rule(ALLOW).replace("owner: t}\nspec:\n  service", "owner: t, suppress: [{code: LM2101, reason: known, until: 2099-01-01T00:00:00Z}]}\nspec:\n  service")],
    ids=["finding", "suppression"],
)  # fmt: skip
def test_a_file_that_has_to_be_looked_at_is_not_kept(tmp_path: pathlib.Path, text: str) -> None:
    tree = _write(tmp_path / "tree", db=text)
    kept = KeptFiles()
    first, second = load_tree(tree, kept), load_tree(tree, kept)
    assert first == second == load_tree(tree)
    assert first[1] or first[0].suppressions
    assert second[0].suppressions == first[0].suppressions


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MAX_TREE_BYTES", 10)
    kept = KeptFiles()
    kept.put("a: 1", ())
    kept.put("b: 2", ())
    assert kept.get("a: 1", "f") == ()
    kept.put("c: 3", ())
    assert kept.get("a: 1", "f") is None
    assert kept.get("c: 3", "f") == ()
