"""The grants about one class of callers by port and method, then by host, then by path (`policyengine.pathtrie`).

A table is made of grants in the order of rank (`table_of`), or of another table and one grant that comes or goes
(`edited_table`): that costs what the grant speaks of, and shares the rest. Nothing here looks at conditions or decides.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator

from mesh.request import Effect
from policyengine import model
from policyengine.attributes import ABSENT
from policyengine.canonical import PathPattern
from policyengine.ir import EFFECT_ORDER, Grant
from policyengine.pathtrie import Edit, Leaf, PathTrie

ANY_PORT = 0
ANY_METHOD = ""
UNKNOWN_METHOD = "?"  # no method has this name: `?` is no token character
_TIER_PLACE = {tier: place for place, tier in enumerate(model.TIERS)}
_ALLOW = Effect.ALLOW
Rank = tuple[int, int, str, str]


def rank_of(grant: Grant) -> Rank:
    """Where a grant comes among all of its service, whatever else there is: as `policyengine.ir` sorts them."""
    return _TIER_PLACE[grant.tier], EFFECT_ORDER[grant.effect], grant.policy, grant.rule


class Entry:
    """A grant in the index."""

    __slots__ = ("effect", "grant", "is_conditional", "tier")

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.tier = _TIER_PLACE[grant.tier]
        self.effect = grant.effect
        self.is_conditional = grant.is_conditional

    @property
    def rank(self) -> Rank:
        """What orders entries; few are ever compared, so it is not kept."""
        return rank_of(self.grant)


def _rank(entry: Entry) -> Rank:
    return entry.rank


Trie = PathTrie[Entry]


class Hosts:
    """The grants of a class of callers, a port and a method, by host, then path."""

    __slots__ = ("always", "exact", "unknown", "wildcard")

    def __init__(self) -> None:
        self.always: Trie | None = None
        self.exact: dict[str, Trie] | None = None
        self.wildcard: dict[str, Trie] | None = None
        self.unknown: Trie | None = None

    @property
    def is_about_hosts(self) -> bool:
        """Whether the host matters."""
        return self.exact is not None or self.wildcard is not None

    def by_host(self, host: str | None) -> Iterator[Trie]:
        """What may match a host, beside what matches every host; None is an unknown one."""
        if host is None:
            if self.unknown is not None:
                yield self.unknown
        elif host != ABSENT:
            if self.exact is not None and host in self.exact:
                yield self.exact[host]
            if self.wildcard is not None:
                rest = host.partition(".")[2]
                if rest in self.wildcard:
                    yield self.wildcard[rest]

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be found."""
        return self.always is None and self.unknown is None and not self.is_about_hosts

    def edited(self, operation: model.Operation, edit: Edit[Entry], *, or_unknown: bool) -> Hosts:
        """The same with other leaves where `insert` would put an entry of the operation; this one stays as it is."""
        found = Hosts()
        found.always, found.exact, found.wildcard, found.unknown = self.always, self.exact, self.wildcard, self.unknown
        paths = operation.paths
        if operation.hosts is None:
            found.always = _edited_trie(self.always, paths, edit, or_unknown=or_unknown)
            return found
        for pattern in operation.hosts:
            table = dict((found.wildcard if pattern.wildcard else found.exact) or {})
            trie = _edited_trie(table.pop(pattern.name, None), paths, edit, or_unknown=or_unknown)
            if trie is not None:
                table[pattern.name] = trie
            if pattern.wildcard:
                found.wildcard = table or None
            else:
                found.exact = table or None
        if or_unknown:
            found.unknown = _edited_trie(self.unknown, paths, edit, or_unknown=True)
        return found

    def insert(self, entry: Entry, operation: model.Operation) -> None:
        """Put an entry where requests that it matches will find it (an unknown host: deny and pass only)."""
        if operation.hosts is None:
            self.always = _inserted(self.always, entry, operation)
            return
        for pattern in operation.hosts:
            if pattern.wildcard:
                self.wildcard = table = {} if self.wildcard is None else self.wildcard
            else:
                self.exact = table = {} if self.exact is None else self.exact
            table[pattern.name] = _inserted(table.get(pattern.name), entry, operation)
        if entry.effect is not _ALLOW:
            self.unknown = _inserted(self.unknown, entry, operation)


def _inserted(trie: Trie | None, entry: Entry, operation: model.Operation) -> Trie:
    found: Trie = PathTrie() if trie is None else trie
    found.insert(entry, operation.paths, or_unknown=entry.effect is not _ALLOW)
    return found


def _edited_trie(
    trie: Trie | None, paths: tuple[PathPattern, ...] | None, edit: Edit[Entry], *, or_unknown: bool
) -> Trie | None:
    found = (PathTrie() if trie is None else trie).edited(paths, edit, or_unknown=or_unknown)
    return None if found.is_empty else found


Table = dict[tuple[int, str], Hosts]


def table_of(grants: Iterable[Grant]) -> Table:
    """The grants of one class of callers, in the order of rank, by port and method."""
    found: Table = {}
    for grant in grants:
        entry = Entry(grant)
        for operation in grant.operations:
            for key in _keys(grant, operation):
                hosts = found.get(key)
                if hosts is None:
                    hosts = found[key] = Hosts()
                hosts.insert(entry, operation)
    return found


def _keys(grant: Grant, operation: model.Operation) -> Iterator[tuple[int, str]]:
    """Where in a table an operation of a grant stands."""
    methods: tuple[str, ...] = operation.methods or (ANY_METHOD,)
    if grant.effect is not _ALLOW and operation.methods is not None:
        methods = (*methods, UNKNOWN_METHOD)
    for port in operation.ports or (ANY_PORT,):
        for method in methods:
            yield port, method


def edited_table(table: Table, grant: Grant, *, comes: bool) -> Table:
    """A table with a grant, or without it, as if it had been made so; the one that is given stays as it is."""
    entry = Entry(grant)

    def edit(leaf: Leaf[Entry] | None) -> Leaf[Entry] | None:
        kept = [] if leaf is None else [found for found in leaf.every() if found.grant is not grant]
        if leaf is not None and leaf.behind:
            kept.sort(key=_rank)
        if comes:
            bisect.insort(kept, entry, key=_rank)
        return Leaf(kept) if kept else None

    found = dict(table)
    for operation in grant.operations:
        for key in _keys(grant, operation):
            hosts = found.pop(key, None) or Hosts()
            hosts = hosts.edited(operation, edit, or_unknown=grant.effect is not _ALLOW)
            if not hosts.is_empty:
                found[key] = hosts
    return found
