"""Where versions of a service's rules can differ: classes of callers, and of ports, methods, hosts and paths.

A region is a class of callers that the same grants speak of, with the classes of requests that those grants
distinguish. Only what a changed grant can reach is cut: elsewhere both versions decide alike. What happens in a region
is the business of `policyengine.diagram`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from mesh.request import Effect, Mode, Protocol
from mesh.spiffe import SpiffePattern
from policyengine.atoms import Callers, caller_classes, host_classes, path_classes, paths_overlap
from policyengine.belief import Beliefs, beliefs_between
from policyengine.canonical import PathPattern
from policyengine.circumstances import BEFORE, NO_BELIEFS, Test, conjuncts
from policyengine.ir import Grant, ServiceForm, normalise
from policyengine.likeness import UNNUMBERED, Likeness, Likenesses
from policyengine.model import Conditions, Operation, PolicySet, Principals
from policyengine.ownership import slices

OTHER = "*"
ANY_CASE = "(?i)"
"""Marks a path that is compared without regard to case, where versions differ about that."""
FOLDABLE = PathPattern((), subtree=True, text="/**", ignores_case=True)
"""Every path whose letters all programs fold alike: a service that ignores case refuses the others."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A service whose rules differ.

    ``changed`` are the grants that only one version has. ``is_whole`` says that the service itself differs (ports,
    mode) or is new or gone, so that any request may be decided differently. ``beliefs`` are of issuers that are
    declared in another way; what looks at tokens is ``changed`` then.
    """

    service: str
    old: ServiceForm | None
    new: ServiceForm | None
    changed: tuple[Grant, ...]
    is_whole: bool
    beliefs: Beliefs = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spoken:
    """A grant that speaks of a region's callers, in one of the versions.

    ``is_spared`` says whether `unless` names the callers (None: nobody knows); ``when`` and ``unless`` are the tests.
    """

    slot: int
    version: int
    grant: Grant
    is_spared: bool | None
    when: tuple[Test, ...]
    unless: tuple[Test, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PortAxes:
    """The classes of requests on one port. A tcp port has one: a connection.

    ``focus`` None says that ``paths`` are all classes of paths; otherwise they are those inside the patterns in focus.
    ``foldable`` is the pattern of all paths that a version which ignores case can read, where another version does not.
    """

    port: int
    protocol: Protocol
    methods: tuple[str, ...]
    hosts: tuple[tuple[str, str | None], ...]
    patterns: tuple[PathPattern, ...]
    paths: tuple[tuple[frozenset[int], tuple[str, ...]], ...]
    focus: tuple[PathPattern, ...] | None = None
    foldable: int | None = None
    holding: Mapping[int, frozenset[int]] = dataclasses.field(init=False, compare=False, repr=False)
    """For each pattern, the classes of paths that it holds."""

    def __post_init__(self) -> None:
        holding: dict[int, set[int]] = {}
        for index, (signature, _) in enumerate(self.paths):
            for pattern in signature:
                holding.setdefault(pattern, set()).add(index)
        # frozen: what is computed from the fields is set once, here
        object.__setattr__(self, "holding", {pattern: frozenset(found) for pattern, found in holding.items()})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """Classes of callers that the same grants speak of alike, and the classes of requests that those distinguish.

    ``classes`` are all classes of callers of the service; ``callers`` those of the region. ``forms`` are the versions,
    and ``beliefs`` the issuers of whose tokens two versions believe different ones. Of the regions that were cut
    together, those of one ``likeness`` differ in callers and in the names of rules alone: slot by slot their grants do
    the same under the same conditions; those of one family differ in literals of paths as well. ``cut`` makes
    the ports.
    """

    service: str
    callers: tuple[Callers, ...]
    classes: tuple[Callers, ...]
    cut: Callable[[], tuple[PortAxes, ...]]
    forms: tuple[ServiceForm | None, ...]
    spoken: tuple[Spoken, ...]
    beliefs: Beliefs
    likeness: Likeness = UNNUMBERED

    @property
    def ports(self) -> tuple[PortAxes, ...]:
        """The classes of requests on each port, cut when they are first asked for."""
        return self.cut()


def changes_of(old: PolicySet, new: PolicySet) -> tuple[Change, ...]:
    """The services that the two versions may decide differently about, by name."""
    olds, news = slices(old), slices(new)
    beliefs = beliefs_between(old, new)
    asking = _look_at_tokens(old) | _look_at_tokens(new) if beliefs else frozenset()
    found = []
    for name in sorted(olds.keys() | news.keys()):
        if olds.get(name) == news.get(name) and name not in asking:
            continue
        before, after = form_of(old, name), form_of(new, name)
        ours, theirs = _apart(before, after)
        changed = tuple((ours | theirs)[key] for key in ours.keys() ^ theirs.keys())
        if beliefs:
            forms = (form for form in (before, after) if form is not None)
            changed += tuple(grant for form in forms for grant in form.grants if _looks_at_tokens(grant))
        is_whole = _shape(before) != _shape(after)
        if changed or is_whole:
            found.append(
                Change(service=name, old=before, new=after, changed=changed, is_whole=is_whole, beliefs=beliefs)
            )
    return tuple(found)


def _look_at_tokens(policies: PolicySet) -> frozenset[str]:
    """The services about which some rule looks at tokens; a custom rule may."""
    return frozenset(
        policy.service
        for policy in policies.policies
        for rule in policy.rules
        if rule.reads_claims or rule.custom_rules()
    )


def _looks_at_tokens(grant: Grant) -> bool:
    conditions = (when for when in (grant.when, grant.unless_when) if when is not None)
    return any(when.claims is not None or when.rego is not None for when in conditions)


Meanings = dict[tuple[object, ...], Grant]


def _apart(before: ServiceForm | None, after: ServiceForm | None) -> tuple[Meanings, Meanings]:
    """The grants of both versions by their meaning, without those that stand in both under one name.

    Nearly all do, and comparing two meanings is quicker than hashing them.
    """
    named = [
        {(grant.tier, grant.policy, grant.rule): grant for grant in (() if form is None else form.grants)}
        for form in (before, after)
    ]
    same = {key for key, grant in named[0].items() if key in named[1] and _meaning(grant) == _meaning(named[1][key])}
    ours, theirs = ({_meaning(grant): grant for key, grant in side.items() if key not in same} for side in named)
    return ours, theirs


def form_of(policies: PolicySet, name: str) -> ServiceForm | None:
    """The normal form of a service, None when there is none of the name."""
    service = policies.service_for(name)
    return None if service is None else normalise(policies, service)


def _shape(form: ServiceForm | None) -> tuple[object, ...]:
    if form is None:
        return ()
    service = form.service
    return (sorted(form.protocols.items()), service.mode, service.until, service.path_case)


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


def regions_of(change: Change) -> Iterator[Region]:
    """Cut what the changed grants can reach.

    1. Callers fall into classes by ALL patterns that ANY grant of either version names.
    2. A class matters if a changed grant speaks of it and something may allow what it speaks of, or if the service
       itself changed.
    3. Classes that the same grants speak of are one region.
    """
    focus = None if change.is_whole else change.changed
    yield from _regions(change.service, (change.old, change.new), focus, beliefs=change.beliefs)


def regions_of_forms(
    service: str,
    forms: Sequence[ServiceForm | None],
    beside: Sequence[SpiffePattern] = (),
    beliefs: Beliefs = NO_BELIEFS,
) -> Iterator[Region]:
    """Cut everything; ``beside`` are patterns that classes of callers keep apart though no grant names them."""
    yield from _regions(service, tuple(forms), None, beside, beliefs)


def watched_regions(form: ServiceForm, watched: Grant) -> Iterator[Region]:
    """Cut what a grant speaks of that is no part of the version: it is the only one of a second version."""
    service = dataclasses.replace(form.service, mode=Mode.ENFORCE, until=None)
    beside = dataclasses.replace(form, service=service, grants=(watched,))
    yield from _regions(form.service.name, (form, beside), (watched,))


def _regions(
    service: str,
    forms: tuple[ServiceForm | None, ...],
    focus: Sequence[Grant] | None,
    beside: Sequence[SpiffePattern] = (),
    beliefs: Beliefs = NO_BELIEFS,
) -> Iterator[Region]:
    every = [(version, grant) for version, form in enumerate(forms) if form is not None for grant in form.grants]
    # (1)
    named_patterns = (
        pattern
        for _, grant in every
        for named in (grant.callers, grant.unless_callers)
        if named is not None
        for pattern in named.patterns
    )
    classes = caller_classes((*named_patterns, *beside))
    # what nothing defines is nobody in an allow and everybody in a deny or pass
    by_callers = _by_pattern([(grant.callers, grant.effect is not Effect.ALLOW) for _, grant in every])
    by_unless = _by_pattern([(grant.unless_callers, False) for _, grant in every])
    focused = None if focus is None else {id(grant) for grant in focus}
    # (2), (3)
    grouped: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Callers]] = {}
    for callers in classes:
        found = _speaking(by_callers, callers)
        if focused is None or any(id(every[index][1]) in focused for index in found):
            named = set(found)
            spared = tuple(index for index in _speaking(by_unless, callers) if index in named)
            grouped.setdefault((found, spared), []).append(callers)
    protocols: dict[int, Protocol] = {}
    for form in forms:
        for port, protocol in () if form is None else form.protocols.items():
            # a port that is read in one version is read here: the other ignores what it does not know
            protocols[port] = protocol if protocols.get(port, "tcp") == "tcp" else protocols[port]
    observes = any(form is not None and form.service.mode is Mode.OBSERVE for form in forms)
    is_mixed = len({form.service.path_case for form in forms if form is not None}) > 1
    tests = _Tests(forms, beliefs)
    likenesses = Likenesses(focused, keeps_letters=is_mixed)
    cutter = _Cutter(protocols, focused, is_mixed=is_mixed)
    for (indices, spared), members in grouped.items():
        named = set(spared)
        spoken = tuple(
            Spoken(
                slot=slot,
                version=every[index][0],
                grant=every[index][1],
                is_spared=_is_spared(every[index][1], is_named=index in named),
                when=tests.of(every[index], every[index][1].when),
                unless=tests.of(every[index], every[index][1].unless_when),
            )
            for slot, index in enumerate(indices)
        )
        if focused is not None and not (is_mixed or observes or _may_differ(spoken, focused)):
            continue
        likeness = likenesses.of(spoken)
        yield Region(
            service=service,
            callers=tuple(members),
            classes=classes,
            cut=functools.partial(cutter.ports, likeness.likeness, spoken),
            forms=forms,
            spoken=spoken,
            beliefs=beliefs,
            likeness=likeness,
        )


class _Cutter:
    """Cuts the ports of regions when they are asked for, those of one likeness once."""

    def __init__(self, protocols: Mapping[int, Protocol], focused: Collection[int] | None, *, is_mixed: bool) -> None:
        self._protocols, self._focused, self._is_mixed = protocols, focused, is_mixed
        self._known: dict[int, tuple[PortAxes, ...]] = {}

    def ports(self, likeness: int, spoken: Sequence[Spoken]) -> tuple[PortAxes, ...]:
        """The classes of requests on every port that something in focus speaks of."""
        if likeness not in self._known:
            speaking = [found.grant for found in spoken]
            focused = self._focused
            aimed = None if focused is None else [grant for grant in speaking if id(grant) in focused]
            self._known[likeness] = tuple(
                axes
                for port in sorted(self._protocols)
                if (axes := _axes(port, self._protocols[port], speaking, aimed, is_mixed=self._is_mixed)) is not None
            )
        return self._known[likeness]


def _is_spared(grant: Grant, *, is_named: bool) -> bool | None:
    """Whether callers are among those of `unless`; without any, everybody is."""
    if grant.unless_callers is None or is_named:
        return True
    return None if grant.unless_callers.incomplete else False


def _may_differ(spoken: Sequence[Spoken], focused: Collection[int]) -> bool:
    """Whether what is in focus meets an allow, itself included: where none does, both versions deny.

    That is so while both enforce: `observe` lets through what nobody allows.
    """
    aimed = [operation for found in spoken if id(found.grant) in focused for operation in found.grant.operations]
    return any(
        found.grant.effect is Effect.ALLOW
        and any(_meet(entry, other) for entry in found.grant.operations for other in aimed)
        for found in spoken
    )


def _meet(one: Operation, other: Operation) -> bool:
    """Whether some request may match two operations; hosts are not looked at."""
    if one.ports is not None and other.ports is not None and set(one.ports).isdisjoint(other.ports):
        return False
    if one.methods is not None and other.methods is not None and set(one.methods).isdisjoint(other.methods):
        return False
    if one.paths is None or other.paths is None:
        return True
    return any(paths_overlap(mine, theirs) for mine in one.paths for theirs in other.paths)


class _Tests:
    """The tests of conditions, each read once.

    A custom rule of other modules is another rule: of two versions, the first one's names get a mark. So do its tests
    of claims, and its custom rules, where it believes other tokens.
    """

    def __init__(self, forms: Sequence[ServiceForm | None], beliefs: Beliefs) -> None:
        self._is_compared = bool(beliefs) and len(forms) > 1
        modules = {
            version: grant.modules
            for version, form in enumerate(forms)
            for grant in (() if form is None else form.grants)
            if grant.modules
        }
        self._marks = {version: "" if found == modules[max(modules)] else BEFORE for version, found in modules.items()}
        self._known: dict[tuple[int, int], tuple[Test, ...]] = {}

    def of(self, grant: tuple[int, Grant], conditions: Conditions | None) -> tuple[Test, ...]:
        """The tests of one of a grant's conditions."""
        if conditions is None:
            return ()
        key = (grant[0], id(conditions))
        if key not in self._known:
            is_before = self._is_compared and grant[0] == 0
            self._known[key] = conjuncts(conditions, self._marks.get(grant[0], ""), is_before=is_before)
        return self._known[key]


def _by_pattern(named: Sequence[tuple[Principals | None, bool]]) -> dict[str, list[int]]:
    """The indices of what names each pattern. `any` is everybody; the flag says that what nothing defines is, too."""
    found: dict[str, list[int]] = {}
    for index, (principals, is_loose) in enumerate(named):
        if principals is None:
            continue
        if principals.is_any or (principals.incomplete and is_loose):
            found.setdefault("any", []).append(index)
        else:
            for pattern in principals.patterns:
                found.setdefault(str(pattern), []).append(index)
    return found


def _speaking(by_pattern: dict[str, list[int]], callers: Callers) -> tuple[int, ...]:
    """What names a class of callers: through its own pattern, one around it, or `any`."""
    found = {index for text in (*callers.inside, "any") for index in by_pattern.get(text, ())}
    return tuple(sorted(found))


def _axes(
    port: int, protocol: Protocol, speaking: Sequence[Grant], focus: Sequence[Grant] | None, *, is_mixed: bool
) -> PortAxes | None:
    """The classes of requests on a port; None when no grant in focus speaks of the port.

    ``is_mixed`` says that versions differ about the case of paths: a pattern that ignores it is marked as such.
    """
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
    if is_mixed:
        patterns = sorted({FOLDABLE, *patterns})
        patterns = [
            dataclasses.replace(path, text=ANY_CASE + path.text) if path.ignores_case else path for path in patterns
        ]
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
        foldable=patterns.index(FOLDABLE) if is_mixed else None,
    )


def _is_on(operation: Operation, port: int) -> bool:
    return operation.ports is None or port in operation.ports
