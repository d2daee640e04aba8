"""Where two versions of a service's rules can differ, cut into cells that no rule tells apart.

A region is a class of callers that the same grants speak of, with the classes of ports, methods, hosts, paths, moments
and circumstances that those grants distinguish. Only what a changed grant can reach is cut: elsewhere both versions
decide alike. This module asks no evaluator.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

from mesh.request import Protocol, Request
from policyengine.atoms import Callers, caller_classes, host_classes, path_classes, target_of
from policyengine.canonical import PathPattern
from policyengine.circumstances import PLAIN, Circumstance, circumstances_of, moment_for, peer_outside
from policyengine.ir import Grant, ServiceForm, normalise
from policyengine.model import Operation, PolicySet, Principals
from policyengine.ownership import slices

OTHER = "*"
_COMMON_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A service whose rules differ.

    ``changed`` are the grants that only one version has. ``is_whole`` says that the service itself differs (ports,
    mode) or is new or gone, so that any request may be decided differently.
    """

    service: str
    old: ServiceForm | None
    new: ServiceForm | None
    changed: tuple[Grant, ...]
    is_whole: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a region, as indices into its axes."""

    port: int
    method: str
    host: int
    path: int
    time: int
    circumstance: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PortAxes:
    """The classes of requests on one port. A tcp port has one: a connection.

    ``focus`` None says that ``paths`` are all classes of paths; otherwise they are those inside the patterns in focus.
    """

    port: int
    protocol: Protocol
    methods: tuple[str, ...]
    hosts: tuple[tuple[str, str | None], ...]
    patterns: tuple[PathPattern, ...]
    paths: tuple[tuple[frozenset[int], tuple[str, ...]], ...]
    focus: tuple[PathPattern, ...] | None = None
    holding: Mapping[int, frozenset[int]] = dataclasses.field(init=False, compare=False, repr=False)
    """For each pattern, the classes of paths that it holds."""

    def __post_init__(self) -> None:
        holding: dict[int, set[int]] = {}
        for index, (signature, _) in enumerate(self.paths):
            for pattern in signature:
                holding.setdefault(pattern, set()).add(index)
        # frozen: what is computed from the fields is set once, here
        object.__setattr__(self, "holding", {pattern: frozenset(found) for pattern, found in holding.items()})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Classes of callers that the same grants speak of, and the cells that those grants distinguish.

    ``classes`` are all classes of callers of the service; ``callers`` those of the region.
    """

    service: str
    callers: tuple[Callers, ...]
    classes: tuple[Callers, ...]
    ports: tuple[PortAxes, ...]
    times: tuple[dt.datetime, ...]
    circumstances: tuple[Circumstance, ...]
    peer_ip: str | None
    is_complete: bool

    def cells(self) -> Iterator[tuple[PortAxes, Cell]]:
        """Every cell."""
        for axes in self.ports:
            for path in range(len(axes.paths)):
                for method in axes.methods:
                    for host in range(len(axes.hosts)):
                        for time in range(len(self.times)):
                            for circumstance in range(len(self.circumstances)):
                                yield axes, Cell(axes.port, method, host, path, time, circumstance)

    @property
    def size(self) -> int:
        """How many cells there are."""
        per_port = (len(axes.paths) * len(axes.methods) * len(axes.hosts) for axes in self.ports)
        return sum(per_port) * len(self.times) * len(self.circumstances)

    def request(self, axes: PortAxes, cell: Cell, source: str) -> Request:
        """The representative of a cell."""
        found = self.circumstances[cell.circumstance]
        time = moment_for(found, self.times[cell.time])
        peer_ip = found.peer_ip or self.peer_ip
        if axes.protocol == "tcp":
            return Request(
                service=self.service, port=axes.port, protocol="tcp", source=source, peer_ip=peer_ip, time=time
            )
        return Request(
            service=self.service,
            port=axes.port,
            protocol=axes.protocol,
            source=source,
            method=representative_method(cell.method, axes),
            host=axes.hosts[cell.host][1],
            path=target_of(axes.paths[cell.path][1]),
            headers=found.headers,
            claims=None if found.claims is None else dict(found.claims),
            peer_ip=peer_ip,
            forwarded_ip=found.forwarded_ip,
            time=time,
        )


def representative_method(method: str, axes: PortAxes) -> str:
    """The method of a cell; for "every other one", a common method that no rule names."""
    if method != OTHER:
        return method
    if axes.protocol == "grpc" and "POST" not in axes.methods:
        return "POST"
    return next((name for name in _COMMON_METHODS if name not in axes.methods), "LIMEN-WITNESS")


def changes_of(old: PolicySet, new: PolicySet) -> tuple[Change, ...]:
    """The services that the two versions may decide differently about, by name."""
    olds, news = slices(old), slices(new)
    found = []
    for name in sorted(olds.keys() | news.keys()):
        if olds.get(name) == news.get(name):
            continue
        before, after = form_of(old, name), form_of(new, name)
        ours = {_meaning(grant): grant for grant in (before.grants if before else ())}
        theirs = {_meaning(grant): grant for grant in (after.grants if after else ())}
        changed = tuple((ours | theirs)[key] for key in ours.keys() ^ theirs.keys())
        is_whole = _shape(before) != _shape(after)
        if changed or is_whole:
            found.append(Change(service=name, old=before, new=after, changed=changed, is_whole=is_whole))
    return tuple(found)


def form_of(policies: PolicySet, name: str) -> ServiceForm | None:
    """The normal form of a service, None when there is none of the name."""
    service = policies.service_for(name)
    return None if service is None else normalise(policies, service)


def _shape(form: ServiceForm | None) -> tuple[object, ...]:
    if form is None:
        return ()
    service = form.service
    return (sorted(form.protocols.items()), service.mode, service.until)


def _meaning(grant: Grant) -> tuple[object, ...]:
    """Everything about a grant that decides: not its name, place or evidence."""
    return (
        grant.tier,
        grant.effect,
        grant.callers,
        grant.operations,
        grant.when,
        grant.unless_callers,
        grant.unless_when,
        grant.until,
        grant.modules,
    )


def regions_of(change: Change, now: dt.datetime) -> Iterator[Region]:
    """Cut what the changed grants can reach.

    1. Callers fall into classes by ALL patterns that ANY grant of either version names.
    2. A class matters if a changed grant speaks of it, or if the service itself changed.
    3. Classes that the same grants speak of are one region.
    """
    forms = [form for form in (change.old, change.new) if form is not None]
    grants = [grant for form in forms for grant in form.grants]
    yield from _regions(change.service, forms, grants, change.changed, now, is_whole=change.is_whole, watched=())


def watched_regions(form: ServiceForm, watched: Grant, now: dt.datetime) -> Iterator[Region]:
    """Cut what an invariant speaks of, given as a grant, by the grants of one version."""
    yield from _regions(
        form.service.name, [form], list(form.grants), (watched,), now, is_whole=False, watched=(watched,)
    )


def _regions(
    service: str,
    forms: Sequence[ServiceForm],
    grants: Sequence[Grant],
    focus: Sequence[Grant],
    now: dt.datetime,
    *,
    is_whole: bool,
    watched: Sequence[Grant],
) -> Iterator[Region]:
    every = [*grants, *watched]
    # (1)
    classes = caller_classes(
        pattern
        for grant in every
        for named in (grant.callers, grant.unless_callers)
        if named is not None
        for pattern in named.patterns
    )
    by_callers = _by_pattern([grant.callers for grant in every])
    by_unless = _by_pattern([grant.unless_callers for grant in every])
    focused = {id(grant) for grant in focus}
    # (2), (3)
    grouped: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Callers]] = {}
    for callers in classes:
        spoken = _speaking(by_callers, callers)
        if is_whole or any(id(every[index]) in focused for index in spoken):
            spared = _speaking(by_unless, callers)
            grouped.setdefault((spoken, spared), []).append(callers)
    protocols: dict[int, Protocol] = {}
    for form in forms:
        for port, protocol in form.protocols.items():
            # a port that is read in one version is read here: the other ignores what it does not know
            protocols[port] = protocol if protocols.get(port, "tcp") == "tcp" else protocols[port]
    times = _times(forms, every, now)
    for (spoken, _), members in grouped.items():
        speaking = [every[index] for index in spoken]
        yield _region(
            service,
            tuple(members),
            classes,
            speaking,
            None if is_whole else [grant for grant in speaking if id(grant) in focused],
            protocols,
            times,
        )


def _by_pattern(named: Sequence[Principals | None]) -> dict[str, list[int]]:
    """The indices of what names each pattern; `any` is everybody, and so is what names something undefined."""
    found: dict[str, list[int]] = {}
    for index, principals in enumerate(named):
        if principals is None:
            continue
        if principals.is_any or principals.incomplete:
            found.setdefault("any", []).append(index)
        else:
            for pattern in principals.patterns:
                found.setdefault(str(pattern), []).append(index)
    return found


def _speaking(by_pattern: dict[str, list[int]], callers: Callers) -> tuple[int, ...]:
    """What names a class of callers: through its own pattern, one around it, or `any`."""
    found = {index for text in (*callers.inside, "any") for index in by_pattern.get(text, ())}
    return tuple(sorted(found))


def _times(forms: Sequence[ServiceForm], grants: Sequence[Grant], now: dt.datetime) -> tuple[dt.datetime, ...]:
    """Now, and every later moment at which an exception or `observe` ends: between them nothing changes."""
    ends = {grant.until for grant in grants if grant.until is not None}
    ends |= {form.service.until for form in forms if form.service.until is not None}
    return (now, *sorted(end for end in ends if end > now))


def _region(
    service: str,
    callers: tuple[Callers, ...],
    classes: tuple[Callers, ...],
    speaking: Sequence[Grant],
    focus: Sequence[Grant] | None,
    protocols: dict[int, Protocol],
    times: tuple[dt.datetime, ...],
) -> Region:
    conditions = [found for grant in speaking for found in (grant.when, grant.unless_when) if found is not None]
    ports = []
    for port in sorted(protocols):
        axes = _axes(port, protocols[port], speaking, focus)
        if axes is not None:
            ports.append(axes)
    return Region(
        service=service,
        callers=callers,
        classes=classes,
        ports=tuple(ports),
        times=times,
        circumstances=circumstances_of(conditions) if conditions else (PLAIN,),
        peer_ip=peer_outside(conditions),
        is_complete=not conditions and not any(_is_loose(grant) for grant in speaking),
    )


def _is_loose(grant: Grant) -> bool:
    """Whether whom a grant names is not all defined, so that its callers are unknown."""
    named = (grant.callers, grant.unless_callers)
    return any(found is not None and found.incomplete for found in named)


def _axes(port: int, protocol: Protocol, speaking: Sequence[Grant], focus: Sequence[Grant] | None) -> PortAxes | None:
    """The classes of requests on a port; None when no grant in focus speaks of the port."""
    here = [operation for grant in speaking for operation in grant.operations if _is_on(operation, port)]
    focused: list[PathPattern] | None = None
    if focus is not None:
        aimed = [operation for grant in focus for operation in grant.operations if _is_on(operation, port)]
        if not aimed:
            return None
        if all(operation.paths is not None for operation in aimed):
            focused = [path for operation in aimed for path in operation.paths or ()]
    if protocol == "tcp":
        return PortAxes(
            port=port, protocol=protocol, methods=("",), hosts=(("", None),), patterns=(), paths=((frozenset(), ()),)
        )
    patterns = sorted({path for operation in here for path in operation.paths or ()})
    methods = sorted({method for operation in here for method in operation.methods or ()})
    hosts = host_classes(host for operation in here for host in operation.hosts or ())
    return PortAxes(
        port=port,
        protocol=protocol,
        methods=(*methods, OTHER),
        hosts=hosts,
        patterns=tuple(patterns),
        paths=tuple(path_classes(patterns, focused).items()),
        focus=None if focused is None else tuple(focused),
    )


def _is_on(operation: Operation, port: int) -> bool:
    return operation.ports is None or port in operation.ports
