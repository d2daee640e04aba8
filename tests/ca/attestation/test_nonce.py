import base64
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.attestation import nonce as module
from ca.attestation.nonce import LIFE, Nonces
from mesh.problems import Forbidden, Unavailable

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)


def test_a_nonce_works_once_and_costs_nothing_before() -> None:
    nonces = Nonces(b"k" * 32)
    made = nonces.make(NOW, bytes(16))
    assert not nonces._used
    nonces.use(made, NOW)
    with pytest.raises(Forbidden, match="LM1240"):
        nonces.use(made, NOW)


def test_a_nonce_ends_and_is_of_one_server() -> None:
    nonces = Nonces(b"k" * 32)
    made = nonces.make(NOW, bytes(16))
    with pytest.raises(Forbidden, match="LM1240"):
        nonces.use(made, NOW + LIFE)
    with pytest.raises(Forbidden, match="LM1240"):
        Nonces(b"x" * 32).use(made, NOW)
    nonces.use(made, NOW + LIFE - dt.timedelta(milliseconds=1))


def test_what_is_remembered_is_bounded_and_forgotten_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_USED", 3)
    nonces = Nonces(b"k" * 32)
    for number in range(3):
        nonces.use(nonces.make(NOW, bytes([number]) * 16), NOW)
    with pytest.raises(Unavailable, match="LM1241"):
        nonces.use(nonces.make(NOW, bytes([9]) * 16), NOW)
    nonces.use(nonces.make(NOW + LIFE, bytes([9]) * 16), NOW + LIFE)
    assert len(nonces._used) == 1


@given(st.one_of(st.text(), st.binary().map(lambda data: base64.b64encode(data).decode())))
def test_nothing_else_is_a_nonce(text: str) -> None:
    with pytest.raises(Forbidden, match="LM1240"):
        Nonces(b"k" * 32).use(text, NOW)


def test_a_secret_belongs_to_its_nonce_and_purpose() -> None:
    nonces = Nonces(b"k" * 32)
    assert nonces.secret_for(b"a", "n") == nonces.secret_for(b"a", "n")
    assert len({nonces.secret_for(b"a", "n"), nonces.secret_for(b"b", "n"), nonces.secret_for(b"a", "m")}) == 3
