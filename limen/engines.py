"""The engines that `limen policy eval` asks, behind one form: a request in, a decision out.

What is not Limen's own may fail; its failures deny, as a bug in the decision point does (design D13).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

from limen.decisions import DecisionError, decision_from_json
from limen.opa import running_opa
from mesh.problems import Invalid, Unavailable
from mesh.request import Decision, Effect, Mode, Request
from policyengine import reference
from policyengine.compile.rego import BATCH_MODULE, LOG_MODULE, Program, compile_rego
from policyengine.customrules import PATIENT_S, with_custom_rules
from policyengine.decide import INTERNAL_ERROR, Index
from policyengine.inputdoc import input_of
from policyengine.model import PolicySet
from policyengine.rego import Engine, RegoError, Source, require_engine

NAMES = ("index", "reference", "rego", "opa", "envoy")
Decide = Callable[[Request], Decision]


@contextlib.contextmanager
def open_engine(name: str, policies: PolicySet, snapshot: str) -> Iterator[Decide]:
    """Open an engine over a policy set, and close it.

    Raises Invalid LM2610 or LM2613, NotFound LM2611 or LM2650 and Unavailable LM2612 or LM2651 for an engine that is
    not there or does not take the policies.
    """
    if name == "index":
        with with_custom_rules(policies, deadline_s=PATIENT_S) as found:
            yield Index(found, snapshot).decide
    elif name == "reference":
        with with_custom_rules(policies, deadline_s=PATIENT_S) as found:
            yield functools.partial(reference.decide, found, snapshot=snapshot)
    elif name == "rego":
        with rego_engine(compile_rego(policies, snapshot)) as decide:
            yield decide
    elif name == "envoy":
        from limen.envoy import running_envoy  # noqa: PLC0415  only who asks it pays for its compiler

        with running_envoy(policies, snapshot) as envoy:
            yield envoy.decide
    else:
        program = compile_rego(policies, snapshot)
        with running_opa() as opa:
            opa.load(program)

            def ask(request: Request) -> Decision:
                try:
                    return decision_from_json(opa.decide(input_of(request)))
                except (Unavailable, DecisionError):
                    return failed(snapshot)

            yield ask


@contextlib.contextmanager
def rego_engine(program: Program) -> Iterator[Decide]:
    """A program in process."""
    require_engine()
    modules = {name: text for name, text in program.modules.items() if name not in {BATCH_MODULE, LOG_MODULE}}
    source = Source(modules=modules, data=program.data, entrypoints=("limen/authz/decision",), strict=False)
    with Engine(source, deadline_s=PATIENT_S) as engine:
        try:
            engine.load()
        except RegoError as err:
            raise Invalid("LM2613", reason=str(err)) from err

        def ask(request: Request) -> Decision:
            document = input_of(request)
            # the library dies now and then: a command that has time asks once more
            for _ in range(2):
                try:
                    engine.load()
                    return decision_from_json(engine.ask("limen/authz/decision", document))
                except (RegoError, DecisionError):
                    continue
            return failed(program.snapshot)

        yield ask


def failed(snapshot: str) -> Decision:
    """The denial of an engine that gave no decision."""
    return Decision(
        effect=Effect.DENY, policy_effect=Effect.DENY, mode=Mode.ENFORCE, snapshot=snapshot, tier="", policy="",
        rule="", code=INTERNAL_ERROR,
    )  # fmt: skip
