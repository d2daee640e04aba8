"""The JSON Schema of the policy kinds, for editors and for tools that write policies.

`policies/schema.json` is this module's output. What the loader accepts the schema accepts. The schema refuses
all that is wrong with one document by itself, but for what patterns cannot say: which dates and time zones exist, host
bits of address ranges, dot segments and scripts of a path, names and ports that stand twice. What needs more than one
document it cannot know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mesh.jwks import ALGORITHMS
from policyengine import model
from policyengine.canonical import SEGMENT_TYPES
from policyengine.issuer import BINDINGS
from policyengine.loader import API_VERSION
from policyengine.reading import METHOD, NAME, RULE_ID
from policyengine.regocheck import RESERVED_ROOTS
from policyengine.suite import GIVEN_FIELDS
from policyengine.suitereading import EXPECT_FIELDS

_TEXT: dict[str, object] = {"type": "string"}
_PORT: dict[str, object] = {"type": "integer", "minimum": 1, "maximum": 65535}
_ID_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+"
_DOMAIN = r"spiffe://[a-z0-9._-]{1,255}"
_SPIFFE = rf"{_DOMAIN}(?:(?:/{_ID_SEGMENT})+(?:/\*\*)?|/\*\*)"
_TIME_OF_DAY = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9])?"
_DATE = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_TCHARS = "!#$%&'*+.^_`|~0-9"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
# a literal in any spelling, but for what every spelling is refused for; dot segments and outer white space are more
# than a pattern should say, and are left to the loader
_LITERAL = r"(?:[^\x00-\x1f\x7f/{}*?;\\#%]|%(?!2[35Ff]|3[Bbf]|3F|5[Cc]|[01][0-9A-Fa-f]|7[Ff])[0-9A-Fa-f]{2})"
# `policyengine.canonical` refuses it in a literal; this is the dialect of schemas
_REGEX_LIKE = r"(?![^/]*(?:[\[\]^|]|\)[+$]|\+\)|\.\+|[^/]\$(?:/|$)))"
_PLACE = rf"(?:{_REGEX_LIKE}{_LITERAL}+|\{{[A-Za-z_][A-Za-z0-9_]*(?::(?:{'|'.join(SEGMENT_TYPES)}))?\}})"
_WORD = "[A-Za-z_][A-Za-z0-9_]*"
_RULE_PATH = rf"data\.(?!(?:{'|'.join(sorted(RESERVED_ROOTS))})\.){_WORD}(?:\.{_WORD}){{1,7}}"
_HEADER_CHAR = r"\x21-\x2b\x2d-\x7e"


def _matching(pattern: str) -> dict[str, object]:
    return {"type": "string", "pattern": pattern}


def _whole(pattern: str) -> dict[str, object]:
    # `$` alone would let a final line end through in Python's dialect
    return _matching(rf"^(?:{pattern})$(?!\n)")


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


def _map_of(names: object, values: object) -> dict[str, object]:
    return {"type": "object", "propertyNames": names, "additionalProperties": values, "minProperties": 1}


def _definitions() -> dict[str, object]:
    """The parts that several kinds share."""
    claim = {"type": ["string", "integer", "boolean"]}
    to = {"to": _some(_ref("operation"))}
    callers = {"from": _some(_ref("principal"))}
    header = f"(?!host$)[{_TCHARS}A-Za-z-]+".replace("host", "[Hh][Oo][Ss][Tt]")
    value = rf"[{_HEADER_CHAR}](?:[ {_HEADER_CHAR}]*[{_HEADER_CHAR}])?"
    address = _whole(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")
    return {
        "principal": _whole(f"any|(?:group|service):(?:{NAME.pattern})|{_SPIFFE}"),
        "operation": _object(
            {},
            {
                "ports": _some(_PORT),
                "methods": _some(_whole(METHOD.pattern)),
                "hosts": _some(_whole(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]")),
                "paths": _some(_whole(rf"/\*\*|/|(?:/{_PLACE})+(?:/|/\*\*)?")),
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
                "headers": _map_of(_whole(header), _some(_whole(value))),
                "peer_ip": _some(address),
                "forwarded_ip": _some(address),
                "hours": _object({"tz": _TEXT, "from": _whole(_TIME_OF_DAY), "to": _whole(_TIME_OF_DAY)}),
                "rego": _whole(_RULE_PATH),
            },
        ),
        "unless": _object({}, {**callers, "when": _ref("conditions")}),
        "rule": _object(
            {"id": _whole(RULE_ID.pattern), "effect": {"enum": ["allow", "deny", "pass"]}, **callers},
            {**to, "when": _ref("conditions"), "unless": _ref("unless"), "evidence": {"type": "object"}},
        ),
        "grant": _object({**callers, "service": _ref("name")}, to),
        "suppression": _object(
            {"code": _whole("LM[0-9]{4}"), "reason": _matching("\\S"), "until": _whole(f"{_DATE}(?:[Tt ]{_CLOCK})?")},
            {"rule": _whole(RULE_ID.pattern)},
        ),
        "given": _given(),
        "case": _object(
            {"name": _whole(RULE_ID.pattern), "given": _ref("given"), "expect": _expect(), "because": _TEXT}
        ),
        "name": _whole(NAME.pattern),
        "moment": _whole(f"{_DATE}[Tt ]{_CLOCK}"),
    }


def _given() -> dict[str, object]:
    """The request of a test; an empty one may be all that the cases share."""
    optional = {"type": ["string", "null"]}
    pair = {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}
    headers = {"anyOf": [{"type": "object", "additionalProperties": _TEXT}, _some(pair)]}
    special = {
        "port": {**_PORT, "minimum": 0},
        "protocol": {"enum": list(model.PROTOCOLS)},
        "headers": headers,
        "claims": {"type": ["object", "null"]},
        "time": _ref("moment"),
        "unknown": _some(_TEXT),
    }
    found = _object({}, {name: special.get(name, optional) for name in GIVEN_FIELDS})
    del found["minProperties"]
    return found


def _stands_somewhere(field: str) -> dict[str, object]:
    """A field of a request that the cases share, or that each of them gives."""
    given = {"given": {"required": [field]}}
    return {
        "anyOf": [
            {"required": ["given"], "properties": given},
            {"properties": {"cases": {"items": {"properties": given}}}},
        ]
    }


def _expect() -> dict[str, object]:
    outcome = {"enum": ["allow", "deny"]}
    more = {
        "policy_decision": outcome,
        "tier": {"enum": list(model.TIERS)},
        "policy": _ref("name"),
        "rule": _whole(RULE_ID.pattern),
        "code": _TEXT,
    }
    return {"anyOf": [outcome, _object({"decision": outcome}, {name: more[name] for name in EXPECT_FIELDS})]}


def _specs() -> dict[str, dict[str, object]]:
    """The `spec` of every kind."""
    port = _object({"port": _PORT, "protocol": {"enum": list(model.PROTOCOLS)}}, {"websocket": {"type": "boolean"}})
    service = _object(
        {"identities": _some(_whole(_SPIFFE)), "ports": _some(port)},
        {
            "mode": {"enum": ["enforce", "observe"]},
            "until": _ref("moment"),
            "learn": {"type": "boolean"},
            "dataplane": {"enum": ["auto", "native", "envoy"]},
            "path_case": {"enum": ["sensitive", "insensitive"]},
        },
    )
    observed = {"properties": {"mode": {"const": "observe"}}, "required": ["mode"]}
    return {
        "Service": {
            **service,
            "if": observed,
            "then": {"required": ["until"]},
            "else": {"not": {"required": ["until"]}},
        },
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
        "PolicyTest": {
            **_object({"cases": _some(_ref("case"))}, {"given": _ref("given")}),
            "allOf": [_stands_somewhere(name) for name in ("source", "service")],
        },
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
