"""The documents of another system, each with its place, and what became of it.

A file holds YAML documents, JSON included, read as strictly as Limen's own files; a `List` is its items. Every
document gets a line in the report: translated, stricter, refused, without effect or not read. Nothing is dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from mesh.problems import Diagnostic, Severity
from mesh.yamlio import Node, compose_documents

Status = Literal["translated", "stricter", "refused", "malformed", "no effect", "not read"]
REFUSED, STRICTER, ASSUMED, WITHOUT_EFFECT = "LM2500", "LM2501", "LM2502", "LM2503"
NOT_READ, MALFORMED = "LM2504", "LM2505"


class Malformed(Exception):  # noqa: N818  not an error of the program: the document is refused whole
    """A document is not what its kind says; the finding is with the document."""


@dataclasses.dataclass(slots=True, eq=False)
class Document:
    """One document. ``findings`` grow while it is translated."""

    kind: str
    name: str
    namespace: str
    node: Node
    findings: list[Diagnostic] = dataclasses.field(default_factory=list)

    def note(self, code: str, what: str, reason: str, node: Node | None = None) -> None:
        """Note what became of a part of the document, once."""
        facts: dict[str, object] = {"kind": self.kind, "name": self.name, "what": what, "reason": reason}
        item = Diagnostic(code=code, span=(node or self.node).span, facts=facts)
        if item not in self.findings:
            self.findings.append(item)

    def malformed(self, field: str, expected: str, node: Node | None = None) -> Malformed:
        """A finding that refuses the document, to be raised."""
        facts: dict[str, object] = {"kind": self.kind, "name": self.name, "field": field, "expected": expected}
        self.findings.append(Diagnostic(code=MALFORMED, span=(node or self.node).span, facts=facts))
        return Malformed(field)

    @property
    def status(self) -> Status:
        """What became of the document: the worst of its findings."""
        codes = {item.code for item in self.findings}
        for code, status in (
            (MALFORMED, "malformed"),
            (NOT_READ, "not read"),
            (REFUSED, "refused"),
            (STRICTER, "stricter"),
            (WITHOUT_EFFECT, "no effect"),
        ):
            if code in codes:
                return status  # type: ignore[return-value]  # the words of Status
        return "translated"

    # ------------------------------------------------------------------ reading

    def child(self, node: Node, field: str) -> Node | None:
        """A field that is there and not null."""
        if node.kind != "map":
            raise self.malformed(field, "in a mapping", node)
        found = node.get(field)
        return None if found is None or found.kind == "null" else found

    def items(self, node: Node, field: str) -> tuple[Node, ...] | None:
        """The items of a list; None when the field is not there."""
        found = self.child(node, field)
        if found is None:
            return None
        if found.kind != "list":
            raise self.malformed(field, "a list", found)
        return found.items

    def texts(self, node: Node, field: str) -> tuple[str, ...] | None:
        """The texts of a list; None when the field is not there or the list is empty, which says nothing."""
        found = self.items(node, field)
        if found is None:
            return None
        for item in found:
            if item.kind not in {"text", "int", "bool"} or item.scalar == "":
                raise self.malformed(field, "a list of texts", item)
        return tuple(_text(item) for item in found) or None

    def text(self, node: Node, field: str, default: str = "") -> str:
        """A text."""
        found = self.child(node, field)
        if found is None:
            return default
        if found.kind not in {"text", "int", "bool"}:
            raise self.malformed(field, "a text", found)
        return _text(found)

    def labels(self, node: Node | None, field: str) -> dict[str, str]:
        """A mapping of texts."""
        found = self.child(node, field) if node is not None else None
        if found is None:
            return {}
        if found.kind != "map" or any(value.kind not in {"text", "int", "bool"} for _, value in found.pairs):
            raise self.malformed(field, "a mapping of texts", found)
        return {str(key.scalar): _text(value) for key, value in found.pairs}

    def only(self, node: Node, fields: Iterable[str]) -> None:
        """Refuse fields that are not known: what cannot be read cannot be kept."""
        known = tuple(fields)
        if node.kind != "map":
            raise self.malformed("spec", "a mapping", node)
        for key, _ in node.pairs:
            if key.scalar not in known:
                raise self.malformed(str(key.scalar), f"one of {', '.join(known)}", key)


def _text(node: Node) -> str:
    if isinstance(node.scalar, bool):
        return "true" if node.scalar else "false"
    return str(node.scalar)


def read_documents(files: Sequence[tuple[str, str]]) -> tuple[list[Document], list[Diagnostic]]:
    """The documents of files, given by name and text, and what could not be read at all."""
    documents: list[Document] = []
    findings: list[Diagnostic] = []
    for file, text in files:
        nodes, found = compose_documents(text, file, foreign=True)
        findings.extend(found)
        for node in nodes:
            documents.extend(_documents(node))
    return documents, findings


def _documents(node: Node) -> list[Document]:
    if node.kind == "null":
        return []
    kind = _scalar(node, "kind") or _scalar(node, "Kind") or "document"
    items = node.get("items") if node.kind == "map" else None
    if kind.endswith("List") and items is not None and items.kind == "list":
        return [found for item in items.items for found in _documents(item)]
    head = node.get("metadata") if node.kind == "map" else None
    name = _scalar(head, "name") or _scalar(node, "Name") or "?"
    namespace = _scalar(head, "namespace") or _scalar(node, "Namespace") or "default"
    return [Document(kind, name, namespace, node)]


def _scalar(node: Node | None, field: str) -> str:
    found = node.get(field) if node is not None and node.kind == "map" else None
    return found.scalar if found is not None and isinstance(found.scalar, str) else ""


def spec_of(document: Document) -> Node:
    """The spec of a document; one that is missing or null is an empty mapping."""
    found = document.child(document.node, "spec")
    if found is None:
        return Node(kind="map", span=document.node.span)
    if found.kind != "map":
        raise document.malformed("spec", "a mapping", found)
    return found


def has_errors(documents: Iterable[Document]) -> bool:
    """Whether something was refused."""
    return any(item.severity is Severity.ERROR for document in documents for item in document.findings)


def report_json(documents: Sequence[Document]) -> list[Mapping[str, object]]:
    """One object for each document: where it stood and what became of it."""
    return [
        {
            "file": item.node.span.file,
            "line": item.node.span.line,
            "kind": item.kind,
            "namespace": item.namespace,
            "name": item.name,
            "status": item.status,
            "findings": list(item.findings),
        }
        for item in documents
    ]
