"""Whose tokens two versions of a policy set believe, where they declare an issuer in different ways.

Rules speak of claims; whether a token brings claims at all is the word of its issuer's declaration: keys, audiences,
algorithms, leeway, bindings. A token that one version believes and the other does not is unknown to the other. Which of
these kinds of tokens there may be follows from the declarations alone. Nothing is verified or fetched here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from mesh import canonicaljson
from policyengine.authzen import ISSUER as SAID
from policyengine.issuer import Issuer
from policyengine.model import PolicySet

Belief = Literal["both", "before", "now"]
"""Which versions believe a token of an issuer: both, or only one of them."""
Beliefs = Mapping[str, tuple[Belief, ...]]
"""By an issuer that is declared in another way, or not at all, the kinds of its tokens that there may be."""


def beliefs_between(old: PolicySet, new: PolicySet) -> Beliefs:
    """The issuers of whose tokens the versions may believe different ones."""
    ours, theirs = ({item.issuer: item for item in side.issuers} for side in (old, new))
    found = {name: _kinds(ours.get(name), theirs.get(name)) for name in sorted(ours.keys() | theirs.keys())}
    return {name: kinds for name, kinds in found.items() if kinds != ("both",)}


def unbelieved(policies: PolicySet) -> Beliefs:
    """The issuers that rules name and one policy set does not declare: no token of theirs verifies, of any kind.

    What callers of the AuthZEN API say of people is declared nowhere, and counts.
    """
    declared = {item.issuer for item in policies.issuers}
    conditions = (
        when
        for policy in policies.policies
        for rule in policy.rules
        for when in (rule.when, None if rule.unless is None else rule.unless.when)
        if when is not None and when.claims is not None
    )
    named = {when.claims.issuer for when in conditions if when.claims is not None}
    return {name: () for name in sorted(named - declared) if not name.startswith(SAID)}


def _kinds(old: Issuer | None, new: Issuer | None) -> tuple[Belief, ...]:
    """The kinds of tokens of an issuer; what cannot be ruled out is among them."""
    if old is None:
        return ("now",)
    if new is None:
        return ("before",)
    found: list[Belief] = []
    if _may_agree(old, new):
        found.append("both")
    if not _believes_all(new, old):
        found.append("before")
    if not _believes_all(old, new):
        found.append("now")
    return tuple(found)


def _believes_all(wide: Issuer, narrow: Issuer) -> bool:
    """Whether one declaration certainly believes every token that the other believes."""
    return (
        set(narrow.audiences) <= set(wide.audiences)
        and set(narrow.algorithms) <= set(wide.algorithms)
        and narrow.leeway_s <= wide.leeway_s
        and set(wide.bind) <= set(narrow.bind)
        and _knows_all(wide, narrow)
    )


def _knows_all(wide: Issuer, narrow: Issuer) -> bool:
    """Whether every key of one is a key of the other, for the same tokens.

    The keys of an address are whatever it serves. A token without `kid` counts where there is just one key, so a second
    key takes something away.
    """
    if wide.keys is None or narrow.keys is None:
        return wide.source == narrow.source
    more, fewer = _keys_of(wide), _keys_of(narrow)
    return fewer == more or (fewer < more and len(fewer) > 1)


def _may_agree(one: Issuer, other: Issuer) -> bool:
    """Whether there may be a token that both believe."""
    if not set(one.algorithms) & set(other.algorithms):
        return False
    return one.keys is None or other.keys is None or bool(_keys_of(one) & _keys_of(other))


def _keys_of(issuer: Issuer) -> frozenset[bytes]:
    return frozenset(canonicaljson.dumps(key) for key in json.loads(issuer.keys or '{"keys": []}')["keys"])
