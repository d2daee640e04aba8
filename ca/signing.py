"""What signs many certificates at once: this process, or others beside it that hold the same key.

Pure but for the key: the signed parts come in and signatures go out, in order. Each signature says whether it was
verified where it was made; one that was not is verified here before anything leaves (`ca.owncheck`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature

from ca.keys import SignAll, SigningKey

Verify = Callable[[bytes, bytes], None]


class Signature(NamedTuple):
    """A signature, and whether it was verified already. One for every leaf: nothing else is made as quickly."""

    value: bytes
    is_verified: bool


class Signers(Protocol):
    """Signs for an authority."""

    def use(self, key: SigningKey) -> None:
        """Sign with this key from now on."""
        ...

    def sign(self, parts: Sequence[bytes]) -> list[Signature]:
        """Sign each part, in order. Raises what the key raises."""
        ...


class OwnSigner:
    """Signs in this process."""

    def __init__(self) -> None:
        self._sign: SignAll | None = None
        self._verify: Verify | None = None

    def use(self, key: SigningKey) -> None:
        """Sign with this key from now on."""
        self._sign, self._verify = key.signer(), key.verifier()

    def sign(self, parts: Sequence[bytes]) -> list[Signature]:
        """Sign each part, in order. Raises what the key raises."""
        assert self._sign is not None
        return [Signature(value, False) for value in self._sign(parts)]

    def sign_and_verify(self, parts: Sequence[bytes]) -> list[Signature]:
        """Sign each part and verify it at once: one that does not verify says so, and `ca.owncheck` has the word."""
        assert self._verify is not None
        found = []
        for signature, part in zip(self.sign(parts), parts, strict=True):
            try:
                self._verify(signature.value, part)
            except InvalidSignature:
                found.append(signature)
            else:
                found.append(Signature(signature.value, is_verified=True))
        return found
