"""The small reader of the catalogue agrees with YAML."""

from __future__ import annotations

from enforcer.native.sentences import sentence, sentences
from mesh import problems


def test_reads_the_catalogue_as_yaml_does() -> None:
    entries = {code: problems.entry(code) for code in problems.catalogue()}
    assert sentences() == {code: {"message": row["message"], "help": row["help"]} for code, row in entries.items()}


def test_fills_in_facts_and_shows_missing_ones() -> None:
    assert sentence("LM3114", "message", {"field": "x_a"}) == "a field name holds no underscore: `x_a`"
    assert "?field" in sentence("LM3114", "message", {})


def test_an_unknown_code_has_no_sentence() -> None:
    assert sentence("LM9999", "message", {}) == ""
