"""Edits of a policy set, one after the other, as people and programs make them: most objects stay the very same."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st

from mesh.request import Mode
from mesh.spiffe import SpiffePattern
from policyengine import model
from tests.policyengine.strategies import NOW, TD, policy_sets

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[T]], T]


def _place(draw: Draw, items: Sequence[object]) -> int:
    return draw(st.integers(0, len(items) - 1))


def _replaced(items: tuple[T, ...], place: int, *others: T) -> tuple[T, ...]:
    return (*items[:place], *others, *items[place + 1 :])


def _policy(draw: Draw, found: model.PolicySet, edit: Callable[[model.Policy], model.Policy | None]) -> model.PolicySet:
    """One policy edited; None takes it away."""
    if not found.policies:
        return found
    place = _place(draw, found.policies)
    after = edit(found.policies[place])
    others = () if after is None else (after,)
    return dataclasses.replace(found, policies=_replaced(found.policies, place, *others))


def _unique(rules: Sequence[model.Rule]) -> tuple[model.Rule, ...]:
    """Rules with an id each; an object that stands alone with its id stays."""
    seen: set[str] = set()
    out = []
    for rule in rules:
        name = rule.id
        while name in seen:
            name += "x"
        seen.add(name)
        out.append(rule if name == rule.id else dataclasses.replace(rule, id=name))
    return tuple(out)


def add_rule(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """A rule that was read, anywhere in a policy."""
    more = [rule for policy in draw(policy_sets).policies for rule in policy.rules]
    if not more:
        return found

    def edit(policy: model.Policy) -> model.Policy:
        at = draw(st.integers(0, len(policy.rules)))
        rules = _unique((*policy.rules[:at], draw(st.sampled_from(more)), *policy.rules[at:]))
        return dataclasses.replace(policy, rules=rules)

    return _policy(draw, found, edit)


def remove_rule(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """A rule less; the last one takes its policy along."""

    def edit(policy: model.Policy) -> model.Policy | None:
        rules = _replaced(policy.rules, _place(draw, policy.rules))
        return dataclasses.replace(policy, rules=rules) if rules else None

    return _policy(draw, found, edit)


def change_rule(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """Another rule under the same id."""
    more = [rule for policy in draw(policy_sets).policies for rule in policy.rules]
    if not more:
        return found

    def edit(policy: model.Policy) -> model.Policy:
        at = _place(draw, policy.rules)
        other = dataclasses.replace(draw(st.sampled_from(more)), id=policy.rules[at].id)
        return dataclasses.replace(policy, rules=_replaced(policy.rules, at, other))

    return _policy(draw, found, edit)


def move_rule(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """A rule to another place, of its policy or of another one."""
    if not found.policies:
        return found
    source, target = _place(draw, found.policies), _place(draw, found.policies)
    rule = draw(st.sampled_from(found.policies[source].rules))
    policies = list(found.policies)
    left = tuple(item for item in policies[source].rules if item is not rule)
    if source != target:
        policies[target] = dataclasses.replace(policies[target], rules=_unique((rule, *policies[target].rules)))
    elif left:
        left = (*left, rule)
    if left:
        policies[source] = dataclasses.replace(policies[source], rules=left)
    return dataclasses.replace(found, policies=tuple(policies))


def rename_rule(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """Another id, which orders it differently among its equals."""

    def edit(policy: model.Policy) -> model.Policy:
        at = _place(draw, policy.rules)
        other = dataclasses.replace(policy.rules[at], id=draw(st.sampled_from(("a", "m", "z"))))
        return dataclasses.replace(policy, rules=_unique(_replaced(policy.rules, at, other)))

    return _policy(draw, found, edit)


def rename_policy(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """Another name."""
    names = {policy.name for policy in found.policies}
    free = [name for name in ("a", "p0", "p1", "p2", "p3", "z") if name not in names]
    return _policy(draw, found, lambda policy: dataclasses.replace(policy, name=draw(st.sampled_from(free))))


def retier_policy(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """Another tier, for the very same rules."""
    return _policy(draw, found, lambda policy: dataclasses.replace(policy, tier=draw(st.sampled_from(model.TIERS))))


def reorder_policies(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """The same policies in another order."""
    return dataclasses.replace(found, policies=tuple(draw(st.permutations(found.policies))))


def add_policy(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """A policy that was read."""
    names = {policy.name for policy in found.policies}
    more = tuple(policy for policy in draw(policy_sets).policies if policy.name not in names)
    return dataclasses.replace(found, policies=(*found.policies, *more[:1]))


def edit_groups(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """Other members of one group, or the group gone."""
    place = draw(st.integers(0, 2))
    other = draw(policy_sets).groups[place]
    groups = tuple(group for group in found.groups if group.name != other.name)
    return dataclasses.replace(found, groups=(*groups, *draw(st.sampled_from(((), (other,), (other,))))))


def edit_service(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """Mode, case of paths, ports of the called service, or the identities of one that calls."""
    db, web = found.services
    if draw(st.booleans()):
        identities = (SpiffePattern.parse(draw(st.sampled_from((f"{TD}/ns/shop/sa/web", f"{TD}/ns/audit/**")))),)
        return dataclasses.replace(found, services=(db, dataclasses.replace(web, identities=identities)))
    return dataclasses.replace(found, services=(draw(policy_sets).services[0], web))


def toggle_observe(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """`observe` begins or ends."""
    db, web = found.services
    if db.mode is Mode.OBSERVE:
        db = dataclasses.replace(db, mode=Mode.ENFORCE, until=None)
    else:
        until = NOW + dt.timedelta(hours=draw(st.sampled_from((0, 1))))
        db = dataclasses.replace(db, mode=Mode.OBSERVE, until=until)
    return dataclasses.replace(found, services=(db, web))


def edit_exceptions(draw: Draw, found: model.PolicySet) -> model.PolicySet:
    """Other exceptions, the first of the old ones perhaps among them."""
    kept = found.exceptions[: draw(st.integers(0, 1))]
    names = {item.name for item in kept}
    more = tuple(item for item in draw(policy_sets).exceptions if item.name not in names)
    return dataclasses.replace(found, exceptions=(*kept, *more))


EDITS: tuple[Callable[[Draw, model.PolicySet], model.PolicySet], ...] = (
    add_rule,
    remove_rule,
    change_rule,
    move_rule,
    rename_rule,
    rename_policy,
    retier_policy,
    reorder_policies,
    add_policy,
    edit_groups,
    edit_service,
    toggle_observe,
    edit_exceptions,
)


@st.composite
def histories(draw: Draw, *, most: int = 6) -> list[model.PolicySet]:
    """A policy set, and what becomes of it edit by edit."""
    found = [draw(policy_sets)]
    for edit in draw(st.lists(st.sampled_from(EDITS), min_size=1, max_size=most)):
        found.append(edit(draw, found[-1]))
    return found
