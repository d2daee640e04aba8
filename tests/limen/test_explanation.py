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


@pytest.mark.parametrize("text", ["rules: 1\n", TEXT + TEXT[7:], None], ids=["shape", "tie", "missing"])
def test_a_file_that_could_never_come_into_force_is_refused(tmp_path: pathlib.Path, text: str | None) -> None:
    path = tmp_path / "new.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Invalid, match="LM1219"):
        rules_of(path)
