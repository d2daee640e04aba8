import os

import pytest

from ca.acme.nonces import LIFE_S, Nonces
from mesh.problems import Invalid


def test_a_nonce_is_taken_once() -> None:
    nonces = Nonces(os.urandom)
    made = nonces.make(10)
    nonces.take(made, 11)
    with pytest.raises(Invalid, match="LM1401"):
        nonces.take(made, 12)


@pytest.mark.parametrize("text", ["", "=", "AAAA", "x" * 46])
def test_what_is_no_nonce_of_ours_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="LM1401"):
        Nonces(os.urandom).take(text, 0)


def test_a_nonce_of_another_process_or_of_long_ago_is_refused() -> None:
    nonces = Nonces(os.urandom)
    for made, moment in ((Nonces(os.urandom).make(0), 0), (nonces.make(0), LIFE_S * 1_000_000 + 1)):
        with pytest.raises(Invalid, match="LM1401"):
            nonces.take(made, moment)


def test_forgetting_used_nonces_lets_none_through_again() -> None:
    nonces = Nonces(os.urandom, most=2)
    made = [nonces.make(moment) for moment in range(5)]
    for item in made:
        nonces.take(item, 10)
    for item in made:
        with pytest.raises(Invalid, match="LM1401"):
            nonces.take(item, 10)
