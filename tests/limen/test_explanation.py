import pathlib

import pytest

from limen.explanation import explained, marks, rules_of
from mesh.problems import Invalid
from mesh.spiffe import TrustDomain

DOMAIN = TrustDomain.parse("corp.test")
TEXT = 'rules:\n- id: a\n  match: {"unix:uid": 7}\n  spiffe_id: "/ops"\n  admin: true\n'


def test_a_file_that_is_not_in_force_is_asked(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new.yaml"
    path.write_text(TEXT)
    rules, findings = rules_of(path)
    assert [item.code for item in findings] == ["LM1227", "LM1216"]
    found = explained(rules, DOMAIN, [("unix:uid", "7")])
    assert (found["spiffe_id"], found["rule"], found["code"]) == ("spiffe://corp.test/ops", "a", "")
    assert (found["container_bound"], found["admin"]) == (True, True)
    refused = explained(rules, DOMAIN, [("unix:uid", "8")])
    assert (refused["spiffe_id"], refused["code"], refused["admin"]) == (None, "LM1210", False)
    assert marks(rules.rules[0]) == {"container_bound": True, "admin": True}
    assert marks(None) == {}


def test_a_refusal_says_why_and_what_to_do(tmp_path: pathlib.Path) -> None:
    (tmp_path / "r.yaml").write_text(TEXT)
    found = explained(rules_of(tmp_path / "r.yaml")[0], DOMAIN, [("unix:uid", "8")])
    assert found["reason"].startswith("none of 1 identity rules matches")
    assert "identities.yaml" in found["help"]
    assert explained(rules_of(tmp_path / "r.yaml")[0], DOMAIN, [("unix:uid", "7")])["reason"] == ""


def test_every_mistake_of_a_file_is_told_at_its_place(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new.yaml"
    path.write_text(TEXT + TEXT[7:].replace("- id: a", "- id: b"))
    (tie,) = [item for item in rules_of(path)[1] if item.code == "LM1213"]
    assert (str(tie.span), tie.facts["at"]) == (f"{path}:6:3", f"{path}:2:3")
    assert tie.message.endswith(f"`a` stands at {path}:2:3")


@pytest.mark.parametrize("data", [None, b"rules: \xff\n"], ids=["missing", "no-text"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: pathlib.Path, data: bytes | None) -> None:
    path = tmp_path / "new.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(Invalid, match="LM1219"):
        rules_of(path)
