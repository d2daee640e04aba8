"""What the words of a plan's row mean, written from their description and not from the code that writes them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from mesh.clock import parse_time
from mesh.request import Request
from mesh.spiffe import SpiffePattern
from policyengine import model
from policyengine.attributes import Facts, Truth, holds, read
from policyengine.canonical import Ambiguous, PathCase, PathPattern, folded
from policyengine.reading import _network

# a custom rule of these tests says the same in both versions
FIELDS = {"headers", "claims", "peer_ip", "forwarded_ip", "hours", "rego", "rego_before"}


def speaks_of(
    row: Any,
    request: Request,
    headers: frozenset[str] = frozenset(),
    custom: Any = None,
    path_case: PathCase = "sensitive",
    belief: str = "both",
) -> bool:
    """Whether a row's words hold for a request; ``belief`` says which versions believe its token."""
    is_connection = not row.methods
    facts = read(request, "tcp" if is_connection else request.protocol, headers, path_case)
    facts.custom = custom
    when = row.when
    assert facts.source is not None

    def among(text: str) -> bool:
        return text == "any" or SpiffePattern.parse(text).matches(facts.source)  # type: ignore[arg-type]

    if row.port != request.port or not among(row.source) or any(among(text) for text in when.get("source_not_in", [])):
        return False
    if "source_in" in when and not any(among(text) for text in when["source_in"]):
        return False

    def on(text: str) -> bool:
        assert facts.path is not None
        pattern = PathPattern.parse(text.removeprefix("(?i)"))
        if text.startswith("(?i)"):
            letters = folded(facts.path)
            meant = pattern.folded()
            return isinstance(meant, PathPattern) and not isinstance(letters, Ambiguous) and meant.matches(letters)
        meant = pattern if path_case == "sensitive" else pattern.folded()
        return isinstance(meant, PathPattern) and meant.matches(facts.path)

    def hold(words: dict[str, Any]) -> bool:
        if not circumstances_hold(words, facts, belief):
            return False
        if is_connection:
            return True
        if "methods" in words and words["methods"] != ["*"] and facts.method not in words["methods"]:
            return False
        if facts.method in words.get("method_not_in", []):
            return False
        if "paths" in words and not any(on(text) for text in words["paths"]):
            return False
        if any(on(text) for text in words.get("path_not_in", [])):
            return False
        return all(on(text) for text in words.get("path_also_in", [])) and on_host(words)

    def on_host(words: dict[str, Any]) -> bool:
        if "hosts" not in words:
            return True
        listed = {*words["hosts"], *words.get("host_not_in", [])}
        around = [facts.host, f"*.{facts.host.partition('.')[2]}", "*"] if facts.host else ["*"]
        if facts.host is None:
            around = ["malformed"]
        return next((name for name in around if name in listed), None) in words["hosts"]

    def of(own: dict[str, Any]) -> bool:
        return among(own["source"]) and not any(among(text) for text in own.get("source_not_in", [])) and hold(own)

    if "by_source" in when and not any(of(own) for own in when["by_source"]):
        return False
    return hold({**when, "methods": list(row.methods), "paths": row.paths})


def circumstances_hold(when: dict[str, Any], facts: Facts, belief: str = "both") -> bool:
    """Whether everything that a `when` says beside caller and operation is so."""
    if when.get("believed", belief) != belief:
        return False
    if "time" in when and not any(_is_in(stretch, facts) for stretch in when["time"]):
        return False
    if not all(is_unknown(name, facts) for name in when.get("unknown", [])):
        return False
    if any(circumstances_hold(item, facts, belief) for item in when.get("not", [])):
        return False
    if not all(circumstances_hold(item, facts, belief) for item in when.get("also", [])):
        return False
    return all(_field_holds(name, when[name], facts) is True for name in FIELDS & when.keys())


def _is_in(stretch: dict[str, Any], facts: Facts) -> bool:
    time = facts.request.time
    if time is None or "time" in facts.request.unknown:
        return False
    return parse_time(stretch["from"]) <= time and (stretch["until"] is None or time < parse_time(stretch["until"]))


def is_unknown(name: str, facts: Facts) -> bool:
    """Whether an attribute is there and cannot be read."""
    if name == "time":
        return facts.request.time is None or "time" in facts.request.unknown
    if name.startswith(("rego.", "rego_before.")):
        return _field_holds("rego", name.partition(".")[2], facts) is None
    if name.startswith("headers."):
        return _field_holds("headers", {name.removeprefix("headers."): ["-"]}, facts) is None
    if name == "claims":
        return "claims" in facts.request.unknown
    if name.startswith("claims."):
        return _field_holds("claims", {name.removeprefix("claims."): ["-"]}, facts) is None
    return _field_holds(name, ["0.0.0.0/0"], facts) is None


def _field_holds(name: str, value: Any, facts: Facts) -> Truth:
    fields: dict[str, Any] = {}
    if name == "headers":
        fields["headers"] = tuple((key, tuple(values)) for key, values in value.items())
    elif name == "claims":
        own = (facts.request.claims or {}).get("iss")
        issuer = value.get("issuer", own if isinstance(own, str) else "-")
        values = tuple((key, tuple(found)) for key, found in value.items() if key != "issuer")
        fields["claims"] = model.ClaimsCondition(issuer=issuer, values=values)
    elif name in {"peer_ip", "forwarded_ip"}:
        fields[name] = tuple(_network(text) for text in value)
    elif name == "hours":
        clock = [dt.time.fromisoformat(value[key]) for key in ("from", "to")]
        fields["hours"] = model.Hours(tz=value["tz"], start=clock[0], end=clock[1])
    else:
        fields["rego"] = value
    return holds(model.Conditions(**fields), dataclasses.replace(facts, custom=facts.custom))
