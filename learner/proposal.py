"""A proposal as values, and the policy tree it is written as: per-caller rules with their evidence.

Writing is deterministic: the same flows give the same bytes. What the tree allows is decided by the policy engine.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence

from mesh.yamlio import needs_quotes

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one caller may do on one port: methods with their path templates; no methods is all of the port."""

    port: int
    operations: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProposedRule:
    """One allow: a caller, its grants, and the evidence."""

    id: str
    caller: str
    grants: tuple[Grant, ...]
    evidence: Mapping[str, object]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProposedService:
    """A called service with its ports and the rules of its callers."""

    name: str
    owner: str
    identity: str
    ports: tuple[tuple[int, str], ...]
    rules: tuple[ProposedRule, ...]

    def to_yaml(self) -> str:
        """The service's documents."""
        out = [
            "apiVersion: limen.dev/v1",
            "kind: Service",
            f"metadata: {{name: {_scalar(self.name)}, owner: {_scalar(self.owner)}}}",
            "spec:",
            f"  identities: [{_quoted(self.identity)}]",
            "  ports: [" + ", ".join(f"{{port: {port}, protocol: {protocol}}}" for port, protocol in self.ports) + "]",
        ]
        if self.rules:
            out += [
                "---",
                "apiVersion: limen.dev/v1",
                "kind: Policy",
                f"metadata: {{name: {_scalar(self.name + '-callers')}, owner: {_scalar(self.owner)}}}",
                "spec:",
                f"  service: {_scalar(self.name)}",
                "  tier: app",
                "  rules:",
            ]
            for rule in self.rules:
                out += _rule(rule)
        return "\n".join(out) + "\n"


def _rule(rule: ProposedRule) -> list[str]:
    out = [f"  - id: {_scalar(rule.id)}", "    effect: allow", f"    from: [{_quoted(rule.caller)}]", "    to:"]
    for grant in rule.grants:
        if not grant.operations:
            out.append(f"    - {{ports: [{grant.port}]}}")
        for methods, paths in _merged(grant.operations):
            listed = ", ".join(_quoted(path) for path in paths)
            out.append(f"    - {{ports: [{grant.port}], methods: [{', '.join(methods)}], paths: [{listed}]}}")
    out.append("    evidence:")
    out += [f"      {name}: {_value(value)}" for name, value in rule.evidence.items()]
    return out


def _merged(operations: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Methods with exactly the same paths share a line: no pair is allowed that was not seen."""
    by_paths: dict[tuple[str, ...], list[str]] = {}
    for method, paths in operations:
        by_paths.setdefault(paths, []).append(method)
    return [(tuple(methods), paths) for paths, methods in by_paths.items()]


def _value(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    return json.dumps(value, ensure_ascii=False)


def _scalar(text: str) -> str:
    return text if _PLAIN.match(text) and not needs_quotes(text) else _quoted(text)


def _quoted(text: str) -> str:
    # JSON strings are YAML double-quoted scalars
    return json.dumps(text, ensure_ascii=True)
