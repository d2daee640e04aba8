import pathlib

from limen.rulesfile import RulesFile
from tests.world import RULES


def test_a_missing_file_has_no_rules_and_a_new_one_is_seen(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "identities.yaml"
    found = RulesFile(path)
    assert found.refresh() is True
    assert found.rules.rules == ()
    assert found.refresh() is False
    path.write_text(RULES, "utf-8")
    assert found.refresh() is True
    assert [rule.id for rule in found.rules.rules] == ["user"]


def test_a_file_with_an_error_keeps_the_last_good_rules(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "identities.yaml"
    path.write_text(RULES, "utf-8")
    found = RulesFile(path)
    found.refresh()
    version = found.version
    path.write_text(RULES + "- id: user\n  match: {}\n", "utf-8")
    assert found.refresh() is False
    assert (len(found.rules.rules), found.version) == (1, version)


def test_bytes_that_are_no_text_keep_the_last_good_rules(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "identities.yaml"
    path.write_text(RULES, "utf-8")
    found = RulesFile(path)
    found.refresh()
    path.write_bytes(b"\xff\xfe")
    assert found.refresh() is False
    assert len(found.rules.rules) == 1


def test_a_removed_file_takes_its_rules_away(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "identities.yaml"
    path.write_text(RULES, "utf-8")
    found = RulesFile(path)
    found.refresh()
    path.unlink()
    assert found.refresh() is True
    assert found.rules.rules == ()
