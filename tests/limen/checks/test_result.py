from limen.checks.result import failed, passed, warned


def test_levels_and_json() -> None:
    assert passed("g", "t").to_json() == {"group": "g", "level": "ok", "text": "t", "code": "", "hint": ""}
    assert (warned("g", "t", "LM1209", "h").level, failed("g", "t", "LM5250", "h").level) == ("warning", "error")
