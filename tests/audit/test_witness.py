import base64
import pathlib
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, VerifierKey, read_checkpoint, sign_checkpoint
from audit.merkle import EMPTY_ROOT
from audit.reader import Reader
from audit.witness import MAX_PROOF, AddCheckpoint, decide, parse_policy, request_for
from mesh.problems import Invalid
from tests.audit.making import KEY, ORIGIN, OTHER_KEY, make, open_log
from tests.examples import examples

VERIFIER = VerifierKey(name=ORIGIN, key=KEY.public_key())
LOGS = {ORIGIN: VERIFIER}
SIZES = (1, 2, 255, 256, 257, 300)


@pytest.fixture(scope="module")
def readers() -> dict[int, Reader]:
    """The same log at several sizes; the tiles of every size stay."""
    folder = pathlib.Path(tempfile.mkdtemp())
    log = open_log(folder)
    found, number = {}, 0
    for size in SIZES:
        log.append([make(index) for index in range(number, size)])
        number = size
        found[size] = Reader(folder, str(VERIFIER))
    log.close()
    return found


def held(reader: Reader) -> dict[str, Checkpoint]:
    return {ORIGIN: reader.checkpoint}


@pytest.mark.parametrize("old", [0, *SIZES])
@pytest.mark.parametrize("new", SIZES)
def test_what_follows_is_cosigned(readers: dict[int, Reader], old: int, new: int) -> None:
    if old > new:
        with pytest.raises(Invalid) as caught:
            request_for(readers[new], old)
        assert caught.value.code == "LM6081"
        return
    request = request_for(readers[new], old)
    assert AddCheckpoint.parse(request.to_bytes()) == request
    answer = decide(request, LOGS, held(readers[old]) if old else {})
    assert (answer.status, answer.accepted) == (200, readers[new].checkpoint)


def other_history(size: int) -> bytes:
    return sign_checkpoint(Checkpoint(origin=ORIGIN, size=size, root=bytes(range(32))), KEY)


def test_refusals_are_those_of_the_protocol(readers: dict[int, Reader]) -> None:
    at_257, to_300 = held(readers[257]), request_for(readers[300], 257)
    unknown = sign_checkpoint(Checkpoint(origin="other.test", size=5, root=EMPTY_ROOT), KEY)
    forged = sign_checkpoint(readers[300].checkpoint, OTHER_KEY)
    cases = {
        "a log that is not known": (AddCheckpoint(old=0, proof=(), note=unknown), 404, ""),
        "signed by another key": (AddCheckpoint(old=257, proof=to_300.proof, note=forged), 403, ""),
        "no note": (AddCheckpoint(old=257, proof=(), note=b"x"), 400, ""),
        "an old size beyond the new one": (AddCheckpoint(old=301, proof=(), note=readers[300].note), 400, ""),
        "another old size": (request_for(readers[300], 256), 409, "257\n"),
        "a step back": (request_for(readers[256], 0), 409, "257\n"),
        "another history of the same size": (AddCheckpoint(old=257, proof=(), note=other_history(257)), 409, ""),
        "a fork": (AddCheckpoint(old=257, proof=to_300.proof, note=other_history(300)), 422, ""),
        "no proof": (AddCheckpoint(old=257, proof=(), note=readers[300].note), 422, ""),
        "a proof of nothing": (AddCheckpoint(old=257, proof=(bytes(32),), note=readers[257].note), 422, ""),
    }
    for name, (request, status, body) in cases.items():
        answer = decide(request, LOGS, at_257)
        assert (answer.status, answer.body, answer.accepted) == (status, body, None), name


def test_a_first_checkpoint_takes_no_proof(readers: dict[int, Reader]) -> None:
    assert decide(AddCheckpoint(old=0, proof=(bytes(32),), note=readers[2].note), LOGS, {}).status == 422


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_a_changed_proof_is_never_cosigned(readers: dict[int, Reader], data: st.DataObject) -> None:
    request = request_for(readers[300], 257)
    place = data.draw(st.integers(0, len(request.proof) - 1))
    changed = bytearray(request.proof[place])
    changed[data.draw(st.integers(0, 31))] ^= data.draw(st.integers(1, 255))
    proof = (*request.proof[:place], bytes(changed), *request.proof[place + 1 :])
    found = decide(AddCheckpoint(old=257, proof=proof, note=request.note), LOGS, held(readers[257]))
    assert found.status == 422


@settings(max_examples=examples(100), deadline=None)
@given(body=st.binary(max_size=300))
def test_no_body_breaks_the_reading(body: bytes) -> None:
    try:
        AddCheckpoint.parse(b"old 3\n" + body)
    except Invalid as problem:
        assert problem.code == "LM6080"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 03\n\nx",
        b"old -1\n\nx",
        b"old 1\nAAAA\n\nx",
        b"old 1\r\n\r\nx",
        b"new 1\n\nx",
        b"old 1\n" + base64.b64encode(bytes(32)) * 2 + b"\n\nx",
        b"old 1\n" + (base64.b64encode(bytes(32)) + b"\n") * (MAX_PROOF + 1) + b"\nx",
        b"old 1\n\n" + b"x" * (1 << 20),
    ],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        AddCheckpoint.parse(body)
    assert caught.value.code == "LM6080"


def test_reads_the_request_of_the_specification() -> None:
    text = (
        "old 20852014\n"
        "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
        "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
        "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n"
        "/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n"
        "\n"
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
        "\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+"
        "zyWE+xeMcTOAYQ8=\n"
    )
    found = AddCheckpoint.parse(text.encode())
    assert (found.old, len(found.proof)) == (20852014, 4)
    assert found.to_bytes() == text.encode()
    assert decide(found, {}, {}).status == 404


def test_a_policy_names_witnesses_as_tlog_policy_does() -> None:
    key = "w.test/one+e08c4432+BOkK2Nn6i6Zz4r/jPkN4KXIATInjf01oyefTFgf1aTcp"
    entries = parse_policy(f"# ours\nlog {VERIFIER}\nwitness one {key} https://w.test/one/ # far away\nquorum none\n")
    assert [(item.name, str(item.key), item.url) for item in entries] == [("one", key, "https://w.test/one")]
    assert parse_policy("") == ()


@pytest.mark.parametrize(
    "line",
    [
        "witness one",
        "witness one x+y+z https://w.test",
        f"witness one {VERIFIER} https://w.test",
        "witness one w.test/one+e08c4432+BOkK2Nn6i6Zz4r/jPkN4KXIATInjf01oyefTFgf1aTcp file:///etc",
        "group g any one",
        "witness a w.test/one+e08c4432+BOkK2Nn6i6Zz4r/jPkN4KXIATInjf01oyefTFgf1aTcp http://a\n" * 2,
    ],
)
def test_a_policy_that_says_no_witness_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_policy(f"\n{line}")
    assert caught.value.code == "LM6082"
    assert caught.value.facts["line"] in {2, 3}


def test_the_request_carries_the_checkpoint_as_the_log_signed_it(readers: dict[int, Reader]) -> None:
    assert read_checkpoint(request_for(readers[300], 0).note, VERIFIER) == readers[300].checkpoint
