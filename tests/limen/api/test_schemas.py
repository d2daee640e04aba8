import pytest
from pydantic import ValidationError

from limen.api.schemas import ExplainBody, JoinBody, TokenBody


@pytest.mark.parametrize("body", [{"ttl_s": 0}, {"ttl_s": 86401}, {"ttl_s": "60"}, {"ttl_s": 60, "x": 1}], ids=str)
def test_bodies_are_strict(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TokenBody.model_validate(body)


def test_bodies_are_bounded() -> None:
    with pytest.raises(ValidationError):
        JoinBody.model_validate({"token": "x" * 9000, "spki": ""})
    with pytest.raises(ValidationError):
        ExplainBody.model_validate({"facts": [["a", "b"]] * 600})
