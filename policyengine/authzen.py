"""OpenID AuthZEN 1.0 over the policies: how subject, action, resource and context become a request, and a decision.

The mapping is docs/guides/authzen.md's. What the caller, a policy enforcement point, says of a person comes from that
caller and from no issuer, so it can only meet rules about `authzen:TYPE`. Searches are in `policyengine.authzensearch`.
This module authenticates nobody and does no I/O.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import quote

from mesh.request import Decision, Request
from policyengine import model
from policyengine.decide import Index

MAX_EVALUATIONS = 1000
MAX_TEXT = 4096
SERVICE, WORKLOAD = "service", "workload"
ISSUER = "authzen:"
SEMANTICS = ("execute_all", "deny_on_first_deny", "permit_on_first_permit")
REQUIRED = {"subject": ("type", "id"), "action": ("name",), "resource": ("type", "id")}
CONNECT = "connect"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")

Json = dict[str, object]


class AuthzenError(ValueError):
    """The body is no AuthZEN request; the message states the rule that it breaks."""


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """May this subject do this to that? Every part is an object with its required fields; ``context`` may be empty."""

    subject: Json
    action: Json
    resource: Json
    context: Json


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """A question that was decided, as the request that it was."""

    question: Question
    request: Request
    decision: Decision


Tell = Callable[[Answered], None]


class Pdp:
    """The decision point of one snapshot. ``caller`` is whoever asks, ``now`` the server's time."""

    def __init__(self, policies: model.PolicySet, snapshot: str) -> None:
        self.policies, self.snapshot = policies, snapshot
        self._index = Index(policies, snapshot)

    def evaluate(self, body: object, *, caller: str, now: dt.datetime, tell: Tell = lambda _: None) -> Json:
        """Answer an Access Evaluation request (AuthZEN §6); ``tell`` hears of the decision.

        Raises AuthzenError.
        """
        fields = object_of(body, "a request")
        return self._answer(question_of(fields, {}), caller, now, tell)

    def evaluate_all(self, body: object, *, caller: str, now: dt.datetime, tell: Tell = lambda _: None) -> Json:
        """Answer an Access Evaluations request (AuthZEN §7); ``tell`` hears of every decision.

        1. Without `evaluations`, or with none in it, it is a single request.
        2. What stands beside them is the default of each; an object of an evaluation replaces the default as a whole,
           but for required fields that it lacks.
        3. They are answered in order; the semantic may end it at the first deny, or the first permit.
        4. One that cannot be read is denied, and the others are answered.

        Raises AuthzenError for what is wrong with the whole.
        """
        fields = object_of(body, "a request")
        listed = fields.get("evaluations")
        # (1)
        if listed is None or listed == []:
            return self._answer(question_of(fields, {}), caller, now, tell)
        if not isinstance(listed, list) or len(listed) > MAX_EVALUATIONS:
            raise AuthzenError(f"`evaluations` is a list of at most {MAX_EVALUATIONS}")
        semantic = semantic_of(fields.get("options"))
        # (2)
        defaults = {name: fields[name] for name in (*REQUIRED, "context") if name in fields}
        for name, value in defaults.items():
            object_of(value, f"`{name}`")
        answers: list[Json] = []
        for item in listed:
            # (4)
            try:
                answer = self._answer(question_of(object_of(item, "an evaluation"), defaults), caller, now, tell)
            except AuthzenError as err:
                answer = {"decision": False, "context": {"error": {"status": 400, "message": str(err)}}}
            answers.append(answer)
            # (3)
            if semantic == "deny_on_first_deny" and not answer["decision"]:
                break
            if semantic == "permit_on_first_permit" and answer["decision"]:
                break
        return {"evaluations": cast("object", answers)}

    def decide(self, question: Question, caller: str, now: dt.datetime) -> Decision:
        """The decision about a question."""
        return self._index.decide(self.request_of(question, caller, now))

    def _answer(self, question: Question, caller: str, now: dt.datetime, tell: Tell) -> Json:
        request = self.request_of(question, caller, now)
        found = self._index.decide(request)
        tell(Answered(question, request, found))
        context: Json = {"code": found.code, "snapshot": found.snapshot, "mode": str(found.mode)}
        context["policy_decision"] = str(found.policy_effect)
        context |= {name: value for name in ("tier", "policy", "rule") if (value := getattr(found, name))}
        return {"decision": found.is_allowed, "context": context}

    def request_of(self, question: Question, caller: str, now: dt.datetime) -> Request:
        """A question as a request.

        1. A `workload` is its SPIFFE ID. Any other subject asks through the caller, who vouches for it: its properties
           are claims of the issuer `authzen:TYPE`, with its id as `sub`.
        2. A `service` is named by its id; its properties say port, host, path and headers. Any other resource is the
           path `/ID` of the service that is named like its type, and its properties are headers `x-resource-NAME`.
        3. An action is the method; for resources that are no service, in upper case. Properties: `x-action-NAME`.
        4. On a tcp port the action is `connect`, and nothing but the connection counts. The time is the server's,
           whatever the context says.
        """
        # (1)
        source, claims = _who(question.subject, caller)
        # (2)
        properties = _properties(question.resource)
        kind, identifier = str(question.resource["type"]), str(question.resource["id"])
        is_service = kind == SERVICE
        headers: list[tuple[str, str]] = []
        unknown: set[str] = set()
        if is_service:
            for name, value in _mapping(properties.get("headers")).items():
                _add(headers, unknown, name, value)
        else:
            for name, value in properties.items():
                _add(headers, unknown, f"x-resource-{name}", value)
        # (3)
        for name, value in _properties(question.action).items():
            _add(headers, unknown, f"x-action-{name}", value)
        method = str(question.action["name"])
        name, port = identifier if is_service else kind, self.port_of(question)
        host, path, peer = properties.get("host"), properties.get("path"), question.context.get("peer_ip")
        if not is_service:
            host, path = None, "/" + quote(identifier, safe="")
        # (4)
        if port.protocol == "tcp":
            # any other action has no meaning there, and must not pass for a connection
            number = port.port if method == CONNECT else 0
            return Request(service=name, port=number, protocol="tcp", source=source, peer_ip=_text(peer), time=now)
        return Request(
            service=name,
            port=port.port,
            protocol=port.protocol,
            source=source,
            method=method if is_service else method.upper(),
            host=_text(host),
            path=_text(path),
            headers=tuple(headers),
            claims=claims,
            peer_ip=_text(peer),
            time=now,
            unknown=frozenset(unknown),
        )

    def port_of(self, question: Question) -> model.Port:
        """The port that is asked for; without one the service's first http port, else its first."""
        kind, identifier = str(question.resource["type"]), str(question.resource["id"])
        asked = _properties(question.resource).get("port") if kind == SERVICE else None
        found = self.policies.service_for(identifier if kind == SERVICE else kind)
        ports = () if found is None else found.ports
        if type(asked) is int and 0 <= asked <= 65535:
            return next((port for port in ports if port.port == asked), model.Port(port=asked, protocol="http"))
        if asked is not None or not ports:
            return model.Port(port=0, protocol="http")
        return next((port for port in ports if port.protocol == "http"), ports[0])


def question_of(fields: Mapping[str, object], defaults: Mapping[str, object]) -> Question:
    """Read the four parts of a question.

    Raises AuthzenError.
    """
    parts: dict[str, Json] = {}
    for name, required in REQUIRED.items():
        parts[name] = entity_of(fields, name, required, defaults)
    context = fields.get("context", defaults.get("context", {}))
    return Question(parts["subject"], parts["action"], parts["resource"], object_of(context, "`context`"))


def entity_of(
    fields: Mapping[str, object], name: str, required: tuple[str, ...], defaults: Mapping[str, object] | None = None
) -> Json:
    """One part of a question, with its required texts; other fields may stand there, and are left alone.

    Raises AuthzenError.
    """
    default = (defaults or {}).get(name)
    if name not in fields and default is None:
        raise AuthzenError(f"`{name}` is missing")
    found = object_of(fields.get(name, default), f"`{name}`")
    if isinstance(default, Mapping):
        found = {**{field: default[field] for field in required if field in default}, **found}
    for field in required:
        value = found.get(field)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
            raise AuthzenError(f"`{name}.{field}` is a text")
    if "properties" in found and not isinstance(found["properties"], Mapping):
        raise AuthzenError(f"`{name}.properties` is an object")
    return found


def object_of(value: object, what: str) -> Json:
    """A JSON object.

    Raises AuthzenError.
    """
    if not isinstance(value, dict):
        raise AuthzenError(f"{what} is a JSON object")
    return value


def semantic_of(options: object) -> str:
    """When evaluations end (AuthZEN §7.1.2.1).

    Raises AuthzenError for one that nobody knows: to go on where the caller meant to stop would be another answer.
    """
    if options is None:
        return SEMANTICS[0]
    found = object_of(options, "`options`").get("evaluations_semantic", SEMANTICS[0])
    if found not in SEMANTICS:
        raise AuthzenError(f"`options.evaluations_semantic` is one of {', '.join(SEMANTICS)}")
    return str(found)


def _who(subject: Json, caller: str) -> tuple[str | None, Mapping[str, object] | None]:
    kind, identifier, properties = str(subject["type"]), str(subject["id"]), _properties(subject)
    if kind == WORKLOAD:
        claims = properties.get("claims")
        return identifier, claims if isinstance(claims, Mapping) else None
    return caller, {**properties, "iss": f"{ISSUER}{kind}", "sub": identifier}


def _properties(entity: Json) -> Mapping[str, object]:
    return _mapping(entity.get("properties"))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


_WRITTEN: dict[type, Callable[[object], str]] = {str: str, int: str, float: str, bool: lambda value: str(value).lower()}


def _add(headers: list[tuple[str, str]], unknown: set[str], name: str, value: object) -> None:
    """Put a property among the headers; what no header can hold is unknown, and null is absent."""
    if _TOKEN.fullmatch(name) is None or value is None:
        return
    write = _WRITTEN.get(type(value))
    if write is None:
        unknown.add(f"headers.{name.lower()}")
    else:
        headers.append((name, write(value)))
