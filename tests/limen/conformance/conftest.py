import pytest

from limen.conformance import probe


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that stays open this long is open."""
    monkeypatch.setattr(probe, "STAYS_S", 0.05)
