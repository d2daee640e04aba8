"""The grants about one called service by who calls: itself, what is above it, everybody, nobody.

Behind a class of callers stand its grants by port and method, then by host, then by path (`policyengine.pathtrie`). A
small class is put in order when one of its callers first calls: most of the callers that policies name never do. Other
grants make other callers (`Callers.edited`), which share with these what no other grant touches: a changed rule costs
the time of that rule, however many stand beside it. Nothing here looks at conditions or decides.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping

from mesh.request import Effect
from mesh.spiffe import SpiffeId
from policyengine.attributes import identity_of
from policyengine.ir import Grant
from policyengine.operationtable import (
    ANY_METHOD,
    ANY_PORT,
    UNKNOWN_METHOD,
    Hosts,
    Table,
    Trie,
    edited_table,
    rank_of,
    table_of,
)

_LARGE = 16  # what takes the time of some ten decisions to put in order is put in order at once
_REMEMBERED = 4096
_ALLOW, _DENY = Effect.ALLOW, Effect.DENY


Reach = tuple[tuple[Trie, ...], tuple[Hosts, ...]]
"""What may match a caller, a port and a method: on every host, and by host."""
BySource = dict[str | None, Reach]
"""What is remembered for a port and a method, by callers that have an identity; None stands for those without."""


class _Classes(dict[SpiffeId, Grant | list[Grant] | Table]):
    """Classes of callers by an identity: as they were given, by rank, or in order."""

    __slots__ = ()

    def add(self, key: SpiffeId, grant: Grant) -> None:
        """Add a grant to a class."""
        held = self.get(key)
        if held is None:
            self[key] = grant
        elif isinstance(held, list):
            held.append(grant)
        else:
            assert isinstance(held, Grant)
            self[key] = [held, grant]

    def edit(self, key: SpiffeId, grant: Grant, *, comes: bool) -> None:
        """Put a grant into a class, or take it out; what the class was stays as it is."""
        held = self.pop(key, None)
        if isinstance(held, dict):
            table = edited_table(held, grant, comes=comes)
            if table:
                self[key] = table
            return
        listed = [held] if isinstance(held, Grant) else held or []
        listed = [found for found in listed if found is not grant]
        if comes:
            bisect.insort(listed, grant, key=rank_of)
        if len(listed) > _LARGE:
            self[key] = table_of(listed)
        elif listed:
            self[key] = listed[0] if len(listed) == 1 else listed

    def table(self, key: SpiffeId) -> Table | None:
        """A class in order; None for one that no grant speaks of."""
        held = self.get(key)
        if held is None or isinstance(held, dict):
            return held
        found = self[key] = table_of([held] if isinstance(held, Grant) else held)
        return found


class Callers:
    """Finds what may match a caller. Requests of a caller it has seen, to a port by a method, cost one look-up."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        """``grants`` come in the order of rank."""
        self._exact = _Classes()
        self._below = _Classes()
        self._ports: set[int] = set()
        self._methods: set[str] = {UNKNOWN_METHOD}
        self._remembered: dict[tuple[int, str], BySource] = {}
        self._count = 0
        anybody: list[Grant] = []
        nobody: list[Grant] = []
        for grant in grants:
            self._note_names(grant)
            if _is_about_anybody(grant):
                anybody.append(grant)
            else:
                for pattern in grant.callers.patterns:
                    (self._below if pattern.subtree else self._exact).add(pattern.id, grant)
            if grant.effect is _DENY:
                nobody.append(grant)
        self._any, self._nobody = table_of(anybody), table_of(nobody)
        for classes in (self._exact, self._below):
            for key, held in classes.items():
                if isinstance(held, list) and len(held) > _LARGE:
                    classes.table(key)

    def edited(self, gone: Iterable[Grant], come: Iterable[Grant]) -> Callers:
        """Callers as of the same grants without some of them and with others; these stay as they are.

        1. What is remembered is not taken over. The names of ports and methods are, those of what goes too: a name
           that no grant has finds what every other one does.
        2. A grant goes out of, or comes into, ALL classes that it is in when callers are made from nothing.
        """
        # (1)
        found = Callers(())
        found._ports, found._methods = set(self._ports), set(self._methods)
        found._exact.update(self._exact)
        found._below.update(self._below)
        found._any, found._nobody = self._any, self._nobody
        # (2)
        for comes, grants in ((False, gone), (True, come)):
            for grant in grants:
                found._edit(grant, comes=comes)
        return found

    def _edit(self, grant: Grant, *, comes: bool) -> None:
        if comes:
            self._note_names(grant)
        if _is_about_anybody(grant):
            self._any = edited_table(self._any, grant, comes=comes)
        else:
            for pattern in grant.callers.patterns:
                (self._below if pattern.subtree else self._exact).edit(pattern.id, grant, comes=comes)
        if grant.effect is _DENY:
            self._nobody = edited_table(self._nobody, grant, comes=comes)

    def _note_names(self, grant: Grant) -> None:
        for operation in grant.operations:
            self._ports.update(operation.ports or ())
            self._methods.update(operation.methods or ())

    def reach(self, source: str | None, port: int, method: str | None) -> Reach:
        """What may match a caller, None for one without identity, a port, and a method, None for an unknown one.

        What is remembered is bounded; ``source`` is the text of an identity.
        """
        key = self._place(port, method)
        remembered = self._by_source(key)
        found = remembered.get(source)
        if found is None:
            found = self._find(source, *key)
            if self._count >= _REMEMBERED:
                for held in self._remembered.values():
                    held.clear()
                self._count = 0
            self._count += 1
            remembered[source] = found
        return found

    def by_source(self, port: int, method: str) -> Mapping[str | None, Reach]:
        """What is remembered of `reach` for a port and a method, now and from now on."""
        return self._by_source(self._place(port, method))

    def _place(self, port: int, method: str | None) -> tuple[int, str]:
        """Under what a port and a method stand.

        What no grant names is one and the same, so that what is remembered grows with the callers alone.
        """
        if method is None:
            method = UNKNOWN_METHOD
        elif method not in self._methods:
            method = ANY_METHOD
        return port if port in self._ports else ANY_PORT, method

    def _by_source(self, key: tuple[int, str]) -> BySource:
        found = self._remembered.get(key)
        if found is None:
            found = self._remembered[key] = {}
        return found

    def _find(self, source: str | None, port: int, method: str) -> Reach:
        every: list[Trie] = []
        by_host: list[Hosts] = []
        keys = dict.fromkeys(((port, method), (port, ANY_METHOD), (ANY_PORT, method), (ANY_PORT, ANY_METHOD)))
        for table in self._tables(source):
            for key in keys:
                hosts = table.get(key)
                if hosts is not None:
                    if hosts.always is not None:
                        every.append(hosts.always)
                    if hosts.is_about_hosts:
                        by_host.append(hosts)
        return tuple(every), tuple(by_host)

    def _tables(self, source: str | None) -> Iterator[Table]:
        """The classes that a caller belongs to: everybody, itself, and everything above it."""
        identity = identity_of(source)
        if identity is None:
            yield self._nobody
            return
        yield self._any
        for classes, keys in ((self._exact, (identity,)), (self._below, _above(identity))):
            if classes:
                for key in keys:
                    table = classes.table(key)
                    if table is not None:
                        yield table


def _is_about_anybody(grant: Grant) -> bool:
    """Whether everybody is meant, or could be: what nothing defines is nobody in an allow alone."""
    return grant.callers.is_any or (grant.callers.incomplete and grant.effect is not _ALLOW)


def _above(identity: SpiffeId) -> tuple[SpiffeId, ...]:
    """Every identity whose subtree has this one, the trust domain among them."""
    domain, segments = identity.trust_domain, identity.path.split("/")
    return tuple(SpiffeId(domain, "/".join(segments[:count])) for count in range(1, len(segments)))
