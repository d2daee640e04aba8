"""The decision diagram of a called service: of every request, what happens and which rule says so.

A diagram branches on caller, port, method, host, path, then on what conditions test (`policyengine.circumstances`);
every branch is a class of values that no rule tells apart, and equal parts are one node (hash-consing), a node whose
branches all lead to one place is left out. Leaves hold a verdict for EACH version that the diagram was built of: one
for `explain` and `lint`, two for a plan. So a diagram is finite and complete: what no leaf says, nobody decides.

    diagram = build("db", [policies], now)
    lookup.leaf_of(diagram, request)                     # the leaf of a request, None outside of the diagram
    for region, axes, tree in diagram.trees(): ...       # who, where, and the tree below
    for leaf in leaves(tree): ...                        # every outcome that some request has

Outside are requests that are refused before any rule (design D3), malformed methods, callers without an identity, and
ports that no version declares. This module decides as `policyengine.decide` does, and tests hold both to it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mesh.request import Effect, Mode
from policyengine.atoms import TooLarge
from policyengine.attributes import Truth
from policyengine.belief import beliefs_between
from policyengine.circumstances import (
    CLAIM,
    FORWARDED,
    HEADER,
    NO_BELIEFS,
    TOKEN,
    Test,
    Value,
    Variable,
    before,
    variables_of,
)  # fmt: skip
from policyengine.ir import Grant, ServiceForm
from policyengine.model import Operation, PolicySet
from policyengine.regions import PortAxes, Region, Spoken, form_of, regions_of_forms

METHOD, HOST, PATH, CONDITIONS = range(4)
"""The dimensions below a port; from CONDITIONS on they count variables."""
MAX_STEPS = 3_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdict:
    """What one version does: ``grant`` decides, None is the default deny; ``is_observed``: denies are overridden."""

    effect: Effect
    policy_effect: Effect
    grant: Grant | None
    is_observed: bool


class Leaf:
    """A verdict for each version."""

    __slots__ = ("verdicts",)

    def __init__(self, verdicts: tuple[Verdict, ...]) -> None:
        self.verdicts = verdicts


class Node:
    """Branches on one dimension: each arm is a set of classes and what is below them. Arms are disjoint and exhaust."""

    __slots__ = ("arms", "dimension")

    def __init__(self, dimension: int, arms: tuple[tuple[frozenset[int], Tree], ...]) -> None:
        self.dimension = dimension
        self.arms = arms


Tree = Node | Leaf


def leaves(tree: Tree) -> Iterator[Leaf]:
    """Every leaf of a tree, once."""
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, Leaf):
            yield found
        else:
            waiting.extend(below for _, below in found.arms)


class Diagram:
    """The diagram of one service; the tree of a region and port is built when it is first asked for."""

    def __init__(self, regions: Iterable[Region], now: dt.datetime) -> None:
        self.regions = tuple(regions)
        self.by_caller = {callers.name: region for region in self.regions for callers in region.callers}
        self._now = now
        self._built: dict[int, Builder] = {}

    def builder(self, region: Region) -> Builder:
        """What builds the trees of a region."""
        found = self._built.get(id(region))
        if found is None:
            found = self._built[id(region)] = Builder(region, self._now)
        return found

    def trees(self) -> Iterator[tuple[Region, PortAxes, Tree]]:
        """Every class of callers that the same rules speak of, every port, and the tree below.

        Raises TooLarge.
        """
        for region in self.regions:
            for axes in region.ports:
                yield region, axes, self.builder(region).tree(axes)


def build(service: str, versions: Sequence[PolicySet], now: dt.datetime) -> Diagram:
    """The whole diagram of a service, over classes common to all versions."""
    forms = tuple(form_of(version, service) for version in versions)
    beliefs = beliefs_between(*versions) if len(versions) == 2 else NO_BELIEFS
    return Diagram(regions_of_forms(service, forms, beliefs=beliefs), now)


# ---------------------------------------------------------------------- building


@dataclasses.dataclass(frozen=True, slots=True)
class _Residual:
    """What is still open about a grant: tests of `when`, ALL of which must hold, of `unless`, ANY of which spares.

    ``unless`` None: nothing takes the case out any more.
    """

    slot: int
    when: frozenset[Test]
    unless: frozenset[Test] | None

    @property
    def is_open(self) -> bool:
        return bool(self.when) or self.unless is not None


_State = tuple[tuple[Test | bool, tuple[_Residual, ...]], ...]
"""Per version: whether the service observes, and the grants that may still decide, by rank."""


class Builder:
    """Builds the trees of one region, top down.

    1. Of a region's grants, those whose operation matches a class of requests are live in it.
    2. Below the path, a state says of every live grant which of its tests are open. A value of a variable settles
       tests; a grant that certainly does not apply goes, and so does what stands behind one that certainly decides.
    3. States and nodes that are equal are built once.
    """

    def __init__(self, region: Region, now: dt.datetime) -> None:
        self._region = region
        self._grants = region.spoken
        self._residuals = [_residual_of(found) for found in region.spoken]
        observed: list[Test | bool] = []
        for form in region.forms:
            service = None if form is None else form.service
            is_observed = service is not None and service.mode is Mode.OBSERVE and service.until is not None
            observed.append(before(service.until) if is_observed and service and service.until else False)
        self._observed = observed
        tests = [test for found in self._residuals if found for test in (*found.when, *(found.unless or ()))]
        tests += [test for test in observed if isinstance(test, Test)]
        self.variables: tuple[Variable, ...] = variables_of(tests, now, region.beliefs)
        self._same = next((item.values[0].same for item in self.variables if item.attribute == TOKEN), {})
        self._mentioned = [
            {test for value in found.values for test in (*value.truths, *value.same)} for found in self.variables
        ]
        self._nodes: dict[tuple[object, ...], Tree] = {}
        self._states: dict[tuple[int, _State], Tree] = {}
        self._verdicts: dict[tuple[object, ...], Verdict] = {}
        self._trees: dict[int, Tree] = {}
        self._steps = 0

    def tree(self, axes: PortAxes) -> Tree:
        """The tree of a port.

        Raises TooLarge.
        """
        if axes.port not in self._trees:
            self._trees[axes.port] = self._port(axes)
        return self._trees[axes.port]

    def step(self) -> None:
        """Count a step.

        Raises TooLarge.
        """
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TooLarge

    # (1)

    def _port(self, axes: PortAxes) -> Tree:
        items: list[tuple[int, Operation]] = []
        for slot, found in enumerate(self._grants):
            if self._residuals[slot] is not None:
                items += [(slot, entry) for entry in _on_port(found, self._region.forms[found.version], axes)]
        return _Operations(self, axes, items).tree()

    def conditions(self, slots: frozenset[int], axes: PortAxes) -> Tree:
        """The tree below the path, given the grants whose operation matches."""
        return self._state(0, self._initial(slots, axes))

    def is_allow(self, slot: int) -> bool:
        """Whether a grant of the region allows."""
        return self._grants[slot].grant.effect is Effect.ALLOW

    def is_refused(self, slot: int, axes: PortAxes) -> bool:
        """Whether the version of a grant refuses a path before any rule, whose letters cannot be folded."""
        form = self._region.forms[self._grants[slot].version]
        assert form is not None, "it has a grant"
        return form.service.path_case == "insensitive" and form.protocols.get(axes.port, axes.protocol) != "tcp"

    def still_denies(self, slot: int, axes: PortAxes) -> bool:
        """Whether a grant denies what its version refuses, also while the service observes (design D3)."""
        grant = self._grants[slot].grant
        return self.is_refused(slot, axes) and grant.tier == "guardrail" and grant.effect is Effect.DENY

    def _initial(self, slots: Iterable[int], axes: PortAxes) -> _State:
        """The state of live grants; what a version does not read on a port is unknown to it (design D5)."""
        listed: list[list[_Residual]] = [[] for _ in self._region.forms]
        for slot in sorted(slots):
            found = self._residuals[slot]
            assert found is not None
            version = self._grants[slot].version
            form = self._region.forms[version]
            if form is not None and form.protocols.get(axes.port, axes.protocol) == "tcp":
                found = _renamed(found, self._same)  # a connection brings no token
                tests = (*found.when, *(found.unless or ()))
                unread: dict[Test, Truth] = {test: None for test in tests if _reads_request(test)}
                settled = self._settle(found, unread)
                if settled is None:
                    continue
                found = settled
            listed[version].append(found)
        return tuple((observed, self._pruned(found)) for observed, found in zip(self._observed, listed, strict=True))

    # (2)

    def _state(self, level: int, state: _State) -> Tree:
        key = (level, state)
        if key in self._states:
            return self._states[key]
        self.step()
        live = {test for _, found in state for entry in found for test in (*entry.when, *(entry.unless or ()))}
        live |= {observed for observed, _ in state if isinstance(observed, Test)}
        at = next((i for i in range(level, len(self.variables)) if self._mentioned[i] & live), None)
        if at is None:
            assert not live, "every test is of some variable"
            found: Tree = self._leaf(state)
        else:
            children = [self._state(at + 1, self._with(state, value)) for value in self.variables[at].values]
            found = self.node(CONDITIONS + at, children)
        self._states[key] = found
        return found

    def _with(self, state: _State, value: Value) -> _State:
        """The state when a variable has a value."""
        out = []
        for observed, residuals in state:
            now = (
                value.truths[observed] is True if isinstance(observed, Test) and observed in value.truths else observed
            )
            settled = (self._settle(_renamed(found, value.same), value.truths) for found in residuals)
            out.append((now, self._pruned([found for found in settled if found is not None])))
        return tuple(out)

    def _settle(self, found: _Residual, truths: Mapping[Test, Truth]) -> _Residual | None:
        """A grant with some tests known; None when it does not apply.

        What is unknown makes an allow not match, a deny and a pass match; `unless` spares an allow only if it is
        definitely false, a deny or pass unless it is definitely true (design D3).
        """
        allows = self.is_allow(found.slot)
        when = found.when
        for test in found.when:
            if test in truths:
                truth = truths[test]
                if truth is False or (allows and truth is None):
                    return None
                when = when - {test}
        unless = found.unless
        if unless is not None:
            for test in unless:
                if test in truths:
                    truth = truths[test]
                    if truth is False or (truth is None and not allows):
                        unless = None
                        break
                    unless = unless - {test}
            else:
                if not unless:
                    return None
        return found if (when, unless) == (found.when, found.unless) else _Residual(found.slot, when, unless)

    def _pruned(self, residuals: Sequence[_Residual]) -> tuple[_Residual, ...]:
        """Without what stands behind a grant that certainly applies.

        A pass ends its tier. Anything else ends the search, unless an open pass of the tier might still come before it.
        """
        kept: list[_Residual] = []
        closed: set[str] = set()
        passing: set[str] = set()
        for found in residuals:
            grant = self._grants[found.slot].grant
            if grant.tier in closed:
                continue
            kept.append(found)
            if grant.effect is Effect.PASS:
                passing.add(grant.tier)
            if not found.is_open:
                if grant.tier not in passing:
                    break
                closed.add(grant.tier)
        return tuple(kept)

    # (3)

    def _leaf(self, state: _State) -> Tree:
        verdicts = []
        for version, (observed, residuals) in enumerate(state):
            assert isinstance(observed, bool)
            grants = (self._grants[found.slot].grant for found in residuals)
            grant = next((found for found in grants if found.effect is not Effect.PASS), None)
            key = (version, observed, id(grant))
            if key not in self._verdicts:
                allows = grant is not None and grant.effect is Effect.ALLOW
                is_final = grant is not None and grant.tier == "guardrail"
                self._verdicts[key] = Verdict(
                    effect=Effect.ALLOW if allows or (observed and not is_final) else Effect.DENY,
                    policy_effect=Effect.ALLOW if allows else Effect.DENY,
                    grant=grant,
                    is_observed=observed,
                )
            verdicts.append(self._verdicts[key])
        own = ("leaf", *map(id, verdicts))
        return self._nodes.setdefault(own, Leaf(tuple(verdicts)))

    def node(self, dimension: int, children: Sequence[Tree]) -> Tree:
        """A node with one arm for all classes that lead to one place; the place itself when there is only one."""
        grouped: dict[int, tuple[Tree, list[int]]] = {}
        for index, child in enumerate(children):
            grouped.setdefault(id(child), (child, []))[1].append(index)
        if len(grouped) == 1:
            return children[0]
        arms = tuple((frozenset(indices), child) for child, indices in grouped.values())
        key = (dimension, *((indices, id(child)) for indices, child in arms))
        return self._nodes.setdefault(key, Node(dimension, arms))


class _Operations:
    """The part of a tree above the conditions: method, host, path. Equal sets of live operations have one tree."""

    def __init__(self, builder: Builder, axes: PortAxes, items: Sequence[tuple[int, Operation]]) -> None:
        self._builder, self._axes, self._items = builder, axes, items
        self._placed = _by_pattern(items, axes)
        self._hosts: dict[tuple[int, ...], Tree] = {}
        self._paths: dict[tuple[int, ...], Tree] = {}
        self._conditions: dict[frozenset[int], Tree] = {}

    def tree(self) -> Tree:
        """The tree of the port; on a connection nothing but conditions is asked about."""
        if self._axes.protocol == "tcp":
            return self._below(frozenset(slot for slot, _ in self._items))
        children = []
        for method in self._axes.methods:
            self._builder.step()
            named = (i for i, (_, entry) in enumerate(self._items) if not entry.methods or method in entry.methods)
            children.append(self._host(tuple(named)))
        return self._builder.node(METHOD, children)

    def _host(self, live: tuple[int, ...]) -> Tree:
        if live not in self._hosts:
            children = []
            for name, sample in self._axes.hosts:
                self._builder.step()
                children.append(self._path(tuple(item for item in live if self._has_host(item, name, sample))))
            self._hosts[live] = self._builder.node(HOST, children)
        return self._hosts[live]

    def _has_host(self, item: int, name: str, sample: str | None) -> bool:
        slot, operation = self._items[item]
        if operation.hosts is None:
            return True
        if name == "malformed":
            return not self._builder.is_allow(slot)
        return sample is not None and any(pattern.matches(sample) for pattern in operation.hosts)

    def _path(self, live: tuple[int, ...]) -> Tree:
        if live not in self._paths:
            kept = set(live)
            always = {self._items[item][0] for item in live if self._items[item][1].paths is None}
            children = []
            for signature, _ in self._axes.paths:
                self._builder.step()
                items = (item for index in signature for item in self._placed.get(index, ()) if item in kept)
                slots = always | {self._items[item][0] for item in items}
                if self._axes.foldable is not None and self._axes.foldable not in signature:
                    slots = {slot for slot in slots if not self._builder.is_refused(slot, self._axes)}
                    slots |= {
                        slot
                        for slot in (self._items[item][0] for item in live)
                        if self._builder.still_denies(slot, self._axes)
                    }
                children.append(self._below(frozenset(slots)))
            self._paths[live] = self._builder.node(PATH, children)
        return self._paths[live]

    def _below(self, slots: frozenset[int]) -> Tree:
        if slots not in self._conditions:
            self._conditions[slots] = self._builder.conditions(slots, self._axes)
        return self._conditions[slots]


def _renamed(found: _Residual, same: Mapping[Test, Test]) -> _Residual:
    """A grant with the tests that are asked instead of its own."""
    if not same:
        return found
    unless = None if found.unless is None else frozenset(same.get(test, test) for test in found.unless)
    return _Residual(found.slot, frozenset(same.get(test, test) for test in found.when), unless)


def _residual_of(found: Spoken) -> _Residual | None:
    """A grant for its callers; None when it cannot apply to them."""
    grant = found.grant
    allows = grant.effect is Effect.ALLOW
    when = frozenset(found.when)
    if grant.until is not None:
        when |= {before(grant.until)}
    if grant.unless_callers is None and grant.unless_when is None:
        return _Residual(found.slot, when, None)
    if found.is_spared is False or (found.is_spared is None and not allows):
        return _Residual(found.slot, when, None)
    return _Residual(found.slot, when, frozenset(found.unless)) if found.unless else None


def _on_port(found: Spoken, form: ServiceForm | None, axes: PortAxes) -> Iterator[Operation]:
    """The operations of a grant on a port, as far as its version reads requests there."""
    allows = found.grant.effect is Effect.ALLOW
    protocol = None if form is None else form.protocols.get(axes.port)
    if protocol is None and allows:
        return  # an allow holds on declared ports only
    unread = (protocol or axes.protocol) == "tcp"
    for operation in found.grant.operations:
        if operation.ports is not None and axes.port not in operation.ports:
            continue
        if not unread or not operation.reads_request:
            yield operation
        elif not allows:
            yield Operation()


def _by_pattern(items: Sequence[tuple[int, Operation]], axes: PortAxes) -> dict[int, list[int]]:
    """The items that name each path pattern, by the pattern's index."""
    places = {pattern: index for index, pattern in enumerate(axes.patterns)}
    found: dict[int, list[int]] = {}
    for item, (_, operation) in enumerate(items):
        for pattern in operation.paths or ():
            found.setdefault(places[pattern], []).append(item)
    return found


def _reads_request(test: Test) -> bool:
    name = test.attribute
    return name in {TOKEN, FORWARDED} or name.startswith((HEADER, CLAIM))
