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
    """What one caller may do on one port: methods with their path templates; no methods is all of the port.

    With ``hosts``, it is about requests for those names alone.
    """

    port: int
    operations: tuple[tuple[str, tuple[str, ...]], ...] = ()
    hosts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProposedRule:
    """One allow: a caller, its grants, and the evidence."""

    id: str
    caller: str
    grants: tuple[Grant, ...]
    evidence: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """What a file says of it."""
        operations: list[dict[str, object]] = []
        for grant in self.grants:
            hosts = {"hosts": list(grant.hosts)} if grant.hosts else {}
            operations += [
                {"ports": [grant.port], "methods": list(methods), **hosts, "paths": list(paths)}
                for methods, paths in _merged(grant.operations)
            ] or [{"ports": [grant.port], **hosts}]
        return {
            "id": self.id, "effect": "allow", "from": [self.caller], "to": operations, "evidence": dict(self.evidence),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProposedService:
    """A called service with its ports and the rules of its callers, which are a policy with a name."""

    name: str
    owner: str
    identity: str
    ports: tuple[tuple[int, str], ...]
    rules: tuple[ProposedRule, ...]
    policy: str = ""

    def to_yaml(self, *, evidence: bool = True) -> str:
        """The service's documents; what they decide does not hang on the evidence, which may be left out."""
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
                f"metadata: {{name: {_scalar(self.policy or self.name + '-callers')}, owner: {_scalar(self.owner)}}}",
                "spec:",
                f"  service: {_scalar(self.name)}",
                "  tier: app",
                "  rules:",
            ]
            for rule in self.rules:
                out += _rule(rule, evidence=evidence)
        return "\n".join(out) + "\n"


def _rule(rule: ProposedRule, *, evidence: bool) -> list[str]:
    out = [f"  - id: {_scalar(rule.id)}", "    effect: allow", f"    from: [{_quoted(rule.caller)}]", "    to:"]
    for grant in rule.grants:
        hosts = f", hosts: [{', '.join(_quoted(name) for name in grant.hosts)}]" if grant.hosts else ""
        if not grant.operations:
            out.append(f"    - {{ports: [{grant.port}]{hosts}}}")
        for methods, paths in _merged(grant.operations):
            listed = ", ".join(_quoted(path) for path in paths)
            out.append(f"    - {{ports: [{grant.port}], methods: [{', '.join(methods)}]{hosts}, paths: [{listed}]}}")
    if not evidence:
        return out
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
