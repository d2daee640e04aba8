"""From a directory of YAML files to a policy set, with every finding at its file, line and column.

A policy tree is read as a whole: nothing is guessed, nothing is skipped in silence, and all findings come at once.
Where a finding is an error, the set lacks what it is about and must not be used. Meaning is checked here; wisdom is
the business of `policyengine.lint`.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable

from mesh.problems import Diagnostic, Invalid, Severity, Span
from mesh.uncollected import uncollected
from mesh.yamlio import Node, compose_documents
from policyengine import model
from policyengine.consistency import Checked, check
from policyengine.issuer import Issuer
from policyengine.issuerreading import read_issuer
from policyengine.reading import MISSING, Finding, Path, Reader, did_you_mean
from policyengine.suite import PolicyTest, check_tests
from policyengine.suitereading import read_test
from policyengine.suppressreading import Suppressed, read_suppressions
from policyengine.treefiles import MAX_TREE_BYTES, TreeFile, read_files

API_VERSION = "limen.dev/v1"
_KINDS = {
    "Service": "services",
    "Policy": "policies",
    "Group": "groups",
    "Invariant": "invariants",
    "Exception": "exceptions",
    "Issuer": "issuers",
    "PolicyTest": "tests",
}
_LATER_KINDS = {"TrafficRoute": "the Envoy data plane"}
_UNKNOWN_NAME = {"LM2032": ("service", "services"), "LM2033": ("group", "groups"), "LM2703": ("service", "services")}


@dataclasses.dataclass(frozen=True, slots=True)
class _Document:
    """One document of a known kind: its file and tree, and where the rules that were kept stood."""

    file: str
    node: Node
    name: str
    positions: tuple[int, ...]


_Read = tuple[str, _Document, object]
"""What a document was read as: its kind, itself, and the object that it says."""


class KeptFiles:
    """What files without a finding said, by their text, for who reads trees that have most files in common.

    A text that stood in a file of another name says the same at other places. Nothing of a file with findings, or of
    one that suppresses some, is kept, so that all of them are found each time.
    """

    def __init__(self) -> None:
        self.checked = Checked()
        """The policies that fitted together in the tree before: what did not change is not checked again."""
        self._read: dict[str, tuple[_Read, ...]] = {}
        self._size = 0

    def get(self, text: str, file: str) -> tuple[_Read, ...] | None:
        """What a text says where it stands in ``file``; None when it has to be read."""
        found = self._read.get(text)
        if found is None or all(document.file == file for _, document, _ in found):
            return found
        return tuple(
            (kind, moved := dataclasses.replace(document, file=file), _with_places(said, moved))
            for kind, document, said in found
        )

    def put(self, text: str, found: tuple[_Read, ...]) -> None:
        """Keep what a text says; more than one tree may have, and all is forgotten first."""
        if self._size + len(text) > MAX_TREE_BYTES:
            self._read.clear()
            self._size = 0
        self._read[text] = found
        self._size += len(text)


class _Tree:
    """What has been read of a policy tree so far."""

    def __init__(self) -> None:
        self.diagnostics: list[Diagnostic] = []
        self.documents: dict[str, list[_Document]] = {kind: [] for kind in _KINDS.values()}
        self.objects: dict[str, list[object]] = {kind: [] for kind in _KINDS.values()}
        self.declared: dict[str, set[str]] = {kind: set() for kind in _KINDS.values()}
        self.modules: list[model.RegoModule] = []
        self.suppressions: list[model.Suppression] = []
        self.folder: pathlib.Path | None = None
        self.count = 0

    def add(self, kind: str, document: _Document, found: object) -> None:
        """An object of a document that could be read."""
        self.documents[kind].append(document)
        self.objects[kind].append(found)


def load_tree(path: pathlib.Path | str, kept: KeptFiles | None = None) -> tuple[model.PolicySet, list[Diagnostic]]:
    """Read a policy tree: a directory with all `.yaml` and `.yml` files below it, or one file.

    1. Every file is read as strict YAML; every document has a known kind and only known fields.
    2. Every object that can be read is kept, and what cannot is among the findings.
    3. Names, ports and identities fit together across the whole tree, and tests speak of what is in it.

    Findings are sorted by place. Nothing is raised: an unreadable file is a finding. Files that were read into ``kept``
    are not read again.
    """
    policies, _, found = load_tested_tree(path, kept)
    return policies, found


def load_tested_tree(
    path: pathlib.Path | str, kept: KeptFiles | None = None
) -> tuple[model.PolicySet, tuple[PolicyTest, ...], list[Diagnostic]]:
    """Read a policy tree as `load_tree` does, with the tests that stand beside the policies."""
    return read_tree(pathlib.Path(path), *read_files(pathlib.Path(path)), kept=kept)


def read_tree(
    root: pathlib.Path,
    files: Iterable[TreeFile],
    unread: Iterable[Diagnostic] = (),
    *,
    kept: KeptFiles | None = None,
) -> tuple[model.PolicySet, tuple[PolicyTest, ...], list[Diagnostic]]:
    """Read the files of a tree that are in memory already; ``unread`` are the findings of reading them from disk."""
    tree = _Tree()
    kept = KeptFiles() if kept is None else kept
    tree.folder = root if root.is_dir() else None
    # (1), (2)
    tree.diagnostics.extend(unread)
    with uncollected():
        for file in files:
            if file.is_module:
                tree.modules.append(model.RegoModule(file.inside, file.text))
                continue
            _add_text(file.text, str(file.path), tree, kept)
        if not tree.count and not tree.diagnostics:
            tree.diagnostics.append(Diagnostic(code="LM2023", facts={"path": str(root)}))
        return _checked(tree, kept)


def load_text(text: str, file: str) -> tuple[model.PolicySet, list[Diagnostic]]:
    """Read the documents of one file that is already in memory, as `load_tree` would."""
    tree = _Tree()
    kept = KeptFiles()
    _add_text(text, file, tree, kept)
    policies, _, findings = _checked(tree, kept)
    return policies, findings


def _checked(tree: _Tree, kept: KeptFiles) -> tuple[model.PolicySet, tuple[PolicyTest, ...], list[Diagnostic]]:
    """Step 3 of `load_tree`."""
    policies = _policy_set(tree)
    tests = tuple(item for item in tree.objects["tests"] if isinstance(item, PolicyTest))
    for finding in (*check(policies, kept.checked), *check_tests(policies, tests)):
        if not _is_consequence(finding, tree):
            tree.diagnostics.append(_placed(finding, tree))
    return policies, tests, sorted(tree.diagnostics, key=_by_place)


def require_tree(path: pathlib.Path | str) -> tuple[model.PolicySet, list[Diagnostic]]:
    """Read a policy tree that has to be usable; returns it with its warnings.

    Raises Invalid (LM2203) when a finding is an error; the findings are its fact `findings`.
    """
    policies, found = load_tree(path)
    errors = [item for item in found if item.severity is Severity.ERROR]
    if errors:
        count = f"{len(errors)} error{'s' if len(errors) > 1 else ''}"
        raise Invalid("LM2203", path=str(path), count=count, findings=tuple(found))
    return policies, found


def _by_place(item: Diagnostic) -> tuple[str, int, int, str]:
    span = item.span
    return (span.file, span.line, span.column, item.code) if span else ("", 0, 0, item.code)


def _add_text(text: str, file: str, tree: _Tree, kept: KeptFiles) -> None:
    """Read the documents of a file into the tree.

    What stands between two separators and is empty is no document. A value that is refused as YAML is not refused for
    its meaning as well.
    """
    known = kept.get(text, file)
    if known is not None:
        tree.count += len(known)
        for kind, document, said in known:
            tree.declared[kind].add(document.name)
            tree.add(kind, document, said)
        return
    nodes, found = compose_documents(text, file)
    before, suppressed = len(tree.diagnostics), len(tree.suppressions)
    begins = {kind: len(documents) for kind, documents in tree.documents.items()}
    for place, node in enumerate(nodes):
        if node.kind != "null":
            _add_document(node, tree, nodes[place + 1].span if place + 1 < len(nodes) else None)
    refused = {item.span for item in found}
    tree.diagnostics[before:] = [item for item in tree.diagnostics[before:] if item.span not in refused]
    tree.diagnostics.extend(found)
    if (before, suppressed) == (len(tree.diagnostics), len(tree.suppressions)):
        read = (
            (kind, tree.documents[kind][place], tree.objects[kind][place])
            for kind, begin in begins.items()
            for place in range(begin, len(tree.documents[kind]))
        )
        kept.put(text, tuple(read))


def _add_document(node: Node, tree: _Tree, following: Span | None) -> None:
    """Read one document into the tree; ``following`` is where the next one of its file begins."""
    tree.count += 1
    reader = Reader()
    fields = reader.mapping(node.plain(), (), ("apiVersion", "kind", "metadata", "spec"))
    kind = _kind(fields, reader) if fields is not None else None
    if fields is None or kind is None:
        tree.diagnostics.extend(_finding(item, node) for item in reader.findings)
        return
    head = reader.mapping(fields["metadata"], ("metadata",), ("name",), ("owner", "suppress"))
    name = reader.name(head["name"], ("metadata", "name")) if head is not None else None
    owner = reader.text(head.get("owner", ""), ("metadata", "owner")) if head is not None else ""
    accepted: tuple[Suppressed, ...] = ()
    if head is not None and "suppress" in head:
        accepted = read_suppressions(reader, head["suppress"], ("metadata", "suppress"))
    if name is not None:
        tree.declared[kind].add(name)
    found = _READERS[kind](reader, name or "?", owner or "", fields["spec"])
    tree.diagnostics.extend(_finding(item, node) for item in reader.findings)
    if found is not None and name is not None:
        positions = tuple(reader.positions.get(name, ()))
        tree.suppressions.extend(_suppression(item, found, positions, node, following) for item in accepted)
        document = _Document(node.span.file, node, name, positions)
        tree.add(kind, document, _with_places(found, document))


def _kind(fields: object, reader: Reader) -> str | None:
    """The field of the policy set for a document's kind."""
    assert isinstance(fields, dict), "a mapping was read"
    version, kind = fields["apiVersion"], fields["kind"]
    known = ", ".join(_KINDS)
    if version is not MISSING and version != API_VERSION:
        reader.refuse(("apiVersion",), "LM2000", known=known, value=version, hint="")
    if kind is MISSING:
        return None
    if isinstance(kind, str) and kind in _LATER_KINDS:
        reader.refuse(("kind",), "LM2050", kind=kind, part=_LATER_KINDS[kind])
        return None
    if not isinstance(kind, str) or kind not in _KINDS:
        hint = did_you_mean(kind, _KINDS) if isinstance(kind, str) else ""
        reader.refuse(("kind",), "LM2000", known=known, value=kind, hint=hint)
        return None
    return _KINDS[kind] if version == API_VERSION else None


_READERS: dict[str, Callable[[Reader, str, str, object], object]] = {
    "services": lambda reader, name, owner, spec: reader.service(name, owner, spec, ("spec",)),
    "policies": lambda reader, name, owner, spec: reader.policy(name, owner, spec, ("spec",)),
    "groups": lambda reader, name, owner, spec: reader.group(name, owner, spec, ("spec",)),
    "invariants": lambda reader, name, owner, spec: reader.invariant(name, owner, spec, ("spec",)),
    "exceptions": lambda reader, name, owner, spec: reader.exception(name, owner, spec, ("spec",)),
    "issuers": lambda reader, name, owner, spec: read_issuer(reader, name, owner, spec, ("spec",)),
    "tests": lambda reader, name, owner, spec: read_test(reader, name, owner, spec, ("spec",)),
}


def _with_places(found: object, document: _Document) -> object:
    """An object, and the rules in it, with their places."""
    span = _span(document.node, ("metadata", "name"))._replace(file=document.file)
    if isinstance(found, model.Policy):
        rules = tuple(
            dataclasses.replace(rule, span=_span(document.node, ("spec", "rules", place))._replace(file=document.file))
            for rule, place in zip(found.rules, document.positions, strict=True)
        )
        return dataclasses.replace(found, rules=rules, span=span)
    if isinstance(found, PolicyTest):
        cases = tuple(
            dataclasses.replace(case, span=_span(document.node, ("spec", "cases", place))._replace(file=document.file))
            for place, case in enumerate(found.cases)
        )
        return dataclasses.replace(found, cases=cases, span=span)
    assert isinstance(found, model.Service | model.Group | model.Invariant | model.ExceptionGrant | Issuer)
    return dataclasses.replace(found, span=span)


def _policy_set(tree: _Tree) -> model.PolicySet:
    objects = tree.objects
    return model.PolicySet(
        services=tuple(item for item in objects["services"] if isinstance(item, model.Service)),
        policies=tuple(item for item in objects["policies"] if isinstance(item, model.Policy)),
        groups=tuple(item for item in objects["groups"] if isinstance(item, model.Group)),
        invariants=tuple(item for item in objects["invariants"] if isinstance(item, model.Invariant)),
        exceptions=tuple(item for item in objects["exceptions"] if isinstance(item, model.ExceptionGrant)),
        rego=tuple(tree.modules),
        issuers=tuple(item for item in objects["issuers"] if isinstance(item, Issuer)),
        suppressions=tuple(tree.suppressions),
    )


def _suppression(
    item: Suppressed, found: object, positions: tuple[int, ...], node: Node, following: Span | None
) -> model.Suppression:
    """A suppression with what it speaks of: the document, or one rule of it; of a rule that is not there, nothing."""
    begin, end = node.span, following
    if item.rule is not None:
        rules = found.rules if isinstance(found, model.Policy) else ()
        place = next((at for rule, at in zip(rules, positions, strict=False) if rule.id == item.rule), None)
        if place is None:
            begin = end = _span(node, item.path)
        else:
            begin = _span(node, ("spec", "rules", place))
            after = _span(node, ("spec", "rules", place + 1))
            end = after if (after.line, after.column) > (begin.line, begin.column) else following
    return model.Suppression(
        code=item.code,
        reason=item.reason,
        until=item.until,
        rule=item.rule,
        span=_span(node, item.path),
        extent=((begin.line, begin.column), None if end is None else (end.line, end.column)),
    )


def _is_consequence(finding: Finding, tree: _Tree) -> bool:
    """Whether a name is missing only because the document that defines it has findings of its own."""
    if finding.code not in _UNKNOWN_NAME:
        return False
    fact, kind = _UNKNOWN_NAME[finding.code]
    return finding.facts[fact] in tree.declared[kind]


def _placed(finding: Finding, tree: _Tree) -> Diagnostic:
    """A finding about the whole set at its place in a document."""
    kind, place, *rest = finding.path
    assert isinstance(kind, str), "findings about a set begin with a kind"
    assert isinstance(place, int), "and with a position"
    if kind == "rego":
        module = tree.modules[min(place, len(tree.modules) - 1)]
        facts = dict(finding.facts)
        span = Span(file=str((tree.folder or pathlib.Path()) / module.path), line=int(str(facts.pop("line"))), column=1)
        return Diagnostic(code=finding.code, span=span, facts=facts)
    document = tree.documents[kind][place]
    if rest and rest[0] == "rules" and isinstance(rest[1], int):
        rest[1] = document.positions[rest[1]]
    path: Path = ("spec", *rest) if rest else ("metadata", "name")
    placed = _finding(dataclasses.replace(finding, path=path), document.node)
    assert placed.span is not None, "a document has a place"
    return dataclasses.replace(placed, span=placed.span._replace(file=document.file))


def _finding(finding: Finding, node: Node) -> Diagnostic:
    """A finding at its place in a document."""
    span = _span(node, finding.path, at_key=finding.code == "LM2002")
    return Diagnostic(code=finding.code, span=span, facts=dict(finding.facts))


def _span(node: Node, path: Path, *, at_key: bool = False) -> Span:
    """The place of what a path leads to, or of the last part of it that is there."""
    span = node.span
    for depth, part in enumerate(path):
        if isinstance(part, int):
            following = node.items[part] if node.kind == "list" and part < len(node.items) else None
        else:
            following = node.get(part) if node.kind == "map" else None
            if at_key and depth == len(path) - 1:
                return next((key.span for key, _ in node.pairs if key.scalar == part), span)
        if following is None:
            return span
        node, span = following, following.span
    return span
