"""Which rules speak of workloads that nobody knows, and which no recorded request can have needed.

A rule counts as used when a recorded request has its caller, port, method and path: what was not recorded (headers,
tokens) counts for the rule, so that a rule is called unused only when no recorded request can have matched it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator

from mesh.flow import Flow
from mesh.spiffe import SpiffeId, SpiffePattern
from policyengine.attributes import identity_of
from policyengine.canonical import Ambiguous, PathCase, canonical_path
from policyengine.ir import Grant, ServiceForm
from policyengine.model import Operation
from policyengine.patterntrie import PatternTrie


class Known:
    """The identities of known workloads, asked by pattern."""

    def __init__(self, identities: Iterable[SpiffeId]) -> None:
        self._exact = {str(identity) for identity in identities}
        self._above: set[str] = set()
        for text in self._exact:
            above = text
            while above.count("/") > 2:
                above = above.rpartition("/")[0]
                if above in self._above:
                    break
                self._above.add(above)

    def __len__(self) -> int:
        return len(self._exact)

    def has_any(self, pattern: SpiffePattern) -> bool:
        """Whether a known workload has an identity of the pattern."""
        return str(pattern.id) in (self._above if pattern.subtree else self._exact)


@dataclasses.dataclass(frozen=True, slots=True)
class _Use:
    """One operation of a grant."""

    rank: int
    operation: Operation


Callers = dict[str, PatternTrie[_Use]]


def unused(form: ServiceForm, asked: Iterable[Flow]) -> list[Grant]:
    """The grants of a service that no recorded request to it can have matched.

    1. Requests that are alike are looked at once.
    2. A grant that was used is not looked for again.
    """
    exact, below, everybody = _indexed(form.grants)
    used: set[int] = set()
    seen: set[tuple[object, ...]] = set()
    for flow in asked:
        # (1)
        key = (flow.source, flow.destination_port, flow.protocol, flow.method, flow.path)
        if key in seen:
            continue
        seen.add(key)
        source = identity_of(flow.source)
        if source is None:
            continue
        for use in _candidates(exact, below, everybody, source, _segments(flow, form.service.path_case)):
            # (2)
            if use.rank not in used and _fits(use.operation, flow):
                used.add(use.rank)
    return [grant for grant in form.grants if grant.rank not in used]


def _indexed(grants: Iterable[Grant]) -> tuple[Callers, Callers, PatternTrie[_Use]]:
    exact: Callers = {}
    below: Callers = {}
    everybody: PatternTrie[_Use] = PatternTrie()
    for grant in grants:
        tries = [everybody]
        if not grant.callers.is_any:
            tries = [
                (below if pattern.subtree else exact).setdefault(str(pattern.id), PatternTrie())
                for pattern in grant.callers.patterns
            ]
        for operation in grant.operations:
            for path in operation.paths or (None,):
                for trie in tries:
                    trie.insert(path, _Use(grant.rank, operation))
    return exact, below, everybody


def _candidates(
    exact: Callers, below: Callers, everybody: PatternTrie[_Use], source: SpiffeId, path: tuple[str, ...] | None
) -> Iterator[_Use]:
    """What speaks of a caller and a path; every path when none was recorded."""
    text = str(source)
    tries = [everybody] + ([exact[text]] if text in exact else [])
    while text.count("/") > 2:
        text = text.rpartition("/")[0]
        if text in below:
            tries.append(below[text])
    for trie in tries:
        yield from trie.overlapping(None) if path is None else trie.matching(path)


def _segments(flow: Flow, case: PathCase) -> tuple[str, ...] | None:
    """The segments of the recorded path, None when there is none that can be read."""
    if flow.path is None or flow.protocol not in {"http", "grpc"}:
        return None
    found = canonical_path(flow.path, case)
    return None if isinstance(found, Ambiguous) else found.segments


def _fits(operation: Operation, flow: Flow) -> bool:
    """Whether an operation can have been asked for, as far as a flow says; its path is known to fit."""
    if operation.ports is not None and flow.destination_port not in operation.ports:
        return False
    return operation.methods is None or flow.method is None or flow.method in operation.methods


def by_service(
    flows: Iterable[Flow], services: Collection[tuple[str, tuple[SpiffePattern, ...]]]
) -> dict[str, list[Flow]]:
    """Recorded requests by the service that was called; those to nobody's identity are left out."""
    exact = {str(pattern.id): name for name, patterns in services for pattern in patterns if not pattern.subtree}
    below = {str(pattern.id): name for name, patterns in services for pattern in patterns if pattern.subtree}
    found: dict[str, list[Flow]] = {}
    called: dict[str, str | None] = {}
    for flow in flows:
        if flow.destination is None:
            continue
        if flow.destination not in called:
            called[flow.destination] = _service_of(flow.destination, exact, below)
        name = called[flow.destination]
        if name is not None:
            found.setdefault(name, []).append(flow)
    return found


def _service_of(destination: str, exact: dict[str, str], below: dict[str, str]) -> str | None:
    if destination in exact:
        return exact[destination]
    text = destination
    while text.count("/") > 2:
        text = text.rpartition("/")[0]
        if text in below:
            return below[text]
    return None
