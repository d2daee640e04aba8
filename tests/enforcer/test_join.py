import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from enforcer.door import Door
from enforcer.join import join, read_admission
from mesh.problems import Forbidden, Invalid, Unavailable
from tests.mesh.test_jointoken import token
from tests.pki import make


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


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
_KEY = ec.generate_private_key(ec.SECP256R1())
_LEAF = make(uris=("spiffe://td/limen/agent/n",), key=_KEY)


def good() -> dict[str, object]:
    chain = [base64.b64encode(_LEAF.der).decode()]
    return {"chain": chain, "trust_domain": "td", "bundle": "{}", "node_api": "x:1", "facts": [["a", "b"]]}


@given(st.dictionaries(st.sampled_from(["chain", "trust_domain", "bundle", "node_api", "facts", "time"]), _JSON))
def test_no_answer_is_a_bug(changed: dict[str, object]) -> None:
    with contextlib.suppress(Unavailable):
        read_admission(Door("https://x:1", ""), {**good(), **changed}, _KEY)


@given(st.lists(st.tuples(st.integers(0, len(_LEAF.der) - 1), st.integers(1, 255)), max_size=4))
def test_no_certificate_is_a_bug(changes: list[tuple[int, int]]) -> None:
    der = bytearray(_LEAF.der)
    for place, value in changes:
        der[place] ^= value
    with contextlib.suppress(Unavailable, Forbidden):
        read_admission(Door("https://x:1", ""), {**good(), "chain": [base64.b64encode(der).decode()]}, _KEY)


def test_an_answer_for_another_key_is_refused() -> None:
    door = Door("https://x:1", "")
    assert read_admission(door, good(), _KEY).spiffe_id == "spiffe://td/limen/agent/n"
    with pytest.raises(Forbidden, match="LM3451"):
        read_admission(door, good(), ec.generate_private_key(ec.SECP256R1()))
