"""What identity rules say of attested facts, rule by rule: of the rules in force, or of a file that is not yet."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from ca.registration import IdentityRule, Refusal, RuleSet
from ca.rulefile import load_rules
from mesh.problems import Diagnostic, Invalid
from mesh.spiffe import TrustDomain

Json = Any


def explained(rules: RuleSet, domain: TrustDomain, pairs: Sequence[tuple[str, str]]) -> Json:
    """The identity that facts give, or why there is none, and what each rule says of them."""
    facts: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        facts[name] = (*facts.get(name, ()), value)
    found = rules.entitle(facts, domain)
    refused = Diagnostic(code=found.code, facts=dict(found.facts)) if isinstance(found, Refusal) else None
    return {
        "spiffe_id": None if isinstance(found, Refusal) else str(found.spiffe_id),
        "rule": None if isinstance(found, Refusal) else found.rule,
        "code": "" if refused is None else refused.code,
        "reason": "" if refused is None else refused.message,
        "help": "" if refused is None else refused.help,
        "container_bound": not isinstance(found, Refusal) and found.container_bound,
        "admin": not isinstance(found, Refusal) and found.admin,
        "rules": [{"rule": item.rule, "matched": item.matched, "reason": item.reason} for item in rules.explain(facts)],
    }


def marks(rule: IdentityRule | None) -> dict[str, bool]:
    """What ought to be seen beside an identity; nothing of one whose rule is gone."""
    if rule is None:
        return {}
    return {"container_bound": rule.is_container_bound, "admin": rule.admin}


def rules_of(path: pathlib.Path) -> tuple[RuleSet, list[Diagnostic]]:
    """Read a file of rules that need not be in force, with its findings; with an error among them it could never be.

    Raises Invalid LM1219 for a file that cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as err:
        raise Invalid("LM1219", path=str(path), reason=err.strerror or type(err).__name__) from err
    except UnicodeDecodeError as err:
        raise Invalid("LM1219", path=str(path), reason=f"byte {err.start} is no UTF-8") from err
    return load_rules(text, str(path))
