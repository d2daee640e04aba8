"""Signing keys in a token: made there, used there, never anywhere else.

A key's object has the label `limen:NAME`, so that a partition that has other objects too is not touched beyond ours.
"""

from __future__ import annotations

from ca.keys import KeyAlgorithm, SigningKey
from ca.keysource import check_name
from ca.pkcs11token import Token
from mesh.problems import Conflict, NotFound

PREFIX = "limen:"


class TokenKeys:
    """Keys in one token."""

    name = "pkcs11"
    is_durable = True

    def __init__(self, token: Token) -> None:
        self._token = token

    def new(self, name: str, algorithm: KeyAlgorithm) -> SigningKey:
        """Make a key. Raises Conflict LM1601, Invalid LM1606, Unavailable LM1603, Forbidden LM1605."""
        label = PREFIX + check_name(name)
        if label in self._token.labels():
            raise Conflict("LM1601", name=name, source=self.name)
        return self._token.generate(label, algorithm)

    def load(self, name: str) -> SigningKey:
        """The key of a name. Raises NotFound LM1600, Invalid LM1604, Unavailable LM1603, Forbidden LM1605."""
        found = self._token.find(PREFIX + check_name(name))
        if found is None:
            raise NotFound("LM1600", name=name, source=self.name)
        return found

    def delete(self, name: str) -> None:
        """Forget a key. Raises Unavailable LM1603, Forbidden LM1605."""
        self._token.destroy(PREFIX + check_name(name))

    def names(self) -> frozenset[str]:
        """The names of our keys. Raises Unavailable LM1603, Forbidden LM1605."""
        return frozenset(found.removeprefix(PREFIX) for found in self._token.labels() if found.startswith(PREFIX))
