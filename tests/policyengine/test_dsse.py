import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mesh.problems import Invalid
from policyengine import dsse

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
PUBLIC, OTHER_PUBLIC = dsse.public_bytes(KEY), dsse.public_bytes(OTHER)
TYPE = "application/vnd.test+json"


def test_encodes_the_example_of_the_protocol() -> None:
    encoded = dsse.pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_counts_bytes_not_characters_in_the_encoding() -> None:
    assert dsse.pae("t", "é".encode()) == b"DSSEv1 1 t 2 \xc3\xa9"


@given(st.text(max_size=20), st.binary(max_size=40), st.text(max_size=20), st.binary(max_size=40))
def test_encoding_is_injective(kind: str, body: bytes, other_kind: str, other_body: bytes) -> None:
    same = (kind, body) == (other_kind, other_body)
    assert (dsse.pae(kind, body) == dsse.pae(other_kind, other_body)) == same


def test_names_the_keys_that_signed() -> None:
    envelope = dsse.sign(TYPE, b"{}", [KEY, OTHER])
    assert dsse.signers(envelope, TYPE, [PUBLIC, OTHER_PUBLIC]) == {PUBLIC, OTHER_PUBLIC}
    assert dsse.signers(envelope, TYPE, [PUBLIC]) == {PUBLIC}


def test_counts_a_key_once_however_often_it_signed() -> None:
    envelope = dsse.sign(TYPE, b"{}", [KEY, KEY])
    assert dsse.signers(envelope, TYPE, [PUBLIC, OTHER_PUBLIC]) == {PUBLIC}


def test_counts_nobody_for_another_payload_type() -> None:
    envelope = dsse.sign("application/other", b"{}", [KEY])
    assert dsse.signers(envelope, TYPE, [PUBLIC]) == frozenset()


def test_counts_nobody_when_type_or_payload_was_swapped_after_signing() -> None:
    signed = dsse.sign("application/other", b"{}", [KEY]).signatures
    retyped = dsse.Envelope(payload_type=TYPE, payload=b"{}", signatures=signed)
    swapped = dsse.Envelope(payload_type="application/other", payload=b"[]", signatures=signed)
    assert dsse.signers(retyped, TYPE, [PUBLIC]) == frozenset()
    assert dsse.signers(swapped, "application/other", [PUBLIC]) == frozenset()


def test_takes_the_key_id_for_a_hint_only() -> None:
    signature = dsse.sign(TYPE, b"{}", [KEY]).signatures[0].signature
    lying = dsse.Envelope(
        payload_type=TYPE,
        payload=b"{}",
        signatures=(dsse.Signature(key_id=dsse.key_id(OTHER_PUBLIC), signature=signature),),
    )
    assert dsse.signers(lying, TYPE, [OTHER_PUBLIC]) == frozenset()
    assert dsse.signers(lying, TYPE, [OTHER_PUBLIC, PUBLIC]) == {PUBLIC}


def test_reads_what_it_writes() -> None:
    envelope = dsse.sign(TYPE, b'{"a":1}', [KEY, OTHER])
    assert dsse.envelope_from_json(json.loads(json.dumps(envelope.to_json()))) == envelope


def test_reads_url_safe_base64_too() -> None:
    obj = dsse.sign(TYPE, b"\xff\xfe\xfd?>", [KEY]).to_json()
    obj["payload"] = base64.urlsafe_b64encode(b"\xff\xfe\xfd?>").decode()
    assert dsse.envelope_from_json(obj).payload == b"\xff\xfe\xfd?>"


GOOD = dsse.sign(TYPE, b"{}", [KEY]).to_json()
SIGNED = GOOD["signatures"][0]  # type: ignore[index]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([], id="no-object"),
        pytest.param({**GOOD, "extra": 1}, id="unknown-field"),
        pytest.param({"payload": "", "payloadType": TYPE}, id="no-signatures"),
        pytest.param({**GOOD, "signatures": [SIGNED] * 65}, id="too-many-signatures"),
        pytest.param({**GOOD, "payload": "*"}, id="no-base64"),
        pytest.param({**GOOD, "payload": 1}, id="payload-a-number"),
        pytest.param({**GOOD, "payloadType": ""}, id="empty-type"),
        pytest.param({**GOOD, "payloadType": "é"}, id="type-not-ascii"),
        pytest.param({**GOOD, "signatures": [{"keyid": 1, "sig": SIGNED["sig"]}]}, id="key-id-a-number"),
        pytest.param({**GOOD, "signatures": [{"keyid": "", "sig": "AAAA"}]}, id="short-signature"),
    ],
)
def test_refuses_a_malformed_envelope(value: object) -> None:
    with pytest.raises(Invalid) as caught:
        dsse.envelope_from_json(value)
    assert caught.value.code == "LM2400"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@given(JSON | st.fixed_dictionaries({"payloadType": JSON, "payload": JSON, "signatures": JSON}))
def test_any_json_is_read_or_refused_with_a_code(value: object) -> None:
    try:
        dsse.envelope_from_json(value)
    except Invalid as problem:
        found = problem.code
    else:
        found = "LM2400"
    assert found == "LM2400"


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_refused_with_a_code(data: bytes) -> None:
    try:
        dsse.strict_json(data, "LM2400")
    except Invalid as problem:
        found = problem.code
    else:
        found = "LM2400"
    assert found == "LM2400"


@pytest.mark.parametrize(
    "data", [b'{"a":1,"a":2}', b"NaN", b"[Infinity]", b"\xef\xbb\xbf{}", b"[" * 100_000], ids=ascii
)
def test_refuses_json_with_two_meanings(data: bytes) -> None:
    with pytest.raises(Invalid):
        dsse.strict_json(data, "LM2400")
