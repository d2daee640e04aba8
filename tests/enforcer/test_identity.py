import datetime as dt

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from enforcer.identity import Identity, half_life, new_ask, read_issued
from enforcer.join import key_der
from mesh.problems import Forbidden, Problem, Unavailable
from mesh.proto import node_pb2 as pb
from tests.fuzz.mutation import mutant
from tests.pki import NOW, Pki

PKI = Pki()
LEAF = PKI.leaf()
assert isinstance(LEAF.key, ec.EllipticCurvePrivateKey)
KEY = key_der(LEAF.key)
NAME = "spiffe://corp.test/ns/web/sa/front"
ISSUED = pb.IssuedSvid(ref="1", spiffe_id=NAME, chain=[LEAF.der], rule="r", hint="h", direct=True)


def test_every_ask_has_a_key_of_its_own() -> None:
    one, key = new_ask("1", [("unix:uid", "1"), ("unix:uid", "2")])
    two, _ = new_ask("2", [])
    assert one.spki != two.spki
    assert [(fact.key, fact.value) for fact in one.facts] == [("unix:uid", "1"), ("unix:uid", "2")]
    assert load_der_private_key(key, None) is not None


def test_what_was_issued_is_read_and_a_refusal_raises_its_code() -> None:
    found = read_issued(ISSUED, KEY, NOW)
    assert (str(found.svid.spiffe_id), found.rule, found.hint, found.direct) == (NAME, "r", "h", True)
    assert NOW < found.renew_at < found.svid.not_after
    with pytest.raises(Forbidden, match="LM1210"):
        read_issued(pb.IssuedSvid(ref="1", code="LM1210", facts={"count": "3"}), b"", NOW)


def test_a_code_of_another_version_is_a_refusal_that_says_it() -> None:
    with pytest.raises(Forbidden, match="LM3454") as caught:
        read_issued(pb.IssuedSvid(code="LM9999"), b"", NOW)
    assert "LM9999" in caught.value.message


def test_facts_cannot_be_taken_for_anything_else_of_a_problem() -> None:
    facts = {"code": "LM1", "self": "x", "span": "y", "count": "3"}
    with pytest.raises(Forbidden, match="LM1210") as caught:
        read_issued(pb.IssuedSvid(code="LM1210", facts=facts), b"", NOW)
    assert caught.value.facts == {"count": "3"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"chain": []}, "1 to 6 certificates"),
        ({"chain": [b""]}, "does not parse"),
        ({"chain": [b"no certificate"]}, "does not parse"),
        ({"chain": [LEAF.der + b"x"]}, "does not parse"),
        ({"chain": [LEAF.der] * 7}, "1 to 6 certificates: 7"),
        ({"chain": [LEAF.der, b"x"]}, "does not parse"),
        ({"chain": [PKI.leaf().der]}, "another key"),
        ({"spiffe_id": "spiffe://corp.test/ns/web/sa/other"}, "is not `spiffe://corp.test/ns/web/sa/other`'s"),
        ({"spiffe_id": ""}, "is not ``'s"),
    ],
    ids=["none", "empty", "words", "more-bytes", "long", "bad-signer", "key", "name", "no-name"],
)
def test_what_is_no_svid_for_this_key_and_name_is_refused_with_a_code(changed: dict[str, object], reason: str) -> None:
    found = pb.IssuedSvid()
    found.CopyFrom(ISSUED)
    for name, value in changed.items():
        found.ClearField(name)  # type: ignore[arg-type]
        found.MergeFrom(pb.IssuedSvid(**{name: value}))  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="LM3453") as caught:
        read_issued(found, KEY, NOW)
    assert reason in caught.value.message


def read(data: bytes) -> Identity | Problem | None:
    """What comes of bytes; None for those that are no message, which gRPC refuses."""
    try:
        return read_issued(pb.IssuedSvid.FromString(data), KEY, NOW)
    except DecodeError:
        return None
    except Problem as problem:
        # it can be said, too
        assert str(problem)
        return problem


@given(st.integers(min_value=0, max_value=1 << 32))
def test_any_answer_is_an_identity_of_this_key_or_a_problem(number: int) -> None:
    found = read(mutant([ISSUED.SerializeToString(), pb.IssuedSvid(code="LM1210").SerializeToString()], number))
    assert not isinstance(found, Identity) or str(found.svid.spiffe_id) == NAME


@given(st.text(), st.text(), st.lists(st.binary(), max_size=9), st.dictionaries(st.text(), st.text(), max_size=3))
def test_any_words_for_an_answer_are_a_problem(name: str, code: str, chain: list[bytes], facts: dict[str, str]) -> None:
    found = read(pb.IssuedSvid(spiffe_id=name, code=code, chain=chain, facts=facts).SerializeToString())
    assert isinstance(found, Problem)


def test_renewal_is_at_half_life_give_or_take_a_tenth() -> None:
    hour = dt.timedelta(hours=1)
    for _ in range(100):
        moment = half_life(NOW, NOW + hour)
        assert 0.45 * hour <= moment - NOW <= 0.55 * hour
