"""Where signing keys are kept: one protocol, and the two places that need nothing else: the database, and memory.

Keys in the database are wrapped (`mesh.wrapping`) and named; keys in memory are gone after a restart, which is what
they are for: an issuing authority that nobody can copy, and whose successor is prepared when the process begins
again. A key is made before the authority that is to use it is recorded; `ca.keyledger` remembers the ones that a
kill left between the two. `ca.disksource` and `ca.pkcs11source` are further places. No certificate is made here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Protocol

import sqlalchemy as sa

from ca import store
from ca.keys import KeyAlgorithm, SigningKey, generate, private_from_der, private_to_der
from mesh.database import transaction
from mesh.problems import Conflict, NotFound
from mesh.wrapping import WrappingKey

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}\Z")


class KeySource(Protocol):
    """A place for signing keys. Names are lower-case letters, digits and hyphens, and are never used twice.

    `new` is durable when it returns, in sources that are durable at all. It opens what it needs by itself: callers
    hold no transaction of the same database.
    """

    @property
    def name(self) -> str:
        """Which kind of source it is, for people."""
        ...

    @property
    def is_durable(self) -> bool:
        """Whether keys survive a restart: a root's key, or the server's, belongs nowhere else."""
        ...

    def new(self, name: str, algorithm: KeyAlgorithm) -> SigningKey:
        """Make a key. Raises Conflict LM1601 for a name in use, Invalid LM1606 for what the source cannot make."""
        ...

    def load(self, name: str) -> SigningKey:
        """The key of a name. Raises NotFound LM1600, Invalid LM1201 and LM1604 for one that was changed."""
        ...

    def delete(self, name: str) -> None:
        """Forget a key; none of that name is no error."""
        ...

    def names(self) -> frozenset[str]:
        """The names of the keys that are there."""
        ...


def check_name(name: str) -> str:
    """A key's name, which is also a file's and a token object's: anything else is a bug."""
    if not _NAME.match(name):
        raise ValueError("a key's name is 1 to 64 lower-case letters, digits and hyphens")
    return name


class DatabaseKeys:
    """Keys in the authority's database, wrapped."""

    name = "database"
    is_durable = True

    def __init__(
        self, engine: sa.Engine, wrapping: WrappingKey, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._engine, self._wrapping, self._random = engine, wrapping, random

    def new(self, name: str, algorithm: KeyAlgorithm) -> SigningKey:
        """Make a key and keep it, wrapped, in one transaction. Raises Conflict LM1601."""
        made = generate(algorithm)
        wrapped = self._wrapping.wrap(check_name(name), private_to_der(made.key), self._random(12))
        try:
            with transaction(self._engine) as connection:
                store.put_key(connection, name, wrapped)
        except sa.exc.IntegrityError as err:
            raise Conflict("LM1601", name=name, source=self.name) from err
        return made

    def load(self, name: str) -> SigningKey:
        """The key of a name. Raises NotFound LM1600, Invalid LM1201 and LM1604."""
        with transaction(self._engine) as connection:
            wrapped = store.get_key(connection, check_name(name))
        if wrapped is None:
            raise NotFound("LM1600", name=name, source=self.name)
        return private_from_der(self._wrapping.unwrap(name, wrapped), name)

    def delete(self, name: str) -> None:
        """Forget a key."""
        with transaction(self._engine) as connection:
            connection.execute(sa.delete(store.KEYS).where(store.KEYS.c.name == check_name(name)))

    def names(self) -> frozenset[str]:
        """The names of all wrapped keys."""
        with transaction(self._engine) as connection:
            return frozenset(str(row[0]) for row in connection.execute(sa.select(store.KEYS.c.name)))


class MemoryKeys:
    """Keys in this process alone."""

    name = "memory"
    is_durable = False

    def __init__(self) -> None:
        self._keys: dict[str, SigningKey] = {}

    def new(self, name: str, algorithm: KeyAlgorithm) -> SigningKey:
        """Make a key. Raises Conflict LM1601."""
        if check_name(name) in self._keys:
            raise Conflict("LM1601", name=name, source=self.name)
        self._keys[name] = generate(algorithm)
        return self._keys[name]

    def load(self, name: str) -> SigningKey:
        """The key of a name. Raises NotFound LM1600."""
        found = self._keys.get(check_name(name))
        if found is None:
            raise NotFound("LM1600", name=name, source=self.name)
        return found

    def delete(self, name: str) -> None:
        """Forget a key."""
        self._keys.pop(check_name(name), None)

    def names(self) -> frozenset[str]:
        """The names of the keys that this process made."""
        return frozenset(self._keys)
