import pytest

from enforcer.join import join
from mesh.problems import Invalid, Unavailable
from tests.mesh.test_jointoken import token


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "https://127.0.0.1", "127.0.0.1:1", "https://:1", "https://x:port"]
)
def test_an_address_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="LM3441"):
        join(url, token())


def test_a_token_that_is_none_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(Invalid, match="LM1207"):
        join("https://127.0.0.1:1", "x")


def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="LM3443"):
        join("https://127.0.0.1:1", token())
