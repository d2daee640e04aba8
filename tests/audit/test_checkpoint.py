import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import (
    MAX_CHECKPOINT_BYTES,
    Algorithm,
    Checkpoint,
    PrivateKey,
    VerifierKey,
    claimed,
    cosign,
    cosigned_at,
    read_checkpoint,
    read_note,
    sign_checkpoint,
)
from audit.merkle import EMPTY_ROOT
from mesh.problems import Problem
from tests.audit.making import KEY, ORIGIN, OTHER_KEY

VERIFIER = VerifierKey(name=ORIGIN, key=KEY.public_key())
SAID = Checkpoint(origin=ORIGIN, size=20852163, root=EMPTY_ROOT)
NOTE = sign_checkpoint(SAID, KEY)

# the example of the signed-note specification: key and note
NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ANSWER = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def code_of(note: bytes, verifier: VerifierKey = VERIFIER) -> str:
    with pytest.raises(Problem) as caught:
        read_checkpoint(note, verifier)
    return caught.value.code


def test_reads_what_it_signed() -> None:
    assert read_checkpoint(NOTE, VERIFIER) == SAID


def test_a_checkpoint_looks_as_the_specification_says() -> None:
    text, _, signature = NOTE.decode().partition("\n\n")
    assert text == f"{ORIGIN}\n20852163\n{base64.b64encode(EMPTY_ROOT).decode()}"
    assert signature.startswith(f"— {ORIGIN} ")
    assert base64.b64decode(signature.split(" ")[2])[:4] == VERIFIER.hash


def test_reads_the_published_key_and_verifies_the_published_note() -> None:
    verifier = VerifierKey.parse(NEUMANN)
    assert str(verifier) == NEUMANN
    # its signature holds; it is only no checkpoint
    assert code_of(ANSWER.encode(), verifier) == "LM6031"
    assert code_of(ANSWER.replace("answer", "answers").encode(), verifier) == "LM6032"


def test_another_key_of_the_same_name_does_not_count() -> None:
    assert code_of(sign_checkpoint(SAID, OTHER_KEY)) == "LM6032"


def test_a_key_of_another_name_does_not_count() -> None:
    other = VerifierKey(name="other.test/audit", key=KEY.public_key())
    assert code_of(NOTE, other) == "LM6032"


def test_the_origin_is_the_name_of_the_key() -> None:
    foreign = Checkpoint(origin="other.test/audit", size=1, root=EMPTY_ROOT)
    signature = VERIFIER.hash + KEY.sign(foreign.text().encode())
    note = f"{foreign.text()}\n— {ORIGIN} {base64.b64encode(signature).decode()}\n"
    assert code_of(note.encode()) == "LM6031"


def test_cosignatures_of_others_may_stand_beside() -> None:
    cosigned = NOTE + b"\xe2\x80\x94 witness.test/w " + base64.b64encode(b"1234" + bytes(72)) + b"\n"
    assert read_checkpoint(cosigned, VERIFIER) == SAID


def test_a_wrong_signature_beside_a_right_one_is_refused() -> None:
    forged = base64.b64encode(VERIFIER.hash + bytes(64)).decode()
    assert code_of(NOTE + f"— {ORIGIN} {forged}\n".encode()) == "LM6032"


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "x\n1\n",
        f"{ORIGIN}\n01\nAAAA",
        f"{ORIGIN}\n-1\nAAAA",
        f"{ORIGIN}\n1\nAAAA",
        f"{ORIGIN}\n1\n!",
        f"{ORIGIN}\n1",
    ],
    ids=["no lines", "no root", "leading zero", "negative", "short root", "no base64", "no root line"],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    body = f"{text}\n"
    signature = base64.b64encode(VERIFIER.hash + KEY.sign(body.encode())).decode()
    assert code_of(f"{body}\n— {ORIGIN} {signature}\n".encode()) in {"LM6031", "LM6032"}


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\xff",
        NOTE.replace(b"\n\n", b"\n"),
        NOTE[:-1],
        NOTE + bytes(MAX_CHECKPOINT_BYTES),
        NOTE + b"\n",
        b"\x00" + NOTE,
    ],
    ids=["empty", "not UTF-8", "unsigned", "no line end", "too large", "empty line", "control character"],
)
def test_what_is_no_note_is_refused(note: bytes) -> None:
    assert code_of(note) == "LM6031"


@given(st.integers(0, len(NOTE) - 1), st.integers(1, 255))
def test_every_changed_byte_is_seen(place: int, change: int) -> None:
    changed = bytearray(NOTE)
    changed[place] ^= change
    assert code_of(bytes(changed)) in {"LM6031", "LM6032"}


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(note: bytes) -> None:
    assert code_of(note) in {"LM6031", "LM6032"}
    assert code_of(note + b"\n\n" + note + b"\n") in {"LM6031", "LM6032"}


@pytest.mark.parametrize(
    "text",
    ["", "a", "a+b", f"{NEUMANN}x", NEUMANN.replace("c74f", "c74e"), NEUMANN.replace("Peter", "Paul"), "é+1+é"],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(Problem) as caught:
        VerifierKey.parse(text)
    assert caught.value.code == "LM6030"


@given(st.text(max_size=80))
def test_no_text_breaks_the_key_reader(text: str) -> None:
    with pytest.raises(Problem):
        VerifierKey.parse(text)


# the example of the tlog-cosignature specification: its log and its witness publish no keys, so that only form is read
SOFA = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+"
    "zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+"
    "mbIUBkBIfZ+qnA==\n"
)


def test_reads_the_published_cosigned_checkpoint() -> None:
    assert claimed(SOFA.encode()).size == 20852163
    text, signatures = read_note(SOFA.encode())
    assert text == SOFA.partition("\n\n")[0] + "\n"
    assert [(name, len(data)) for name, data in signatures] == [
        ("example.com/behind-the-sofa", 4 + 64),
        ("witness.example.com/w1", 4 + 8 + 64),
    ]
    # the time that the specification names beside it
    assert int.from_bytes(signatures[1][1][4:12], "big") == 1679315147


@pytest.mark.parametrize("key", [OTHER_KEY, MLDSA44PrivateKey.generate()], ids=["ed25519", "ml-dsa-44"])
def test_a_cosignature_says_who_and_when_and_holds_for_nothing_else(key: PrivateKey) -> None:
    algorithm = Algorithm.COSIGNATURE if key is OTHER_KEY else Algorithm.ML_DSA_44
    witness = VerifierKey(name="w.test", key=key.public_key(), algorithm=algorithm)
    assert VerifierKey.parse(str(witness)) == witness
    line = cosign(SAID.text(), "w.test", key, at=1679315147)
    assert cosigned_at(NOTE + line.encode(), witness) == 1679315147
    assert cosigned_at(NOTE, witness) is None
    # the log's own signature is read beside it
    assert read_checkpoint(NOTE + line.encode(), VERIFIER) == SAID
    other = sign_checkpoint(Checkpoint(origin=ORIGIN, size=20852164, root=EMPTY_ROOT), KEY)
    with pytest.raises(Problem) as caught:
        cosigned_at(other + line.encode(), witness)
    assert caught.value.code == "LM6032"


def test_a_log_may_sign_with_a_second_algorithm() -> None:
    key = MLDSA44PrivateKey.generate()
    verifier = VerifierKey(name=ORIGIN, key=key.public_key(), algorithm=Algorithm.ML_DSA_44)
    both = NOTE + cosign(SAID.text(), ORIGIN, key, at=0).encode()
    assert read_checkpoint(both, verifier) == SAID
    assert read_checkpoint(both, VERIFIER) == SAID
    assert code_of(NOTE, verifier) == "LM6032"
