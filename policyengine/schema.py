"""The JSON Schema of the policy kinds, for editors and for tools that write policies.

`policies/schema.json` is this module's output. The schema refuses what is wrong with the shape of one document;
what the loader knows beyond that (canonical paths, names across documents, ports with a meaning) it cannot say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mesh.jwks import ALGORITHMS
from policyengine import model
from policyengine.issuer import BINDINGS
from policyengine.loader import API_VERSION
from policyengine.reading import NAME, RULE_ID

_TEXT: dict[str, object] = {"type": "string"}
_PORT: dict[str, object] = {"type": "integer", "minimum": 1, "maximum": 65535}
_SPIFFE = "^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*(/\\*\\*)?$"
_SOME_SPIFFE = _SPIFFE.removesuffix("$")[1:]
_TIME_OF_DAY = "^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$"


def _matching(pattern: str) -> dict[str, object]:
    return {"type": "string", "pattern": pattern}


def _whole(pattern: str) -> dict[str, object]:
    return _matching(f"^(?:{pattern})$")


def _some(item: object) -> dict[str, object]:
    return {"type": "array", "items": item, "minItems": 1}


def _object(required: Mapping[str, object], optional: Mapping[str, object] | None = None) -> dict[str, object]:
    found: dict[str, object] = {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }
    if required:
        found["required"] = list(required)
    else:
        found["minProperties"] = 1
    return found


def _ref(name: str) -> dict[str, object]:
    return {"$ref": f"#/$defs/{name}"}


def _map_of(values: object) -> dict[str, object]:
    return {"type": "object", "additionalProperties": values, "minProperties": 1}


def _definitions() -> dict[str, object]:
    """The parts that several kinds share."""
    claim = {"type": ["string", "integer", "boolean"]}
    to = {"to": _some(_ref("operation"))}
    callers = {"from": _some(_ref("principal"))}
    return {
        "principal": _matching(f"^(any|(group|service):.+|{_SOME_SPIFFE})$"),
        "operation": _object(
            {},
            {
                "ports": _some(_PORT),
                "methods": _some(_matching("^[^a-z\\s]+$")),
                "hosts": _some(_TEXT),
                "paths": _some(_matching("^/")),
            },
        ),
        "conditions": _object(
            {},
            {
                "claims": {
                    "type": "object",
                    "properties": {"issuer": _TEXT},
                    "required": ["issuer"],
                    "additionalProperties": _some(claim),
                },
                "headers": _map_of(_some(_TEXT)),
                "peer_ip": _some(_TEXT),
                "forwarded_ip": _some(_TEXT),
                "hours": _object({"tz": _TEXT, "from": _matching(_TIME_OF_DAY), "to": _matching(_TIME_OF_DAY)}),
                "rego": _TEXT,
            },
        ),
        "unless": _object({}, {**callers, "when": _ref("conditions")}),
        "rule": _object(
            {"id": _whole(RULE_ID.pattern), "effect": {"enum": ["allow", "deny", "pass"]}, **callers},
            {**to, "when": _ref("conditions"), "unless": _ref("unless"), "evidence": {"type": "object"}},
        ),
        "grant": _object({**callers, "service": _ref("name")}, to),
        "suppression": _object(
            {
                "code": _matching("^LM[0-9]{4}$"),
                "reason": _matching("\\S"),
                "until": _matching("^[0-9]{4}-[0-9]{2}-[0-9]{2}"),
            },
            {"rule": _whole(RULE_ID.pattern)},
        ),
        "name": _whole(NAME.pattern),
        "moment": _matching("^[0-9]{4}-[0-9]{2}-[0-9]{2}T"),
    }


def _specs() -> dict[str, dict[str, object]]:
    """The `spec` of every kind."""
    port = _object({"port": _PORT, "protocol": {"enum": list(model.PROTOCOLS)}})
    return {
        "Service": _object(
            {"identities": _some(_matching(_SPIFFE)), "ports": _some(port)},
            {
                "mode": {"enum": ["enforce", "observe"]},
                "until": _ref("moment"),
                "learn": {"type": "boolean"},
                "dataplane": {"enum": ["auto", "native", "envoy"]},
                "path_case": {"enum": ["sensitive", "insensitive"]},
            },
        ),
        "Policy": _object({"service": _ref("name"), "tier": {"enum": list(model.TIERS)}, "rules": _some(_ref("rule"))}),
        "Group": _object({"members": _some(_ref("principal"))}),
        "Invariant": _object({"forbid": _ref("grant")}),
        "Issuer": _object(
            {"issuer": _TEXT, "audiences": _some(_TEXT)},
            {
                "jwks_uri": _matching("^https?://"),
                "ca": _matching("^\\s*-----BEGIN CERTIFICATE-----"),
                "keys": {"type": "object", "required": ["keys"], "properties": {"keys": _some({"type": "object"})}},
                "algorithms": _some({"enum": list(ALGORITHMS)}),
                "leeway": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 60}, _matching("^[0-9]{1,3}s$")]},
                "bind": _some({"enum": list(BINDINGS)}),
            },
        ),
        "Exception": _object({"rule": _ref("grant"), "until": _ref("moment"), "reason": _TEXT}),
    }


def schema() -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of one document of a policy tree."""
    metadata = _object({"name": _ref("name")}, {"owner": _TEXT, "suppress": _some(_ref("suppression"))})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A document of a Limen policy tree",
        "oneOf": [
            {
                "title": kind,
                **_object(
                    {"apiVersion": {"const": API_VERSION}, "kind": {"const": kind}, "metadata": metadata, "spec": spec}
                ),
            }
            for kind, spec in _specs().items()
        ],
        "$defs": _definitions(),
    }


def schema_text() -> str:
    """The schema as `policies/schema.json` holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
