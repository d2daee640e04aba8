import pytest

from ca.acme import errors
from mesh import problems
from mesh.problems import Invalid


@pytest.mark.parametrize("code", sorted(errors.TYPES))
def test_every_code_has_a_type_and_a_status(code: str) -> None:
    found, status = errors.document(Invalid(code))
    assert problems.entry(code)
    assert found["type"] == "urn:ietf:params:acme:error:" + errors.TYPES[code][0]
    assert found["status"] == status >= 400


def test_what_is_no_acme_error_says_nothing_of_itself() -> None:
    found, status = errors.document(Invalid("LM1201", name="a secret's name"))
    assert status == 500
    assert found["type"].endswith("serverInternal")  # type: ignore[attr-defined]
    assert "secret" not in str(found)
