import pathlib

import pytest
import structlog

from ca import rulefile
from limen.rulesfile import MAX_TOLD, RulesFile
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


def test_a_server_that_begins_anew_says_the_same_of_the_same_rules_and_something_else_of_others(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "identities.yaml"

    def begun_anew() -> int:
        found = RulesFile(path)
        found.refresh()
        return found.version

    none = begun_anew()
    path.write_text(RULES, "utf-8")
    some = begun_anew()
    assert begun_anew() == some
    path.write_text(RULES.replace("id: user", "id: other"), "utf-8")
    assert len({0, none, some, begun_anew()}) == 4


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


def test_only_what_changed_is_read_again(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "identities.yaml"
    lines = [
        f"- id: r{n}\n  match: {{'unix:path': /opt/{n}, 'unix:sha256': '{n:064x}'}}\n  spiffe_id: /sa/r{n}\n"
        for n in range(3000)
    ]
    path.write_text("rules:\n" + "".join(lines))
    rules = RulesFile(path)
    assert rules.refresh()
    read: list[int] = []
    real = rulefile.compose_documents
    monkeypatch.setattr(
        rulefile, "compose_documents", lambda text, file, **more: read.append(len(text)) or real(text, file, **more)
    )
    lines[1500] = lines[1500].replace("/sa/r1500", "/sa/other")
    path.write_text("# one line more\nrules:\n" + "".join(lines))
    assert rules.refresh()
    assert rules.rules.rules[1500].spiffe_id == "/sa/other"
    # the rule and those that are read with it, never the file
    assert 1 <= len(read) <= 2
    assert sum(read) < path.stat().st_size / 2


def test_errors_are_told_first_at_the_lines_where_they_stand_now(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "identities.yaml"
    body = "".join(f"- id: r{n}\n  match: {{'unix:uid': '{n}'}}\n  spiffe_id: /sa/r{n}\n" for n in range(300))
    path.write_text("rules:\n" + body)
    rules = RulesFile(path)
    with structlog.testing.capture_logs() as first:
        rules.refresh()
    assert sum("finding" in entry for entry in first) == MAX_TOLD
    assert [entry["more"] for entry in first if "more" in entry] == [300 - MAX_TOLD]
    path.write_text("# moved\n\nrules:\n" + body + "- id: r7\n  match: {'unix:uid': '7'}\n  spiffe_id: /x\n")
    with structlog.testing.capture_logs() as second:
        assert not rules.refresh()
    told = [str(entry["finding"]) for entry in second if "finding" in entry]
    assert [text.split(": ")[0].rpartition("/")[2] for text in told[:2]] == ["identities.yaml:904:3"] * 2
    assert ["LM1222" in told[0], "LM1213" in told[1]] == [True, True]
