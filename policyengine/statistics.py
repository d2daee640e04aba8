"""What a policy set compiles to, in numbers: per called service its rules, callers, conditions and port tiers.

The numbers are those of the normal form (`policyengine.ir`) that the index, the plans and the exports are made of.
This module decides nothing.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

from policyengine import model
from policyengine.ir import normalise
from policyengine.tiers import PortTier, choose_tiers


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatistics:
    """One called service. ``exact``, ``below`` and ``any_caller`` count the entries by which callers are looked up."""

    service: str
    mode: str
    ports: Mapping[int, PortTier]
    rules: Mapping[str, int]
    effects: Mapping[str, int]
    exact: int
    below: int
    any_caller: int
    operations: int
    conditional: int

    def to_json(self) -> dict[str, object]:
        """The plain JSON object."""
        return {
            "service": self.service,
            "mode": self.mode,
            "ports": {str(port): str(tier) for port, tier in self.ports.items()},
            "rules": {"total": sum(self.rules.values()), **self.rules, **self.effects},
            "callers": {"exact": self.exact, "below": self.below, "any": self.any_caller},
            "operations": self.operations,
            "conditional": self.conditional,
        }


def statistics_of(policies: model.PolicySet) -> list[ServiceStatistics]:
    """The statistics of every service, by name; an exception counts as a rule of the app tier."""
    tiers = choose_tiers(policies)
    found = []
    for service in sorted(policies.services, key=lambda item: item.name):
        grants = normalise(policies, service).grants
        rules = Counter(grant.tier for grant in grants)
        effects = Counter(str(grant.effect) for grant in grants)
        patterns = [pattern for grant in grants for pattern in grant.callers.patterns]
        found.append(
            ServiceStatistics(
                service=service.name,
                mode=str(service.mode),
                ports=tiers[service.name],
                rules={tier: rules[tier] for tier in model.TIERS},
                effects={effect: effects[effect] for effect in ("allow", "deny", "pass")},
                exact=sum(not pattern.subtree for pattern in patterns),
                below=sum(pattern.subtree for pattern in patterns),
                any_caller=sum(grant.callers.is_any for grant in grants),
                operations=sum(len(grant.operations) for grant in grants),
                conditional=sum(grant.is_conditional for grant in grants),
            )
        )
    return found
