import pathlib

import pytest

from limen.attestorsfile import AttestorsFile
from limen.checks.files import files
from limen.filereport import report
from limen.rulesfile import RulesFile
from mesh.problems import Diagnostic

BOUND = 'rules:\n- id: a\n  match: {"unix:uid": "7"}\n  spiffe_id: /a\n'


@pytest.mark.parametrize(
    ("text", "levels", "codes"),
    [
        (None, ["ok"], [""]),
        ("rules: []\n", ["ok"], [""]),
        (BOUND, ["ok", "warning"], ["", "LM1227"]),
        (BOUND + "- id: b\n", ["error", "error", "warning"], ["LM1223", "LM1223", "LM1227"]),
    ],
    ids=["missing", "empty", "container-bound", "error"],
)
def test_what_is_wrong_with_identity_rules_is_seen_in_check(
    tmp_path: pathlib.Path, text: str | None, levels: list[str], codes: list[str]
) -> None:
    path = tmp_path / "identities.yaml"
    if text is not None:
        path.write_text(text)
    rules = RulesFile(path)
    rules.refresh()
    found = files([rules.report()])
    assert ([item.level for item in found], [item.code for item in found]) == (levels, codes)
    for item in found:
        assert not item.code or (item.text.startswith(f"{path}:") and item.hint)


def test_what_cannot_be_read_is_an_error_until_it_can(tmp_path: pathlib.Path) -> None:
    for name, kind in (("identities.yaml", RulesFile), ("attestors.yaml", AttestorsFile)):
        path = tmp_path / name
        path.write_bytes(b"\xff")
        file = kind(path)
        file.refresh()
        (found,) = files([file.report()])
        assert (found.level, str(path) in found.text) == ("error", True)
        path.unlink()
        file.refresh()
        assert [item.level for item in files([file.report()])] == ["ok"]


def test_errors_of_attestors_are_seen_and_what_is_in_force_stays(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "attestors.yaml"
    path.write_text("attestors:\n- name: x\n  type: oidc\n")
    file = AttestorsFile(path)
    file.refresh()
    found = files([file.report()])
    assert {item.level for item in found} == {"error"}
    assert found[0].text.startswith(f"{path}:2:3: ")


def test_the_rest_of_many_findings_is_counted() -> None:
    many = [Diagnostic(code="LM1227", facts={"rule": "a"})] * 150
    found = files([report(pathlib.Path("identities.yaml"), count=150, findings=many)])
    assert found[-1].text == "50 more findings in identities.yaml"
