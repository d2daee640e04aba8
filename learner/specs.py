"""Templates that a specification gives: OpenAPI documents, `.proto` files and HTTPRoutes win over what is learned.

A path that a specification of its service knows has the template of the specification; paths that none knows are
learned. A method of gRPC that no `.proto` of the service declares is learned as it was seen. This module reads no
files.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from mesh.yamlio import compose_documents
from policyengine.canonical import Ambiguous, PathPattern, PatternError, canonical_path

_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_INTEGER = frozenset({"int32", "int64"})
_PACKAGE = re.compile(r"^\s*package\s+([A-Za-z_][\w.]*)\s*;", re.MULTILINE)
_SERVICE = re.compile(r"\bservice\s+([A-Za-z_]\w*)\s*\{")
_RPC = re.compile(r"\brpc\s+([A-Za-z_]\w*)\s*\(")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


class SpecError(ValueError):
    """A file that is no specification; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """A template with the method that it is for; an empty method is every one."""

    method: str
    template: str


class Specs:
    """The specifications of services, by the service's identity or name; an empty one is every service."""

    def __init__(self, found: Iterable[tuple[str, Operation]] = ()) -> None:
        self._known: defaultdict[str, list[tuple[str, PathPattern, str]]] = defaultdict(list)
        for service, operation in found:
            self._known[service].append((operation.method, PathPattern.parse(operation.template), operation.template))
        for rows in self._known.values():
            # the most literal template first: `/users/me` before `/users/{id}`
            rows.sort(key=lambda row: (row[2].count("{"), row[2].endswith("**"), -len(row[2]), row[2]))

    def __bool__(self) -> bool:
        return bool(self._known)

    def template(self, destination: str, port: int, method: str, path: str) -> str | None:
        """The template that a specification of a service has for a request; None when none speaks of it."""
        del port
        if not self._known:
            return None
        rows = self._known.get(destination) or self._known.get(destination.rpartition("/")[2]) or self._known.get("")
        found = canonical_path(path)
        if not rows or isinstance(found, Ambiguous):
            return None
        return next(
            (text for name, pattern, text in rows if name in ("", method) and pattern.matches(found.segments)), None
        )


def read_spec(text: str, name: str) -> list[Operation]:
    """Read a specification; its form is told from its name and its text.

    Raises SpecError.
    """
    if name.endswith(".proto"):
        return _proto(text)
    nodes, problems = compose_documents(text, name)
    if problems:
        raise SpecError(f"it is no YAML and no JSON: {problems[0].message}")
    found: list[Operation] = []
    for node in nodes:
        document = node.plain()
        if isinstance(document, Mapping) and ("openapi" in document or "swagger" in document):
            found += _openapi(document)
        elif isinstance(document, Mapping) and document.get("kind") in {"HTTPRoute", "GRPCRoute"}:
            found += _route(document)
    if not found:
        raise SpecError("it holds no operation: an OpenAPI document, a `.proto` file or an HTTPRoute does")
    return found


def _openapi(document: Mapping[str, object]) -> list[Operation]:
    base = str(document.get("basePath") or "")
    servers = document.get("servers")
    if isinstance(servers, list) and servers and isinstance(servers[0], Mapping):
        base = re.sub(r"^[a-z]+://[^/]*", "", str(servers[0].get("url") or ""))
    paths = document.get("paths")
    if not isinstance(paths, Mapping):
        raise SpecError("`paths` is a mapping")
    found = []
    for path, item in paths.items():
        if not isinstance(item, Mapping):
            raise SpecError(f"`paths.{path}` is a mapping")
        shared = _parameters(item.get("parameters"))
        for method, operation in item.items():
            if method in _METHODS and isinstance(operation, Mapping):
                types = {**shared, **_parameters(operation.get("parameters"))}
                found.append(Operation(method.upper(), _checked(base.rstrip("/") + _typed(str(path), types))))
    return found


def _parameters(items: object) -> dict[str, str]:
    """The types of path parameters, as patterns spell them."""
    found = {}
    for item in items if isinstance(items, list) else ():
        if isinstance(item, Mapping) and item.get("in") == "path":
            schema = item.get("schema") if isinstance(item.get("schema"), Mapping) else item
            assert isinstance(schema, Mapping), "an item of a list of mappings"
            kind, form = schema.get("type"), schema.get("format")
            name = "int" if kind == "integer" or form in _INTEGER else ""
            name = {"uuid": "uuid", "date": "date"}.get(str(form), name)
            found[str(item.get("name"))] = name
    return found


def _typed(path: str, types: Mapping[str, str]) -> str:
    """A path of OpenAPI as a pattern: parameters in braces, with their types, one a segment."""
    parts = []
    for number, part in enumerate(path.split("/")):
        names = re.findall(r"\{([^{}]*)\}", part)
        if not names:
            parts.append(part)
        else:
            kind = types.get(names[0], "") if part == f"{{{names[0]}}}" else ""
            name = re.sub(r"\W", "_", names[0]) or f"p{number}"
            parts.append(f"{{{name}:{kind}}}" if kind else f"{{{name}}}")
    return "/".join(parts)


def _route(document: Mapping[str, object]) -> list[Operation]:
    spec = document.get("spec")
    rules = spec.get("rules") if isinstance(spec, Mapping) else None
    found = []
    for rule in rules if isinstance(rules, list) else ():
        for match in (rule.get("matches") if isinstance(rule, Mapping) else None) or ():
            path = match.get("path") if isinstance(match, Mapping) else None
            method = match.get("method") if isinstance(match, Mapping) else None
            if isinstance(method, Mapping):  # GRPCRoute
                if method.get("service") and method.get("method"):
                    found.append(Operation("", _checked(f"/{method['service']}/{method['method']}")))
            elif isinstance(path, Mapping) and path.get("type", "PathPrefix") in {"Exact", "PathPrefix"}:
                value = str(path.get("value") or "/")
                wanted = str(method) if method else ""
                # what lies below a prefix is routed there, which says nothing about what is needed of it
                found.append(Operation(wanted, _checked(value)))
    return found


def _proto(text: str) -> list[Operation]:
    bare = _COMMENT.sub(" ", text)
    package = _PACKAGE.search(bare)
    prefix = f"{package[1]}." if package else ""
    found = []
    for match in _SERVICE.finditer(bare):
        depth, end = 1, match.end()
        while depth and end < len(bare):
            depth += {"{": 1, "}": -1}.get(bare[end], 0)
            end += 1
        found += [
            Operation("", _checked(f"/{prefix}{match[1]}/{rpc}")) for rpc in _RPC.findall(bare[match.end() : end])
        ]
    if not found:
        raise SpecError("it declares no service")
    return found


def _checked(template: str) -> str:
    try:
        PathPattern.parse(template)
    except PatternError as err:
        raise SpecError(f"`{template}` is no path template here: {err}") from err
    return template
