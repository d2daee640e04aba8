"""`limen policy import` and `export`: reports, files and exit statuses."""

import json
import pathlib

import pytest
from click.testing import CliRunner, Result

from limen.cli.policy import policy
from mesh.problems import Conflict, Invalid, NotFound, Unavailable

POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: viewer, namespace: foo}
spec:
  selector: {matchLabels: {app: httpbin}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/foo/sa/curl"]}}]
    to: [{operation: {methods: [GET], paths: ["/status/*"]}}]
"""
SECOND = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: pages, namespace: foo}
spec:
  selector: {matchLabels: {app: httpbin}}
  rules: [{to: [{operation: {paths: ["*.html"]}}]}]
"""


def run(*args: object) -> Result:
    return CliRunner().invoke(policy, [str(arg) for arg in args])


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "p.yaml").write_text(POLICY)
    assert run("import", "istio", tmp_path / "p.yaml", "--out", tmp_path / "tree").exit_code == 0
    return tmp_path / "tree"


def test_an_import_reports_each_document_and_writes_a_tree_that_decides(tmp_path: pathlib.Path) -> None:
    (tmp_path / "p.yaml").write_text(f"{POLICY}---\n{SECOND}")
    done = run("import", "istio", tmp_path / "p.yaml", "--out", tmp_path / "tree", "-o", "json")
    assert done.exit_code == 1, done.stderr
    report = json.loads(done.stdout)
    assert [(item["name"], item["status"], item["line"]) for item in report["documents"]] == [
        ("viewer", "translated", 1), ("pages", "refused", 10)
    ]  # fmt: skip
    (refused,) = (item for item in report["documents"][1]["findings"] if item["code"] == "LM2500")
    assert "`*.html`" in refused["message"]
    assert report["counts"] == {"translated": 1, "refused": 1}
    assert run("lint", "--policies", tmp_path / "tree").exit_code == 0


def test_the_table_has_a_line_for_each_document(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = run("import", "istio", tmp_path / "p.yaml", "--out", tmp_path / "again")
    assert done.stdout.splitlines()[0] == "translated  AuthorizationPolicy foo/viewer"
    assert "wrote 2 files" in done.stderr


def test_a_file_that_is_there_is_not_replaced_without_force(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    again = ("import", "istio", tmp_path / "p.yaml", "--out", tree)
    assert isinstance(run(*again).exception, Conflict)
    assert run(*again, "--force").exit_code == 0


def test_no_more_is_read_of_a_file_than_it_may_hold(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "p.yaml").open("wb") as file:
        file.truncate(1 << 40)  # a hole: nobody reads a terabyte
    done = run("import", "istio", tmp_path / "p.yaml", "--out", tmp_path / "tree")
    assert done.exit_code == 2
    assert "p.yaml:1:1: LM5100" in done.stderr
    assert not (tmp_path / "tree").exists()


def test_what_cannot_be_read_sets_exit_status_2(tmp_path: pathlib.Path) -> None:
    (tmp_path / "p.yaml").write_text("a: &x 1\n")
    done = run("import", "istio", tmp_path / "p.yaml", "--out", tmp_path / "tree")
    assert done.exit_code == 2
    assert "LM5103" in done.stderr
    assert not (tmp_path / "tree").exists()
    assert isinstance(run("import", "istio", tmp_path / "none", "--out", tmp_path / "t").exception, NotFound)
    assert run("import", "istio", "x", "--out", tmp_path / "t", "--trust-domain", "A B").exit_code == 2


@pytest.mark.parametrize("target", ["istio", "kubernetes", "cilium", "consul", "linkerd", "nftables"])
def test_an_export_reports_each_service_and_writes_files(
    tree: pathlib.Path, tmp_path: pathlib.Path, target: str
) -> None:
    done = run(
        "export",
        target,
        "--policies",
        tree,
        "--workloads",
        tree / "workloads.jsonl",
        "--out",
        tmp_path / "out",
        "-o",
        "json",
    )
    report = json.loads(done.stdout)
    # whoever uses what was never tried is told so, by the program and by its files
    assert report["experimental"] == (target != "nftables")
    if target not in {"nftables", "consul"}:
        assert any("Experimental" in pathlib.Path(name).read_text() for name in report["written"])
    assert [item["service"] for item in report["services"]] == ["httpbin"]
    assert done.exit_code == (1 if report["services"][0]["status"] == "refused" else 0)
    assert report["written"]
    assert all(pathlib.Path(name).read_text() for name in report["written"])


def test_an_export_to_istio_comes_back_the_same(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run("export", "istio", "--policies", tree, "--workloads", tree / "workloads.jsonl", "--out", tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    assert run("import", "istio", *files, "--out", tmp_path / "back").exit_code == 0
    plan = run("plan", "--policies", tmp_path / "back", "--against", tree, "-o", "json")
    assert plan.exit_code == 0, plan.stdout


def test_a_tree_of_two_trust_domains_needs_a_word(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = (
        (tree / "httpbin.yaml").read_text().replace("name: httpbin", "name: other").replace("cluster.local", "b.test")
    )
    (tree / "other.yaml").write_text(text.replace("service: httpbin", "service: other"))
    done = run("export", "istio", "--policies", tree, "--out", tmp_path / "o")
    assert isinstance(done.exception, Invalid)
    assert done.exception.code == "LM2515"


def test_an_export_for_envoy_has_a_file_for_each_service_with_the_agents_socket(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMEN_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("ENVOY_PATH", "/nowhere/envoy")
    done = run("export", "envoy", "--policies", tree, "--out", tmp_path / "out", "-o", "json")
    assert done.exit_code == 0, done.stderr
    assert "not validated: LM2650" in done.stderr
    (service,) = json.loads(done.stdout)["services"]
    assert (service["service"], service["status"]) == ("httpbin", "stricter")
    text = (tmp_path / "out" / "limen-httpbin.yaml").read_text()
    assert "spiffe://cluster.local/ns/foo/sa/curl" in text
    assert "/agent.sock" in text


def test_a_file_that_envoy_does_not_take_is_not_written(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVOY_PATH", "/bin/false")
    done = run("export", "envoy", "--policies", tree, "--out", tmp_path / "out")
    assert isinstance(done.exception, Unavailable)
    assert done.exception.code == "LM2651"
    assert not (tmp_path / "out").exists()
