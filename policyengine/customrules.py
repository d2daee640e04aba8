"""Custom rules: Rego of the policy tree that says of a request whether a condition holds.

A rule is true or false as it says so; everything else (undefined, another value, an error, an answer that came too
late) is unknown, so that an allow does not match and a deny does. Rules see the input document and nothing else. What
they may be made of is checked on their text by `policyengine.consistency` and on their compiled plan here.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Self

from mesh.problems import Invalid
from mesh.request import Request
from policyengine import model
from policyengine.attributes import Truth
from policyengine.inputdoc import Document, input_of
from policyengine.rego import LOAD_DEADLINE_S, Engine, RegoError, Source
from policyengine.regocheck import package_of

# where requests wait for the answer; half a millisecond is usual
DEADLINE_S = 0.1
# where somebody sits and waits
PATIENT_S = 10.0


def rules_of(policies: model.PolicySet) -> tuple[str, ...]:
    """The custom rules that policies name and that a module of the set may have."""
    packages = {package_of(module.source) for module in policies.rego}
    named = {name for policy in policies.policies for rule in policy.rules for name in rule.custom_rules()}
    return tuple(sorted(name for name in named if name.removeprefix("data.").rpartition(".")[0] in packages))


class CustomRules:
    """The custom rules of one policy set, in an engine of their own; without rules there is no engine."""

    def __init__(self, policies: model.PolicySet, *, deadline_s: float = DEADLINE_S) -> None:
        self._points = {name: name.removeprefix("data.").replace(".", "/") for name in rules_of(policies)}
        self._asked: Request | None = None
        self._document: Document = {}
        self._known: dict[str, Truth] = {}
        self._engine: Engine | None = None
        if self._points:
            source = Source(
                modules={module.path: module.source for module in policies.rego},
                data={},
                entrypoints=tuple(self._points.values()),
                strict=True,
            )
            self._engine = Engine(source, deadline_s=deadline_s)

    def load(self, deadline_s: float = LOAD_DEADLINE_S) -> None:
        """Wait until the rules are compiled.

        Raises Invalid LM2602 when they are not in time, or may not run.
        """
        if self._engine is not None:
            try:
                self._engine.load(deadline_s)
            except RegoError as err:
                raise Invalid("LM2602", reason=str(err)) from err

    def holds(self, name: str, request: Request) -> Truth:
        """What a rule says of a request. Never raises; one request is asked about each rule once."""
        point = self._points.get(name)
        if point is None or self._engine is None:
            return None
        if request is not self._asked:
            self._asked, self._document, self._known = request, input_of(request), {}
        if name not in self._known:
            try:
                value = self._engine.ask(point, self._document)
            except RegoError:
                value = None
            self._known[name] = value if isinstance(value, bool) else None
        return self._known[name]

    @property
    def failures(self) -> int:
        """How many evaluations gave no answer."""
        return 0 if self._engine is None else self._engine.failures

    def close(self) -> None:
        """End the engine."""
        if self._engine is not None:
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def with_custom_rules(policies: model.PolicySet, *, deadline_s: float = DEADLINE_S) -> Iterator[model.PolicySet]:
    """The policy set with its custom rules evaluated, for as long as the context lasts.

    Raises Invalid LM2602 when they cannot be compiled or may not run.
    """
    if not rules_of(policies):
        yield policies
        return
    with CustomRules(policies, deadline_s=deadline_s) as rules:
        rules.load()
        yield dataclasses.replace(policies, custom=rules.holds)


def read_checked(obj: object) -> model.PolicySet:
    """Read a policy set as a snapshot carries it, its custom rules checked.

    Raises Invalid LM2001, LM2602.
    """
    found = model.policy_set_from_json(obj)
    check_custom_rules(found)
    return found


def check_custom_rules(policies: model.PolicySet) -> None:
    """Compile the custom rules and look at what they would do.

    Raises Invalid LM2602.
    """
    with with_custom_rules(policies):
        pass
