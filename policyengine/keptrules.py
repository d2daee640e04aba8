"""The rules of a policy as they were read before, in chunks, so that one changed rule is one rule that is read.

A chunk ends after a rule whose id says so (one in sixteen does, others in each process), and not after so many rules:
a rule that is added or removed leaves all other chunks as they were. A chunk is known by the digest of how it is
written; in one that is not known every rule is looked for by its own. Rules with findings are never kept. This module
knows JSON and not what a rule means.
"""

from __future__ import annotations

import hashlib
import itertools
import marshal
from collections.abc import Callable
from typing import NamedTuple, cast

from policyengine.model import Rule

_MEAN = 16
Read = Callable[[object], Rule | None]
"""Reads one rule; None for one with findings."""


def digest(written: object, more: bytes = b"") -> bytes:
    """The digest of plain JSON by types and values: to Python `1` and `true` are equal, here they are not."""
    # version 2 of the format has no references, so that the same bytes are the same value
    found = marshal.dumps(cast("dict[str, object]", written), 2)  # plain JSON, so it can
    return hashlib.blake2b(found + more, digest_size=32).digest()


class Chunk(NamedTuple):
    """Rules that stand one after the other, as they were read, and how each is written."""

    rules: tuple[Rule, ...]
    forms: tuple[bytes, ...]


class KeptRules:
    """Chunks by their digests: those of the reading that goes on, and those of the one before."""

    def __init__(self) -> None:
        self._now: dict[bytes, Chunk] = {}
        self._before: dict[bytes, Chunk] = {}
        self._known: dict[bytes, Rule] | None = None

    def begin(self) -> None:
        """Begin another reading: what it does not come upon is forgotten with the one after."""
        self._before, self._now, self._known = self._now, {}, None

    def touch(self, forms: tuple[bytes, ...]) -> None:
        """Keep chunks on, whose rules are in a policy that is the same."""
        for form in forms:
            if form in self._before:
                self._now[form] = self._before[form]

    def rules(self, chunks: list[list[object]], forms: tuple[bytes, ...], read: Read) -> tuple[Rule, ...] | None:
        """The rules of chunks with these digests; None when one of them has findings."""
        found: list[Rule] = []
        for items, form in zip(chunks, forms, strict=True):
            chunk = self._before.get(form) or self._now.get(form) or self._read(items, read)
            if chunk is None:
                return None
            self._now[form] = chunk
            found.extend(chunk.rules)
        return tuple(found)

    def _read(self, items: list[object], read: Read) -> Chunk | None:
        if self._known is None:
            kept = self._before.values()
            self._known = {form: rule for chunk in kept for form, rule in zip(chunk.forms, chunk.rules, strict=True)}
        rules: list[Rule] = []
        forms = tuple(digest(item) for item in items)
        for item, form in zip(items, forms, strict=True):
            rule = self._known.get(form) or read(item)
            if rule is None:
                return None
            rules.append(rule)
        return Chunk(tuple(rules), forms)


def chunks_of(items: list[object]) -> list[list[object]]:
    """A list of rules cut into chunks, at places that the ids of the rules before them say."""
    try:
        ends = [place for place, item in enumerate(items, 1) if not hash(item["id"]) % _MEAN]  # type: ignore[index]
    except (KeyError, TypeError):
        ends = []  # something is no rule: it will be refused
    if (ends[-1] if ends else 0) < len(items):
        ends.append(len(items))
    return [items[begin:end] for begin, end in itertools.pairwise((0, *ends))]
