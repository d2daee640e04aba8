import json
import pathlib
import subprocess
import sys

import pytest

from ca.keys import KeyAlgorithm, generate
from ca.signing import OwnSigner


@pytest.mark.parametrize("kind", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.ML_DSA_65])
def test_this_process_signs_each_part_and_says_that_nobody_looked_at_it(kind: KeyAlgorithm) -> None:
    signer, key = OwnSigner(), generate(kind)
    signer.use(key)
    parts = [b"one", b"", b"three"]
    found = signer.sign(parts)
    assert [item.is_verified for item in found] == [False] * 3
    for item, part in zip(found, parts, strict=True):
        key.verifier()(item.value, part)


def test_the_key_of_now_signs() -> None:
    signer, first, second = OwnSigner(), generate(KeyAlgorithm.P256), generate(KeyAlgorithm.P256)
    signer.use(first)
    signer.use(second)
    second.verifier()(signer.sign([b"x"])[0].value, b"x")


@pytest.mark.parametrize("kind", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.ML_DSA_65])
def test_what_was_verified_at_once_says_so(kind: KeyAlgorithm) -> None:
    signer, key = OwnSigner(), generate(kind)
    signer.use(key)
    parts = [b"one", b"", b"three"]
    found = signer.sign_and_verify(parts)
    assert [item.is_verified for item in found] == [True] * 3
    for item, part in zip(found, parts, strict=True):
        key.verifier()(item.value, part)


def test_a_signature_that_does_not_verify_is_no_verified_one(monkeypatch: pytest.MonkeyPatch) -> None:
    signer, key = OwnSigner(), generate(KeyAlgorithm.P256)
    other = generate(KeyAlgorithm.P256)
    signer.use(key)
    made = [key.sign(b"one"), other.sign(b"two"), key.sign(b"three")]
    monkeypatch.setattr(signer, "_sign", lambda parts: made)
    found = signer.sign_and_verify([b"one", b"two", b"three"])
    assert [item.is_verified for item in found] == [True, False, True]


@pytest.mark.system
def test_signing_twice_does_not_see_what_verifying_each_does() -> None:
    """ADR 26: a bit that flipped for good in the curve's table makes the same wrong signature again."""
    done = subprocess.run(
        [sys.executable, pathlib.Path(__file__).parent / "tablefault.py"], capture_output=True, check=True, text=True
    )
    if not done.stdout:
        pytest.skip("this build of the library signs from another table")
    found = json.loads(done.stdout)
    assert found["wrong"] > 0
    assert found["differ"] == 0
    # verifying has a blind spot of the same kind, where its own sum meets the same point: one in 64 of the wrong ones.
    # Some thirty are wrong, so that four of them pass once in a thousand runs, and a half in none
    assert found["passed though wrong"] * 2 <= found["wrong"]
