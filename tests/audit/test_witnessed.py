import pathlib
import shutil
import tempfile

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.checkpoint import Algorithm, Checkpoint, VerifierKey, cosign, sign_checkpoint
from audit.reader import Reader
from audit.verify import Verification, verify_log
from tests.audit.making import KEY, ORIGIN, make, open_log
from tests.examples import examples

WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
WITNESS = VerifierKey(name="w.test", key=WITNESS_KEY.public_key(), algorithm=Algorithm.COSIGNATURE)
STRANGER = VerifierKey(name="s.test", key=WITNESS_KEY.public_key(), algorithm=Algorithm.COSIGNATURE)
PATH = f"witness/{WITNESS.hash.hex()}"
LOG_KEY = str(VerifierKey(name=ORIGIN, key=KEY.public_key()))


def cosigned(note: bytes, name: str = "w.test") -> bytes:
    text = note.decode().partition("\n\n")[0] + "\n"
    return note + cosign(text, name, WITNESS_KEY, at=1_790_000_000).encode()


@pytest.fixture(scope="module")
def good() -> pathlib.Path:
    """A log of 300 records, whose first 280 a witness saw."""
    folder = pathlib.Path(tempfile.mkdtemp())
    log = open_log(folder)
    log.append([make(number) for number in range(280)])
    (folder / "witness").mkdir()
    (folder / PATH).write_bytes(cosigned(Reader(folder, LOG_KEY).note))
    log.append([make(number) for number in range(280, 300)])
    log.close()
    return folder


def verify(
    folder: pathlib.Path, path: str | None = None, data: bytes = b"", witness: VerifierKey = WITNESS
) -> Verification:
    with tempfile.TemporaryDirectory() as empty:
        copy = pathlib.Path(empty) / "copy"
        shutil.copytree(folder, copy)
        if path is not None:
            (copy / path).write_bytes(data)
        return verify_log(copy, LOG_KEY, [witness])


def codes(found: Verification) -> set[str]:
    assert not found.is_good
    return {item.code for item in found.findings}


def test_says_what_a_witness_saw_and_when(good: pathlib.Path) -> None:
    found = verify(good)
    assert found.is_good
    assert [(item.witness, item.size, item.at) for item in found.witnessed] == [("w.test", 280, 1_790_000_000)]


def test_a_witness_that_did_not_cosign_is_missed(good: pathlib.Path) -> None:
    assert codes(verify(good, witness=STRANGER)) == {"LM6088"}


def test_a_cosignature_on_the_checkpoint_itself_counts(good: pathlib.Path) -> None:
    found = verify(good, "checkpoint", cosigned((good / "checkpoint").read_bytes()))
    assert [(item.witness, item.size) for item in found.witnessed] == [("w.test", 300)]


def test_a_log_that_tells_another_history_than_the_witness_saw_is_found(good: pathlib.Path) -> None:
    other = sign_checkpoint(Checkpoint(origin=ORIGIN, size=280, root=bytes(32)), KEY)
    assert codes(verify(good, PATH, cosigned(other))) == {"LM6087", "LM6088"}


def test_a_log_that_was_cut_is_found(good: pathlib.Path) -> None:
    longer = sign_checkpoint(Checkpoint(origin=ORIGIN, size=301, root=bytes(32)), KEY)
    assert codes(verify(good, PATH, cosigned(longer))) == {"LM6087", "LM6088"}


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_a_flipped_byte_of_what_a_witness_cosigned_is_named(good: pathlib.Path, data: st.DataObject) -> None:
    content = bytearray((good / PATH).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    assert codes(verify(good, PATH, bytes(content))) & {"LM6087", "LM6088"}
