"""The ways to keep a deny or a pass that matches from matching one request, each a list of changes.

Like `policyengine.differences`, this proposes; `policyengine.fixes` tries out.
"""

from __future__ import annotations

import dataclasses

from mesh.request import Request
from policyengine import model
from policyengine.attributes import Facts, header_holds
from policyengine.breadth import NOTHING, operations_breadth, rule_breadth
from policyengine.differences import Ask, Difference, collector, condition_gaps, is_named, known_in
from policyengine.reference import is_among


def exemptions(policies: model.PolicySet, policy: str, rule: model.Rule, facts: Facts) -> list[list[Difference]]:
    """The ways to keep a deny or a pass that matches from matching one request.

    1. The caller is taken out: of `from` where it stands there by itself, else by `unless.from`, where that can say it.
    2. The request meets `unless.when`, or leaves out what `when` looks at.
    3. The rule is taken away.
    """
    caller = model.Principal.parse(str(facts.source))
    unless = rule.unless
    ways: list[list[Difference]] = []
    # (1)
    found, gap = collector(policy, rule)
    others = tuple(item for item in rule.from_ if item != caller)
    if others and others != rule.from_ and not is_named(policies, others, facts):
        fix = f"take `{caller}` out of `from`"
        gap("from", fix, operations_breadth(rule), lambda old: dataclasses.replace(old, from_=others))
        ways.append(found)
    elif unless is None or unless.when is None:
        members = (*((unless.from_ or ()) if unless else ()), caller)
        fix = f"add `{caller}` to `unless.from`"
        excepted = model.Unless(from_=members)
        gap("unless", fix, operations_breadth(rule), lambda old: dataclasses.replace(old, unless=excepted))
        ways.append(found)
    # (2)
    is_spared = unless is not None and (unless.from_ is None or is_among(policies, unless.from_, facts) is True)
    if unless is not None and unless.when is not None and unless.when.rego is None and is_spared:
        found, gap = collector(policy, rule)
        condition_gaps(rule, unless.when, facts, gap)
        ways.append(found)
    for name, allowed in (rule.when.headers or ()) if rule.when is not None else ():
        if header_holds(name, allowed, facts) is True:
            found, gap = collector(policy, rule)
            gap(f"headers.{name}", f"send the header `{name}` with another value, or not at all", NOTHING, None,
                _without_header(name))  # fmt: skip
            ways.append(found)
    # (3)
    found, gap = collector(policy, rule)
    gap("effect", "remove the rule", rule_breadth(policies, rule), _removed)
    ways.append(found)
    return [way for way in ways if way]


def _removed(rule: model.Rule) -> None:
    del rule


def _without_header(name: str) -> Ask:
    def ask(request: Request) -> Request:
        headers = tuple(pair for pair in request.headers if pair[0].lower() != name)
        return known_in(request, "headers", headers=headers)

    return ask
