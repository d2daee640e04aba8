"""Whatever stands in a policy file: it is refused with a code, a file and a line, in bounded time and memory.

One row is one way to write something bad into an otherwise good tree. `limen policy lint` and everything that loads a
tree see the same findings.
"""

# ruff: noqa: E501  a table reads best with one case a line

import json
import pathlib
import resource
import tempfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limen.__main__ import run
from mesh.problems import Severity
from policyengine.loader import load_tree
from tests.examples import examples
from tests.policyengine.test_loader import DB, HEAD, rule

GOOD = rule("id: a\n    effect: allow\n    from: [any]\n")
CALLER = "[any]"
LONG = "a" * 100_000


def good(old: str = "", new: str = "") -> bytes:
    """The good tree with one thing changed."""
    assert old in GOOD
    return GOOD.replace(old, new, 1).encode("utf-8", "surrogatepass")


def conditions(text: str) -> bytes:
    return rule(f"{{id: a, effect: allow, from: [any], when: {text}}}").encode()


ROWS = [
    # fields and keys
    pytest.param(good("owner: t}", "owner: t, team: x}"), "LM2002", 3, id="unknown-field-in-metadata"),
    pytest.param(good("tier: app", "tier: app\n  teir: app"), "LM2002", 14, id="unknown-field-in-spec"),
    pytest.param(good("effect: allow", "effect: allow\n    efect: deny"), "LM2002", 17, id="unknown-field-in-a-rule"),
    pytest.param(good("effect: allow", "effect: allow\n    effect: deny"), "LM5107", 17, id="duplicate-key"),
    pytest.param(good("effect: allow", "effect: allow\n    'effect': deny"), "LM5107", 17, id="duplicate-key-in-quotes"),
    pytest.param(good("kind: Policy", "kind: Policy\nkind: Policy"), "LM5107", 10, id="duplicate-key-with-one-value"),
    pytest.param(good("effect: allow", "? [a]\n    : b"), "LM5106", 16, id="key-that-is-a-list"),
    pytest.param(good("from: [any]", ""), "LM2003", 15, id="missing-field"),
    # references and tags
    pytest.param(good("from: [any]", "from: &all [any]"), "LM5103", 17, id="anchor"),
    pytest.param(good("from: [any]", "from: *all"), "LM5103", 17, id="alias"),
    pytest.param(good("effect: allow", "<<: {effect: allow}"), "LM5103", 16, id="merge-key"),
    pytest.param(b"a: &a [x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (n, n) for n in range(500)), "LM5103", 1, id="billion-laughs"),
    pytest.param(good("effect: allow", "effect: !!str allow"), "LM5104", 16, id="tag"),
    pytest.param(good("effect: allow", "effect: !!python/object/apply:os.system [id]"), "LM5104", 16, id="tag-of-a-python-object"),
    # YAML 1.1
    *[pytest.param(good("owner: t}\nspec:\n  service", f"owner: {text}}}\nspec:\n  service"), "LM5109", 10, id=f"yaml-1.1-{text}")
      for text in ("yes", "No", "ON", "off", "010", "0o10", "0x10", "0b1", "1_000", "22:30", ".inf", "-.INF", ".nan")],
    pytest.param(good("name: p", "name: no"), "LM5109", 10, id="name-that-is-a-boolean"),
    pytest.param(good("port: 8080", "port: 010"), "LM5109", 6, id="octal-port"),
    pytest.param(conditions("{claims: {issuer: i, on: [a]}}"), "LM5109", 15, id="key-that-is-a-boolean"),
    pytest.param(good("port: 8080", "port: '8080'"), "LM2010", 6, id="port-as-text"),
    pytest.param(good("port: 8080", "port: 8080.0"), "LM2010", 6, id="port-as-float"),
    pytest.param(good("port: 8080", "port: true"), "LM2010", 6, id="port-as-boolean"),
    pytest.param(good("port: 8080", "port: null"), "LM2010", 6, id="port-as-null"),
    pytest.param(good("effect: allow", "effect:"), "LM2009", 16, id="null-effect"),
    # numbers
    pytest.param(good("port: 8080", "port: 99999"), "LM2010", 6, id="port-too-large"),
    pytest.param(good("port: 8080", "port: -1"), "LM2010", 6, id="negative-port"),
    pytest.param(good("port: 8080", f"port: {2**64}"), "LM5111", 6, id="int-beyond-64-bits"),
    pytest.param(good("port: 8080", "port: " + "9" * 100_000), "LM5111", 6, id="int-of-100000-digits"),
    pytest.param(conditions(f"{{claims: {{issuer: i, n: [{2**53}]}}}}"), "LM5111", 15, id="int-that-json-readers-change"),
    pytest.param(conditions("{claims: {issuer: i, n: [1e999]}}"), "LM5111", 15, id="float-beyond-range"),
    # characters
    pytest.param(b"\xef\xbb\xbf" + good(), "LM5101", 1, id="byte-order-mark"),
    pytest.param(GOOD.encode("utf-16"), "LM2022", 1, id="utf-16"),
    pytest.param(GOOD.encode("utf-16-le"), "LM5101", 1, id="utf-16-without-a-mark"),
    pytest.param(GOOD.encode("utf-32"), "LM2022", 1, id="utf-32"),
    pytest.param(good().replace(b"owner: t", b"owner: t\xff", 1), "LM2022", 3, id="not-utf-8"),
    pytest.param(good().replace(b"owner: t", b"owner: \xc0\xaf", 1), "LM2022", 3, id="overlong-utf-8"),
    pytest.param(good("owner: t", "owner: t\ud800"), "LM2022", 3, id="half-a-surrogate-pair"),
    pytest.param(good("owner: t", "owner: t\x00"), "LM5101", 3, id="nul"),
    pytest.param(good("owner: t", "owner: t\x1b[2J"), "LM5101", 3, id="terminal-escape"),
    pytest.param(good("owner: t", "owner: t\u202e"), "LM5101", 3, id="reordering-mark"),
    pytest.param(good("owner: t", "owner: t\u200b"), "LM5101", 3, id="zero-width-space"),
    pytest.param(good("owner: t", "owner: t\u2028"), "LM5101", 3, id="line-separator"),
    pytest.param(good("\n  rules:", "\n\trules:"), "LM5102", 14, id="tab-as-indentation"),
    pytest.param(good("    effect: allow", "\teffect: allow"), "LM5102", 16, id="tab-inside-a-rule"),
    # names
    pytest.param(good("name: db", "name: d\u044c"), "LM2052", 3, id="cyrillic-in-a-service"),
    pytest.param(good("name: p", "name: \u0440"), "LM2020", 10, id="cyrillic-policy"),
    pytest.param(GOOD.encode() + f"---\n{HEAD}kind: Group\nmetadata: {{name: \u0430dmins}}\nspec: {{members: [any]}}\n".encode(), "LM2052", 21, id="cyrillic-in-a-group"),
    pytest.param(good("from: [any]", "from: ['group:\u0430dmins']"), "LM2052", 17, id="cyrillic-in-a-group-that-is-named"),
    pytest.param(good("from: [any]", "from: ['spiffe://corp.test/ns/sh\u043ep/sa/x']"), "LM2052", 17, id="cyrillic-in-an-identity"),
    pytest.param(good("name: db", "name: \uff44\uff42"), "LM2020", 3, id="full-width-service"),
    pytest.param(good("owner: t}\nspec:\n  service", "owner: team-d\u0430ta}\nspec:\n  service"), "LM2052", 10, id="owner-of-two-scripts"),
    pytest.param(rule('{id: a, effect: allow, from: [any], to: [{ports: [8080], paths: ["/\u0430dmin"]}]}').encode(), "LM2052", 15, id="path-of-two-scripts"),
    pytest.param(conditions("{claims: {issuer: i, roles: [\u0430dmin]}}"), "LM2052", 15, id="claim-of-two-scripts"),
    pytest.param((DB + DB.replace("name: db", "name: DB").replace("sa/db", "sa/x")).encode(), "LM2051", 10, id="names-that-differ-in-case"),
    pytest.param((DB.replace("name: db", "name: db1") + DB.replace("name: db", "name: dbl").replace("sa/db", "sa/x")).encode(), "LM2051", 10, id="names-that-look-alike"),
    pytest.param(good("name: p", f"name: {LONG}"), "LM2020", 10, id="name-of-100000-letters"),
    pytest.param(good("owner: t}\nspec:\n  service", 'owner: "t\\u202ea"}\nspec:\n  service'), "LM2053", 10, id="reordering-mark-by-escape"),
    pytest.param(good("owner: t}\nspec:\n  service", 'owner: "t\\e[2J"}\nspec:\n  service'), "LM2053", 10, id="terminal-escape-by-escape"),
    pytest.param(conditions('{claims: {issuer: i, roles: ["a\\u200b"]}}'), "LM2053", 15, id="zero-width-space-by-escape"),
    # kinds and documents
    pytest.param(good("kind: Policy", "kind: TrafficRoute"), "LM2050", 9, id="kind-of-later"),
    pytest.param(good("kind: Policy", "kind: Polcy"), "LM2000", 9, id="unknown-kind"),
    pytest.param(good("kind: Policy", "kind: [Policy]"), "LM2000", 9, id="kind-that-is-a-list"),
    pytest.param(good() + b"---\n- a\n- b\n", "LM2004", 19, id="document-that-is-a-list"),
    pytest.param(good() + b"--- text\n", "LM2004", 18, id="document-that-is-text"),
    pytest.param(good() + b"---\n" + good(), "LM2030", 21, id="the-same-document-again"),
    pytest.param(b"", "LM2023", 0, id="empty-file"),
    pytest.param(b"# nothing\n---\n---\n", "LM2023", 0, id="only-separators"),
    pytest.param(b"%YAML 1.1\n---\n" + good() + b"...\n}", "LM5102", 21, id="something-behind-the-end"),
    # shape and size
    pytest.param(b"[" * 10_000, "LM5105", 1, id="ten-thousand-deep-lists"),
    pytest.param(b"{a: " * 10_000 + b"1" + b"}" * 10_000, "LM5105", 1, id="ten-thousand-deep-maps"),
    pytest.param(b"- " * 10_000 + b"a", "LM5105", 1, id="ten-thousand-deep-in-blocks"),
    pytest.param(b"".join(b" " * n + b"a:\n" for n in range(2_000)), "LM5105", 33, id="two-thousand-deep-by-indentation"),
    pytest.param(good("from: [any]", "from: " + "[" * 10_000 + "any" + "]" * 10_000), "LM5105", 17, id="ten-thousand-deep-in-a-rule"),
    pytest.param(b"? " * 50_000, "LM5105", 1, id="keys-of-keys"),
    pytest.param(b"#" * (100 << 20), "LM5100", 1, id="hundred-megabytes"),
    pytest.param(b"-\n" * 4_000_000, "LM5108", 400_000, id="four-million-values"),
    pytest.param(b"a:" * 3_000_000, "LM5102", 1, id="six-megabytes-of-colons"),
    pytest.param(b"{" * 8_000_000, "LM5105", 1, id="eight-megabytes-of-braces"),
    pytest.param(b"'" + b"\\" * 8_000_000, "LM5102", 1, id="an-open-quote"),
    # patterns: none of them is a regular expression, and none is slow
    pytest.param(good("from: [any]", f"from: ['spiffe://corp.test/{'(a+)+' * 5_000}$']"), "LM2006", 17, id="regex-as-a-caller"),
    pytest.param(good("from: [any]", "from: ['spiffe://corp.test/ns/*/sa/*']"), "LM2006", 17, id="glob-as-a-caller"),
    pytest.param(good("from: [any]", f"from: ['spiffe://corp.test{'/**' * 10_000}']"), "LM2006", 17, id="ten-thousand-stars"),
    pytest.param(rule(f"{{id: a, effect: allow, from: [any], to: [{{ports: [8080], paths: ['/{'(.*a){25}' * 2_000}']}}]}}").encode(), "LM2007", 15, id="regex-as-a-path"),
    pytest.param(rule(f"{{id: a, effect: allow, from: [any], to: [{{ports: [8080], paths: ['/{'(a+)+' * 5_000}$']}}]}}").encode(), "LM2007", 15, id="regex-of-path-characters-alone"),
    pytest.param(rule(f"{{id: a, effect: allow, from: [any], to: [{{ports: [8080], paths: ['/{'%25' * 30_000}']}}]}}").encode(), "LM2007", 15, id="escapes-of-escapes"),
    pytest.param(rule(f"{{id: a, effect: allow, from: [any], to: [{{ports: [8080], hosts: ['{'a.' * 60_000}']}}]}}").encode(), "LM2008", 15, id="host-of-60000-labels"),
    pytest.param(rule("{id: a, effect: allow, from: [any], to: [{ports: [8080], paths: ['/{x:.*}']}]}").encode(), "LM2007", 15, id="regex-in-a-template"),
    pytest.param(conditions(f"{{headers: {{'{LONG[:1000]}é': [a]}}}}"), "LM2015", 15, id="header-of-1000-letters"),
    pytest.param(conditions("{hours: {tz: ../../etc/passwd, from: '08:00', to: '09:00'}}"), "LM2014", 15, id="zone-that-is-a-path"),
    pytest.param(conditions(f"{{peer_ip: ['{'1' * 100_000}/8']}}"), "LM2013", 15, id="address-of-100000-digits"),
    pytest.param(conditions(f"{{rego: '{'data.' * 20_000}x'}}"), "LM2601", 15, id="rego-rule-of-100000-letters"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "code", "line"), ROWS)
def test_is_refused_with_code_file_and_line_in_bounded_time(
    content: bytes, code: str, line: int, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    (tmp_path / "good.yaml").write_text(DB.replace("name: db", "name: other").replace("sa/db", "sa/other"))
    if code == "LM2023":
        (tmp_path / "good.yaml").unlink()
    before = time.process_time()
    found = load_tree(tmp_path)[1]
    # far more than any machine takes, and far less than what grows with the square of the size
    assert time.process_time() - before < 60
    errors = [item for item in found if item.severity is Severity.ERROR]
    assert errors
    # the place is of the first finding in the bad file that has the code
    places = [item.span for item in errors if item.code == code]
    assert places, [str(item) for item in errors]
    if line:
        assert places[0] is not None
        assert (places[0].file, places[0].line) == (str(file), line)
    for item in errors:
        assert len(item.message) + len(item.help) < 2_000


def test_every_row_is_refused_for_what_it_changes_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    assert load_tree(tmp_path)[1] == []


def test_a_hundred_megabytes_take_no_hundred_megabytes(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "bad.yaml").open("wb") as file:
        file.truncate(10 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert [item.code for item in load_tree(tmp_path)[1]] == ["LM5100"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kilobytes


def test_findings_of_all_files_and_all_kinds_come_at_once(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1.yaml").write_text(DB.replace("owner: t", "owner: no, team: x"))
    (tmp_path / "2.yaml").write_text(f"{HEAD}kind: Group\nmetadata: {{name: g}}\nspec: {{members: [x, 5]}}\n")
    (tmp_path / "3.yaml").write_text("a: [\n")
    (tmp_path / "4.yaml").write_bytes(b"\xff")
    assert run(["policy", "lint", "--policies", str(tmp_path), "-o", "json"]) == 2
    rows = json.loads(capsys.readouterr().out)["findings"]
    assert [(pathlib.Path(row["file"]).name, row["line"], row["code"]) for row in rows] == [
        ("1.yaml", 3, "LM5109"),
        ("1.yaml", 3, "LM2002"),
        ("2.yaml", 4, "LM2006"),
        ("2.yaml", 4, "LM2004"),
        ("3.yaml", 2, "LM5102"),
        ("4.yaml", 1, "LM2022"),
    ]


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_whatever_becomes_of_the_bytes_of_a_good_tree_nothing_is_raised_and_every_finding_has_its_place(
    data: st.DataObject,
) -> None:
    content = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(("set", "remove", "insert", "double")))
        if kind == "set":
            content[place] = data.draw(st.integers(0, 255))
        elif kind == "remove":
            del content[place : place + data.draw(st.integers(1, 30))]
        elif kind == "insert":
            content[place:place] = data.draw(
                st.sampled_from((b"&a ", b"*a", b"!!x ", b"[", b"{", b"\n---\n", b"? ", b"\t", b"no", b"0x1"))
            )
        else:
            content[place:place] = content[place : place + 60]
        if not content:
            return
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "f.yaml"
        file.write_bytes(content)
        for item in load_tree(file)[1]:
            assert item.message
            assert item.code == "LM2023" or (
                item.span is not None and item.span.file == str(file) and item.span.line >= 1
            )
