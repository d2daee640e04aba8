"""What an issuer may be at all."""

from typing import Any

import pytest

from policyengine.issuer import Issuer

PLAIN: dict[str, Any] = {"name": "i", "owner": "", "issuer": "https://idp.test", "audiences": ("a",)}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"jwks_uri": "https://idp.test/k", "keys": "{}"},
        {"jwks_uri": "https://idp.test/k", "audiences": ()},
        {"jwks_uri": "https://idp.test/k", "algorithms": ()},
        {"jwks_uri": "https://idp.test/k", "leeway_s": 61},
        {"jwks_uri": "https://idp.test/k", "leeway_s": -1},
    ],
    ids=["no-keys", "keys-twice", "no-audience", "no-algorithm", "leeway", "negative-leeway"],
)
def test_what_would_verify_too_much_cannot_be_made(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an issuer has"):
        Issuer(**{**PLAIN, **fields})


def test_the_same_address_with_other_authorities_is_another_source() -> None:
    one = Issuer(**PLAIN, jwks_uri="https://idp.test/k")
    other = Issuer(**PLAIN, jwks_uri="https://idp.test/k", ca="pem")
    assert len({one.source, other.source, Issuer(**PLAIN, jwks_uri="https://idp.test/k2").source}) == 3
    assert Issuer(**PLAIN, keys="{}").source == ""
