"""How much a rule speaks of, on one scale: what tells two equally small changes of policy apart.

The measure is the logarithm of a count: of callers, times operations, where a pattern counts for as many values as its
open places could have. It orders patterns as inclusion does (what holds more is broader), and has no other meaning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from mesh.spiffe import SpiffePattern
from policyengine import model
from policyengine.canonical import HostPattern, PathPattern

_ANYBODY = 48.0
_PER_SEGMENT = 8.0
_ANY_HOST, _SUBDOMAIN = 12.0, 6.0
_ANY_METHOD = 4.0
_ANY_PORT = 4.0
_ANY_PATH = 40.0
_PER_CONDITION = 4.0
ONE = 0.0
"""One caller, or one operation."""
NOTHING = -math.inf
"""A change of the request alone: it allows nothing new."""


def together(parts: Iterable[float]) -> float:
    """The breadth of several things side by side."""
    found = list(parts)
    if len(found) == 1:
        return found[0]
    widest = max(found, default=NOTHING)
    if math.isinf(widest):
        return widest
    return widest + math.log2(sum(2.0 ** (part - widest) for part in found))


def callers_breadth(callers: model.Principals) -> float:
    """How many callers are meant."""
    if callers.is_any or callers.incomplete:
        return _ANYBODY
    return together(_pattern(pattern) for pattern in callers.patterns)


def _pattern(pattern: SpiffePattern) -> float:
    if not pattern.subtree:
        return ONE
    return max(_ANYBODY - _PER_SEGMENT - _PER_SEGMENT / 2 * len(pattern.id.segments), 1.0)


def operation_breadth(operation: model.Operation) -> float:
    """How many operations an entry of `to` holds."""
    return (
        (_ANY_PORT if operation.ports is None else math.log2(len(operation.ports)))
        + (_ANY_METHOD if operation.methods is None else math.log2(len(operation.methods)))
        + (_ANY_HOST if operation.hosts is None else together(map(_host, operation.hosts)))
        + (_ANY_PATH if operation.paths is None else together(map(_path, operation.paths)))
    )


def _host(pattern: HostPattern) -> float:
    return _SUBDOMAIN if pattern.wildcard else ONE


def _path(pattern: PathPattern) -> float:
    places = sum(segment.type != "literal" for segment in pattern.segments) * _PER_SEGMENT / 2
    if not pattern.subtree:
        return places
    return max(_ANY_PATH - _PER_SEGMENT / 2 * len(pattern.segments), places + 1.0)


def operations_breadth(rule: model.Rule) -> float:
    """How many operations a rule speaks of, on its conditions."""
    operations = rule.to or (model.Operation(),)
    return together(map(operation_breadth, operations)) - conditions_cut(rule.when)


def conditions_cut(when: model.Conditions | None) -> float:
    """What conditions take away."""
    if when is None:
        return 0.0
    fields = (when.claims, when.peer_ip, when.forwarded_ip, when.hours, when.rego)
    return _PER_CONDITION * (sum(field is not None for field in fields) + len(when.headers or ()))


def rule_breadth(policies: model.PolicySet, rule: model.Rule) -> float:
    """How much a rule speaks of."""
    return callers_breadth(policies.expand(rule.from_)) + operations_breadth(rule)
