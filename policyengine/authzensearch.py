"""AuthZEN searches (§8): which subjects, resources or actions make a question's answer yes.

Candidates are what the policies name; each is decided like any question, so that a search and an evaluation never
disagree. A resource of type `service` without a path stands for some path, a search says who may call it at all.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from policyengine import model
from policyengine.atoms import TooLarge, path_classes, target_of
from policyengine.authzen import (
    CONNECT,
    ISSUER,
    REQUIRED,
    SERVICE,
    WORKLOAD,
    AuthzenError,
    Json,
    Pdp,
    Question,
    entity_of,
    object_of,
)
from policyengine.canonical import PathPattern

Kind = Literal["subject", "resource", "action"]
MAX_QUESTIONS = 20_000
MAX_PAGE = 1000
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_ASKED: dict[Kind, dict[str, tuple[str, ...]]] = {
    "subject": {**REQUIRED, "subject": ("type",)},
    "resource": {**REQUIRED, "resource": ("type",)},
    "action": {"subject": REQUIRED["subject"], "resource": REQUIRED["resource"]},
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A search that was answered: ``parts`` as they were asked for, and how many candidates came how far.

    ``decided`` questions were asked, ``allowed`` results were a yes, and ``returned`` of them are on the page.
    """

    kind: Kind
    parts: dict[str, Json]
    snapshot: str
    decided: int
    allowed: int
    returned: int


def search(
    pdp: Pdp,
    kind: Kind,
    body: object,
    *,
    caller: str,
    now: dt.datetime,
    known: Callable[[], Iterable[str]] = tuple,
    tell: Callable[[Searched], None] = lambda _: None,
) -> Json:
    """Answer a search. ``known`` are identities that exist, beside those that the policies name.

    1. The parts that are not looked for are read as in an evaluation; an id of the one that is, is ignored.
    2. EVERY candidate is decided; those with a yes are the results, sorted.
    3. They come in pages; a page's token is good for the same snapshot. ``tell`` hears of the search before it is
       answered.

    Raises AuthzenError.
    """
    # (1)
    fields = object_of(body, "a request")
    parts = {name: entity_of(fields, name, required) for name, required in _ASKED[kind].items()}
    context = object_of(fields.get("context", {}), "`context`")
    offset, limit = _page(fields.get("page"), pdp)
    # (2)
    questions = _questions(pdp, kind, parts, context, known)
    found: dict[tuple[str, ...], Json] = {}
    decided = 0
    for number, (result, question) in enumerate(questions):
        if number >= MAX_QUESTIONS:
            raise AuthzenError("the search is too wide: name a path, a port or a host")
        key = tuple(str(value) for value in result.values())
        if key in found:
            continue
        decided += 1
        if pdp.decide(question, caller, now).is_allowed:
            found[key] = result
    results = [found[key] for key in sorted(found)]
    # (3)
    page = results[offset : offset + limit]
    following = offset + len(page)
    tell(
        Searched(
            kind=kind,
            parts=parts,
            snapshot=pdp.snapshot,
            decided=decided,
            allowed=len(results),
            returned=len(page),
        )
    )
    token = f"{_mark(pdp)}.{following}" if following < len(results) else ""
    return {"results": page, "page": {"next_token": token, "count": len(page), "total": len(results)}}


def _page(value: object, pdp: Pdp) -> tuple[int, int]:
    """Where a page begins, and how long it is."""
    fields = object_of({} if value is None else value, "`page`")
    limit, token = fields.get("limit", MAX_PAGE), fields.get("token", "")
    if type(limit) is not int or limit < 1:
        raise AuthzenError("`page.limit` is a whole number from 1 on")
    if token in ("", None):
        return 0, min(limit, MAX_PAGE)
    mark, _, offset = token.partition(".") if isinstance(token, str) else ("", "", "")
    if mark != _mark(pdp) or not offset.isascii() or not offset.isdigit() or len(offset) > 9:
        raise AuthzenError("`page.token` is one that was given for the policies that are active now")
    return int(offset), min(limit, MAX_PAGE)


def _mark(pdp: Pdp) -> str:
    return pdp.snapshot.rpartition(":")[2][:16] or "none"


def _questions(
    pdp: Pdp, kind: Kind, parts: dict[str, Json], context: Json, known: Callable[[], Iterable[str]]
) -> Iterator[tuple[Json, Question]]:
    """Candidates, each with the questions of which one yes is enough."""
    if kind == "subject":
        name = str(parts["subject"]["type"])
        for identifier in _subjects(pdp.policies, name, known):
            subject = {**parts["subject"], "id": identifier}
            for resource in _somewhere(pdp.policies, parts["resource"]):
                yield {"type": name, "id": identifier}, Question(subject, parts["action"], resource, context)
    elif kind == "resource":
        name = str(parts["resource"]["type"])
        for identifier in _resources(pdp.policies, name):
            whole = {**parts["resource"], "id": identifier}
            for resource in _somewhere(pdp.policies, whole):
                yield {"type": name, "id": identifier}, Question(parts["subject"], parts["action"], resource, context)
    else:
        for method in _actions(pdp.policies, parts["resource"]):
            for resource in _somewhere(pdp.policies, parts["resource"]):
                question = Question(parts["subject"], {"name": method}, resource, context)
                # a connection is what there is on a tcp port, and nowhere else
                if (pdp.port_of(question).protocol == "tcp") is (method == CONNECT):
                    yield {"name": method}, question


def _subjects(policies: model.PolicySet, kind: str, known: Callable[[], Iterable[str]]) -> list[str]:
    """Whom the policies name: identities, or people by their `sub`."""
    if kind == WORKLOAD:
        named = [principal for rule in _rules(policies) for principal in rule.from_]
        patterns = {*policies.expand(tuple(dict.fromkeys(named))).patterns}
        patterns |= {pattern for service in policies.services for pattern in service.identities}
        return sorted({str(pattern.id) for pattern in patterns if not pattern.subtree} | set(known()))
    found: set[str] = set()
    for rule in _rules(policies):
        for when in (rule.when, rule.unless.when if rule.unless else None):
            if when is not None and when.claims is not None and when.claims.issuer == f"{ISSUER}{kind}":
                values = dict(when.claims.values).get("sub", ())
                found |= {value for value in values if isinstance(value, str)}
    return sorted(found)


def _resources(policies: model.PolicySet, kind: str) -> list[str]:
    """Services by name; or what the rules of the service with this name call by one segment."""
    if kind == SERVICE:
        return sorted(service.name for service in policies.services)
    return sorted(
        {
            pattern.segments[0].literal
            for pattern in _patterns(policies, kind)
            if len(pattern.segments) == 1 and not pattern.subtree and pattern.segments[0].literal
        }
    )


def _actions(policies: model.PolicySet, resource: Json) -> list[str]:
    """The methods that rules about a service name, and the usual ones."""
    is_service = resource["type"] == SERVICE
    service = policies.service_for(str(resource["id"] if is_service else resource["type"]))
    if service is None:
        return []
    named = {method for operation in _operations(policies, service.name) for method in operation.methods or ()}
    if not is_service:
        return sorted(method.lower() for method in named)
    return sorted({*named, *_METHODS, CONNECT})


def _somewhere(policies: model.PolicySet, resource: Json) -> Iterator[Json]:
    """A resource as it is; a service without port, path or host at each that the policies tell apart."""
    service = policies.service_for(str(resource["id"])) if resource["type"] == SERVICE else None
    if service is None:
        yield resource
        return
    given = resource.get("properties")
    properties = given if isinstance(given, dict) else {}
    ports: list[object] = [properties["port"]] if "port" in properties else [port.port for port in service.ports]
    paths: list[object] = [properties["path"]] if "path" in properties else _paths(policies, service.name)
    hosts: list[object] = [properties["host"]] if "host" in properties else _hosts(policies, service.name)
    for port, path, host in itertools.product(ports, paths, hosts):
        yield {**resource, "properties": {**properties, "port": port, "path": path, "host": host}}


def _paths(policies: model.PolicySet, service: str) -> list[object]:
    """One path of every class that the rules tell apart."""
    patterns = sorted(set(_patterns(policies, service)))
    try:
        found = list(path_classes(patterns).values())
    except TooLarge:
        # one path of every pattern, where there are too many of their crossings
        found = [segments for pattern in patterns for segments in path_classes([pattern]).values()]
    return [target_of(segments) for segments in dict.fromkeys(found)] if patterns else ["/"]


def _hosts(policies: model.PolicySet, service: str) -> list[object]:
    named = {host for operation in _operations(policies, service) for host in operation.hosts or ()}
    return [None, *sorted({f"x.{host.name}" if host.wildcard else host.name for host in named})]


def _patterns(policies: model.PolicySet, service: str) -> list[PathPattern]:
    return [path for operation in _operations(policies, service) for path in operation.paths or ()]


def _operations(policies: model.PolicySet, service: str) -> list[model.Operation]:
    rules = [rule for policy in policies.policies_for(service) for rule in policy.rules]
    rules += [grant.as_rule() for grant in policies.exceptions if grant.service == service]
    return [operation for rule in rules for operation in rule.to or ()]


def _rules(policies: model.PolicySet) -> Iterator[model.Rule]:
    for policy in policies.policies:
        yield from policy.rules
    for grant in policies.exceptions:
        yield grant.as_rule()
