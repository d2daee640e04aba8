"""The custom rules of a sidecar's own service: an engine in a process of its own, only where a rule names one.

A request waits for the answer, at most `policyengine.customrules.DEADLINE_S`, and every other connection of the
workload with it; an engine that was late once is not asked again until it is back, so that a slow rule costs its own
service one wait after the other and no more. No answer is unknown: an allow does not match, a deny does.
"""

from __future__ import annotations

import dataclasses

from policyengine.customrules import DEADLINE_S, CustomRules, rules_of
from policyengine.model import PolicySet, RegoModule

LOAD_DEADLINE_S = 5.0
_Key = tuple[tuple[RegoModule, ...], tuple[str, ...]]


class CustomEngines:
    """The engines of the active and the candidate policies; equal rules share one, and keep it over releases."""

    def __init__(self, *, deadline_s: float = DEADLINE_S, load_deadline_s: float = LOAD_DEADLINE_S) -> None:
        self._deadline_s, self._load_deadline_s = deadline_s, load_deadline_s
        self._engines: dict[_Key, CustomRules] = {}
        self._used: set[_Key] = set()

    def bind(self, policies: PolicySet, own: str) -> PolicySet:
        """The policies with the custom rules of the workload's own service evaluated.

        Raises Invalid LM2602 when they cannot be compiled or may not run; they are unknown then.
        """
        service = policies.service_for(own)
        if service is None:
            return policies
        named = rules_of(dataclasses.replace(policies, policies=policies.policies_for(service.name)))
        if not named:
            return policies
        key = (policies.rego, named)
        self._used.add(key)
        if key not in self._engines:
            mine = dataclasses.replace(policies, policies=policies.policies_for(service.name))
            self._engines[key] = CustomRules(mine, deadline_s=self._deadline_s)
            # once for each change of the rules: whoever asks in the meantime had better wait than be denied
            self._engines[key].load(self._load_deadline_s)
        return dataclasses.replace(policies, custom=self._engines[key].holds)

    def settle(self) -> None:
        """End the engines that nothing was bound to since the last time."""
        for key in [key for key in self._engines if key not in self._used]:
            self._engines.pop(key).close()
        self._used.clear()

    def close(self) -> None:
        """End all engines."""
        self._used.clear()
        self.settle()
