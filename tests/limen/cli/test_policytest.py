"""`limen policy test`: its formats and exit statuses."""

import json
import pathlib
import xml.etree.ElementTree as ET

import pytest

from limen.__main__ import run

TREE = """\
apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: t}
spec:
  identities: ["spiffe://corp.test/ns/shop/sa/db"]
  ports: [{port: 8080, protocol: http}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: p, owner: t}
spec:
  service: db
  tier: app
  rules:
  - id: read
    effect: allow
    from: ["spiffe://corp.test/ns/shop/sa/cart"]
    when: {hours: {tz: UTC, from: "08:00", to: "18:00"}}
"""
TESTS = """\
apiVersion: limen.dev/v1
kind: PolicyTest
metadata: {name: db, owner: t}
spec:
  given: {service: db, source: "spiffe://corp.test/ns/shop/sa/cart", method: GET, path: /}
  cases:
  - name: by-day
    given: {time: 2026-11-24T12:00:00Z}
    expect: {decision: allow, rule: read}
    because: carts work by day
  - name: by-night
    given: {time: 2026-11-24T23:00:00Z}
    expect: deny
    because: and only then
"""


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "db.yaml").write_text(TREE)
    (tmp_path / "db_test.yaml").write_text(TESTS)
    return tmp_path


def test_good_policies_pass(tree: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "test", "--policies", str(tree)]) == 0
    assert capsys.readouterr().out == "2 passed, 0 failed\n"


def test_a_failure_stands_at_its_file_and_line_and_sets_the_exit_status(
    tree: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "db_test.yaml").write_text(TESTS.replace("expect: deny", "expect: allow"))
    assert run(["policy", "test", "--policies", str(tree)]) == 1
    out = capsys.readouterr().out
    assert f"{tree}/db_test.yaml:11:5: error LM2700" in out
    assert "and only then" in out
    assert "1 passed, 1 failed" in out
    assert run(["policy", "test", "--policies", str(tree), "-o", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["passed"], found["failed"], found["cases"][1]["finding"]["line"]) == (1, 1, 11)
    assert run(["policy", "test", "--policies", str(tree), "-o", "junit"]) == 1
    root = ET.fromstring(capsys.readouterr().out)
    assert root[0].attrib["failures"] == "1"


def test_coverage_names_what_no_test_reaches(tree: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "test", "--policies", str(tree), "--coverage"]) == 0
    out = capsys.readouterr().out
    assert f"{tree}/db.yaml:15: p/read: `from` was never false" in out
    assert "coverage 80.0 % (4 of 5 rules and branches)" in out
    assert run(["policy", "test", "--policies", str(tree), "--fail-under", "80"]) == 0
    assert run(["policy", "test", "--policies", str(tree), "--fail-under", "81", "-o", "json"]) == 1
    done = capsys.readouterr()
    assert "LM2707" in done.err
    assert json.loads(done.out.splitlines()[-1])["coverage"]["percent"] == 80.0


def test_the_time_of_cases_that_name_none_can_be_given(tree: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "db_test.yaml").write_text(TESTS.replace("{time: 2026-11-24T12:00:00Z}", "{}"))
    assert run(["policy", "test", "--policies", str(tree), "--at", "2026-11-24T09:00:00Z"]) == 0
    assert run(["policy", "test", "--policies", str(tree), "--at", "2026-11-24T19:00:00Z"]) == 1
    assert run(["policy", "test", "--policies", str(tree), "--at", "noon"]) == 2
    assert "LM2204" in capsys.readouterr().err


def test_a_tree_with_errors_or_without_tests_is_no_success(
    tree: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "db_test.yaml").write_text(TESTS.replace("service: db", "service: bd").replace("expect: deny", "expect: x"))
    assert run(["policy", "test", "--policies", str(tree)]) == 2
    err = capsys.readouterr().err
    assert "LM2009" in err
    assert "LM2203" in err
    (tree / "db_test.yaml").unlink()
    assert run(["policy", "test", "--policies", str(tree)]) == 2
    assert "LM2706" in capsys.readouterr().err


def test_tests_are_no_part_of_what_is_decided_or_published(
    tree: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = []
    for _ in range(2):
        words = ["can", "spiffe://corp.test/ns/shop/sa/cart", "db", "GET", "/", "--policies", str(tree), "-o", "json"]
        assert run(words) in {0, 1}
        names.append(json.loads(capsys.readouterr().out)["snapshot"])
        (tree / "db_test.yaml").unlink(missing_ok=True)
    assert names[0] == names[1]
    assert run(["policy", "lint", "--policies", str(tree)]) == 0
