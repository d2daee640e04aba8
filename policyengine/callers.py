"""The grants about one called service by who calls: itself, what is above it, everybody, nobody.

Behind a class of callers stand its grants by port and method, then by host, then by path (`policyengine.pathtrie`). A
small class is put in order when one of its callers first calls: most of the callers that policies name never do, and
a changed rule is then compiled in the time of a changed rule. Nothing here looks at conditions or decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mesh.request import Effect
from mesh.spiffe import SpiffeId
from policyengine import model
from policyengine.attributes import ABSENT, identity_of
from policyengine.ir import Grant
from policyengine.pathtrie import PathTrie

ANY_PORT = 0
ANY_METHOD = ""
UNKNOWN_METHOD = "?"  # no method has this name: `?` is no token character
_LARGE = 16  # what takes the time of some ten decisions to put in order is put in order at once
_REMEMBERED = 4096
_TIER_PLACE = {tier: place for place, tier in enumerate(model.TIERS)}
_ALLOW, _DENY = Effect.ALLOW, Effect.DENY


class Entry:
    """A grant in the index."""

    __slots__ = ("effect", "grant", "is_conditional", "rank", "tier")

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.rank = grant.rank
        self.tier = _TIER_PLACE[grant.tier]
        self.effect = grant.effect
        self.is_conditional = grant.is_conditional


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


Table = dict[tuple[int, str], Hosts]
Reach = tuple[tuple[Trie, ...], tuple[Hosts, ...]]
"""What may match a caller, a port and a method: on every host, and by host."""


def _table(grants: Iterable[Grant]) -> Table:
    """The grants of one class of callers, in the order of rank, by port and method."""
    found: Table = {}
    for grant in grants:
        entry = Entry(grant)
        for operation in grant.operations:
            methods: tuple[str, ...] = operation.methods or (ANY_METHOD,)
            if grant.effect is not _ALLOW and operation.methods is not None:
                methods = (*methods, UNKNOWN_METHOD)
            for port in operation.ports or (ANY_PORT,):
                for method in methods:
                    hosts = found.get((port, method))
                    if hosts is None:
                        hosts = found[port, method] = Hosts()
                    hosts.insert(entry, operation)
    return found


class _Classes(dict[SpiffeId, Grant | list[Grant] | Table]):
    """Classes of callers by an identity: as they were given, or in order."""

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

    def table(self, key: SpiffeId) -> Table | None:
        """A class in order; None for one that no grant speaks of."""
        held = self.get(key)
        if held is None or isinstance(held, dict):
            return held
        found = self[key] = _table([held] if isinstance(held, Grant) else held)
        return found


class Callers:
    """Finds what may match a caller. Requests of a caller it has seen, to a port by a method, cost one look-up."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        self._exact = _Classes()
        self._below = _Classes()
        anybody: list[Grant] = []
        nobody: list[Grant] = []
        named: set[int] = set()
        methods: set[str] = {UNKNOWN_METHOD}
        for grant in grants:
            for operation in grant.operations:
                named.update(operation.ports or ())
                methods.update(operation.methods or ())
            callers = grant.callers
            if callers.is_any or (callers.incomplete and grant.effect is not _ALLOW):
                anybody.append(grant)
            else:
                for pattern in callers.patterns:
                    (self._below if pattern.subtree else self._exact).add(pattern.id, grant)
            if grant.effect is _DENY:
                nobody.append(grant)
        self._any, self._nobody = _table(anybody), _table(nobody)
        for classes in (self._exact, self._below):
            for key, held in classes.items():
                if isinstance(held, list) and len(held) > _LARGE:
                    classes.table(key)
        self._ports, self._methods = frozenset(named), frozenset(methods)
        self._remembered: dict[tuple[str | None, int, str], Reach] = {}

    def reach(self, source: str | None, port: int, method: str | None) -> Reach:
        """What may match a caller, None for one without identity, a port, and a method, None for an unknown one.

        What no grant names is one and the same, so that what is remembered grows with the callers alone.
        """
        if method is None:
            method = UNKNOWN_METHOD
        elif method not in self._methods:
            method = ANY_METHOD
        key = (source, port if port in self._ports else ANY_PORT, method)
        found = self._remembered.get(key)
        if found is None:
            found = self._find(*key)
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = found
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


def _above(identity: SpiffeId) -> tuple[SpiffeId, ...]:
    """Every identity whose subtree has this one, the trust domain among them."""
    domain, segments = identity.trust_domain, identity.path.split("/")
    return tuple(SpiffeId(domain, "/".join(segments[:count])) for count in range(1, len(segments)))
