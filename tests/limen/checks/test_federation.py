from typing import Any

import pytest

from limen.checks.federation import relationships

GOOD: dict[str, Any] = {
    "trust_domain": "b.test", "is_stale": False, "age_s": 7, "failed_polls": 0, "code": "", "reason": "",
    "x509_authorities": 1, "jwt_authorities": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "level", "code"),
    [
        pytest.param({}, "ok", "", id="good"),
        pytest.param(
            {"is_stale": True, "age_s": 901, "code": "LM1508", "reason": "gone"}, "warning", "LM1512", id="old"
        ),
        pytest.param({"is_stale": True, "age_s": None}, "warning", "LM1512", id="never"),
        pytest.param({"failed_polls": 2, "code": "LM1508", "reason": "gone"}, "warning", "LM1508", id="failing"),
        pytest.param({"x509_authorities": 0}, "warning", "LM1517", id="empty"),
    ],
)
def test_says_what_is_about_to_bite(change: dict[str, Any], level: str, code: str) -> None:
    (found,) = relationships([{**GOOD, **change}])
    assert (found.level, found.code or "") == (level, code)
    assert "b.test" in found.text
    assert bool(found.hint) is (level != "ok")
    if change.get("code"):
        assert "gone" in found.text


def test_nothing_to_say_without_relationships() -> None:
    assert relationships([]) == []
