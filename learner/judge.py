"""What a policy tree says about what was watched: which kinds it denies, and which rule allows the others.

The policy engine decides; this module asks it once for each kind. Conditions on what no flow records (headers, tokens,
the time of day) cannot be told: a kind that hangs on them is `uncertain`, neither allowed nor denied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from learner.history import BEYOND, Key, Kind, moment
from mesh.flow import Flow
from mesh.request import Effect, Request
from policyengine.decide import Index
from policyengine.ir import Grant, ServiceForm, normalise
from policyengine.model import PolicySet
from policyengine.usage import unused


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """What a tree says of a kind; ``rule`` names policy and rule of an allow."""

    is_allowed: bool
    is_uncertain: bool = False
    policy: str = ""
    rule: str = ""
    code: str = ""


class Judge:
    """One policy tree, asked about kinds."""

    def __init__(self, policies: PolicySet) -> None:
        self.policies = policies
        self._index = Index(policies, "proposal")
        self._forms: dict[str, ServiceForm] = {}
        self._known: dict[Key, Judgement] = {}

    def __call__(self, kind: Kind) -> Judgement:
        """What the tree says of a kind."""
        found = self._known.get(kind.key)
        if found is None:
            found = self._known[kind.key] = self._decide(kind)
        return found

    def denies(self, kind: Kind) -> bool:
        """Whether a session of the kind would be denied, for whatever reason."""
        return not self(kind).is_allowed

    def form(self, service: str) -> ServiceForm:
        """The normal form of a service of the tree, by its name."""
        found = self._forms.get(service)
        if found is None:
            named = self.policies.service_for(service)
            assert named is not None, "the service is of this tree"
            found = self._forms[service] = normalise(self.policies, named)
        return found

    def unused(self, service: str, kinds: Iterable[Kind]) -> list[Grant]:
        """The grants of a service that none of the kinds can have needed, whatever was not recorded."""
        return unused(self.form(service), map(as_flow, kinds))

    def _decide(self, kind: Kind) -> Judgement:
        if not kind.has_destination or kind.protocol == "udp" or kind.shape == BEYOND:
            return Judgement(is_allowed=False)
        request = Request(
            service=kind.destination,
            port=kind.port,
            protocol=kind.protocol,
            source=kind.source if kind.has_source else None,
            method=kind.method or None,
            path=kind.path or None,
        )
        found = self._index.decide(request)
        if found.policy_effect is Effect.ALLOW:
            return Judgement(is_allowed=True, policy=found.policy, rule=found.rule, code=found.code)
        return Judgement(
            is_allowed=False, is_uncertain=self._hangs_on_more(kind), policy=found.policy, rule=found.rule,
            code=found.code,
        )  # fmt: skip

    def _hangs_on_more(self, kind: Kind) -> bool:
        """Whether an allow on a condition could have matched: then nobody knows what the tree says."""
        service = self.policies.service_for(kind.destination)
        if service is None or not kind.has_source:
            return False
        form = self.form(service.name)
        conditional = [item for item in form.grants if item.effect is Effect.ALLOW and item.is_conditional]
        if not conditional:
            return False
        form = dataclasses.replace(form, grants=tuple(conditional))
        return len(unused(form, [as_flow(kind)])) < len(conditional)


def as_flow(kind: Kind) -> Flow:
    """A kind as one flow, for what reads flows."""
    return Flow(
        start=moment(kind.first),
        end=moment(kind.last),
        source=kind.source if kind.has_source else None,
        source_ip=None if kind.has_source else kind.source,
        destination=kind.destination if kind.has_destination else None,
        destination_ip=None if kind.has_destination else kind.destination,
        destination_port=kind.port,
        protocol=kind.protocol,
        method=kind.method or None,
        path=kind.path or None,
        version=kind.version or None,
        connections=kind.connections,
    )
