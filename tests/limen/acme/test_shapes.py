import pytest

from limen.acme import shapes
from mesh.problems import Unavailable


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", [("ip", "127.0.0.1"), ("dns", "localhost")]),
        ("0.0.0.0", [("dns", "localhost")]),
        ("ca.test", [("dns", "ca.test"), ("dns", "localhost")]),
    ],
)
def test_the_servers_own_names(host: str, expected: list[tuple[str, str]]) -> None:
    assert shapes.own_names(host, []) == expected


def test_a_limited_caller_is_told_when_to_come_again() -> None:
    assert shapes.retry_after(Unavailable("LM1409", what="x", seconds=1.2)) == {"Retry-After": "2"}
    assert shapes.retry_after(Unavailable("LM1400", reason="x")) == {}
