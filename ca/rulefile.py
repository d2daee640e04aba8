"""Reads `identities.yaml`: strict, with every finding at its line and column, all of them at once."""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import itertools
import re
from collections.abc import Iterator

from ca.registration import DEFAULT_TTL, DIGESTS, TEMPLATE, IdentityRule, RuleSet, Selector, is_host_name, is_reserved
from ca.ruleblocks import divide, redivide
from ca.rulelayers import RuleLayers
from mesh.interpreters import is_interpreter_name
from mesh.problems import Diagnostic, Severity, Span
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain
from mesh.yamlio import Node, compose_documents

_FIELDS = ("id", "match", "spiffe_id", "ttl", "dns_names", "hint", "direct", "admin", "federates_with")
_NEEDED = frozenset({"id", "match", "spiffe_id"})
_NAMES = (
    *(f"unix:{name}" for name in ("uid", "user", "gid", "group", "path", "basename", "sha256")),
    "unix:supplementary-gid",
    "unix:supplementary-group",
    *(f"launch:{name}" for name in ("path", "sha256", "script", "script_sha256", "script_basename")),
    "systemd:unit",
    "cgroup:path",
    "k8s:ns",
    "k8s:sa",
    "k8s:pod-uid",
    "k8s:pod-name",
    "k8s:container-name",
    "docker:id",
    "docker:image",
    "docker:image-digest",
    "node:id",
)
_FAMILIES = ("k8s:pod-label:", "docker:label:", "node:")
_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_IMAGE_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z|sha512:[0-9a-f]{128}\Z")
_TTL = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)\Z")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MIN_TTL, MAX_TTL = dt.timedelta(seconds=60), dt.timedelta(days=30)
MAX_HINT_BYTES = 1024
# 100,000 rules of some 200 bytes each, twice over
MAX_FILE_BYTES = 40 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Some rules of a file, read from a text; ``line`` is where that stood when it was read."""

    text: str
    line: int
    rules: tuple[IdentityRule, ...]
    findings: tuple[Diagnostic, ...]
    is_whole: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A file that was read: its rules, every finding, and those that reading it before had not.

    ``parts`` begin at ``begins``; there are none when it was not read in parts.
    """

    text: str
    rules: RuleSet
    findings: list[Diagnostic]
    news: list[Diagnostic]
    parts: tuple[Part, ...] = ()
    begins: tuple[int, ...] = ()


def load_rules(text: str, file: str) -> tuple[RuleSet, list[Diagnostic]]:
    """Read the rules of a file.

    Returns what could be read and every finding; a rule set with an error among its findings must not be used.
    """
    loaded = read_rules(text, file)
    return loaded.rules, loaded.findings


def read_rules(text: str, file: str, before: Loaded | None = None) -> Loaded:
    """Read the rules of a file; what stands in it as it did before is not read again.

    1. The file is divided between its rules, and EVERY part read as a file of its own (`ca.ruleblocks`).
    2. A file that cannot be read so is read as a whole. When that is too much at once, what is wrong with its parts
       says more.
    3. Over all of them: no id stands twice, and no rules tie.
    """
    # (1)
    parts = [] if len(text) > MAX_FILE_BYTES else _divided(text, file, before)
    is_kept = bool(parts) and all(part.is_whole for part in parts)
    # (2)
    if not is_kept:
        whole = _read_whole(text, file)
        if not parts or not any(item.code == "LM5108" for item in whole.findings):
            parts = [whole]
    lines = [*itertools.accumulate((part.text.count("\n") + 1 for part in parts), initial=1)]
    begins = [*itertools.accumulate((len(part.text) + 1 for part in parts), initial=0)]
    if len(parts) > 1 or is_kept:
        head = len(text) - begins[-1] + 1
        first = text.count("\n", 0, head)
        lines, begins = [line + first for line in lines], [begin + head for begin in begins]
    shifts = [line - part.line for line, part in zip(lines, parts, strict=False)]
    found = [_moved(item, shift) for part, shift in zip(parts, shifts, strict=True) for item in part.findings]
    old = {id(part) for part in before.parts} if before is not None else set()
    news = [item for part in parts if id(part) not in old for item in part.findings]
    # (3)
    rules = tuple(itertools.chain.from_iterable(part.rules for part in parts))
    layers = _layers(rules, parts, before)
    result = RuleSet(rules=rules) if layers is None else RuleSet(rules=rules, layers=layers)
    over_all = [*(_twice(rules) if layers is None else ()), *result.conflicts()]
    if over_all:
        over_all = _placed(over_all, parts, shifts)
        found.extend(over_all)
        news.extend(over_all)
    return Loaded(
        text=text,
        rules=result,
        findings=sorted(found, key=_place),
        news=news,
        parts=tuple(parts) if is_kept else (),
        begins=tuple(begins[:-1]) if is_kept else (),
    )


def _divided(text: str, file: str, before: Loaded | None) -> list[Part]:
    """Step 1 of `read_rules`: the parts that are there still, and the others read."""
    same = redivide(text, before.text, before.begins) if before is not None and before.parts else None
    first: tuple[Part, ...] = ()
    last: tuple[Part, ...] = ()
    if same is not None:
        assert before is not None
        between = same[2]
        first, last = before.parts[: same[0]], before.parts[len(before.parts) - same[1] :]
    else:
        between = [*divide(text)]
    if not between:
        return [*first, *last]
    rest = before.parts[len(first) : len(before.parts) - len(last)] if before is not None else ()
    # each at most once: a rule stands where its part stands
    known: dict[str, Part | None] = {part.text: part for part in rest}
    line, at, made = 1, 0, []
    for content, count, begin in between:
        line += text.count("\n", at, begin)
        at = begin
        made.append(known.pop(content, None) or _read_part(content, file, count, line))
    return [*first, *made, *last]


def _layers(rules: tuple[IdentityRule, ...], parts: list[Part], before: Loaded | None) -> RuleLayers | None:
    """The rules over those from before, when few parts are others; None when they have to be looked at all."""
    if before is None or not before.parts or any(item.code == "LM1222" for item in before.findings):
        return None
    old, new = {id(part) for part in before.parts}, {id(part) for part in parts}
    if len(new) < len(parts):
        return None
    return before.rules.layers.after(
        rules,
        removed=[rule for part in before.parts if id(part) not in new for rule in part.rules],
        added=[rule for part in parts if id(part) not in old for rule in part.rules],
    )


def _read_part(content: str, file: str, count: int, line: int) -> Part:
    documents, found = compose_documents(f"rules:\n{content}\n", file)
    listed = [node for document in documents for node in _rules_of(document, found)]
    is_whole = not found and len(documents) == 1 and len(listed) == count
    rules = _read_listed(listed, found)
    # a part has a line before its first
    delta = line - 2
    return Part(
        text=content,
        line=line,
        rules=tuple(dataclasses.replace(rule, span=_shifted(rule.span, delta)) for rule in rules),
        findings=tuple(_moved(item, delta) for item in found),
        is_whole=is_whole,
    )


def _read_whole(text: str, file: str) -> Part:
    documents, found = compose_documents(text, file, limit=MAX_FILE_BYTES)
    rules = _read_listed([node for document in documents for node in _rules_of(document, found)], found)
    return Part(text=text, line=1, rules=tuple(rules), findings=tuple(found), is_whole=False)


def _read_listed(listed: list[Node], found: list[Diagnostic]) -> list[IdentityRule]:
    rules = [rule for rule in (_rule(node, found) for node in listed) if rule is not None]
    for rule in rules:
        found.extend(_lint(rule))
    return rules


def _twice(rules: tuple[IdentityRule, ...]) -> Iterator[Diagnostic]:
    seen: dict[str, Span | None] = {}
    for rule in rules:
        if rule.id in seen:
            yield _finding("LM1222", rule.span, rule=rule.id, at=seen[rule.id])
        seen.setdefault(rule.id, rule.span)


def _placed(found: list[Diagnostic], parts: list[Part], shifts: list[int]) -> list[Diagnostic]:
    """Findings about rules, at the lines where these stand now; a rule knows where it stood when it was read."""
    known = {id(rule.span): shift for part, shift in zip(parts, shifts, strict=True) for rule in part.rules}
    placed = []
    for item in found:
        at = item.facts.get("at")
        if isinstance(at, Span):
            # where the other one stands, as people read it
            shown = str(_shifted(at, known.get(id(at), 0)))
            item = dataclasses.replace(item, facts={**item.facts, "at": shown})  # noqa: PLW2901  the same finding
        placed.append(_moved(item, known.get(id(item.span), 0)))
    return placed


def _moved(item: Diagnostic, delta: int) -> Diagnostic:
    return dataclasses.replace(item, span=_shifted(item.span, delta)) if delta and item.span is not None else item


def _shifted(span: Span | None, delta: int) -> Span | None:
    return None if span is None else span._replace(line=span.line + delta)


def _lint(rule: IdentityRule) -> Iterator[Diagnostic]:
    """What is allowed and ought to be seen."""
    if rule.is_container_bound:
        yield _finding("LM1227", rule.span, rule=rule.id)
    if rule.admin:
        yield _finding("LM1216", rule.span, rule=rule.id, spiffe_id=rule.spiffe_id)
    for selector in rule.match:
        name = selector.value.rsplit("/", 1)[-1]
        if selector.name in {"unix:path", "unix:basename"} and is_interpreter_name(name):
            yield _finding("LM1218", rule.span, rule=rule.id, program=name)


def has_errors(found: list[Diagnostic]) -> bool:
    """Whether a finding forbids using the rules."""
    return any(item.severity is Severity.ERROR for item in found)


def _place(item: Diagnostic) -> tuple[int, int]:
    return (item.span.line, item.span.column) if item.span else (0, 0)


def _finding(code: str, span: Span | None, **facts: object) -> Diagnostic:
    return Diagnostic(code=code, span=span, facts=facts)


def _rules_of(document: Node, found: list[Diagnostic]) -> tuple[Node, ...]:
    if document.kind != "map":
        found.append(_finding("LM1220", document.span, what="the file", kind="a map with `rules`"))
        return ()
    for key, _ in document.pairs:
        if key.scalar != "rules":
            found.append(_unknown(key, ("rules",)))
    rules = document.get("rules")
    if rules is None or rules.kind == "null":
        return ()
    if rules.kind != "list":
        found.append(_finding("LM1220", rules.span, what="`rules`", kind="a list"))
        return ()
    return rules.items


def _unknown(key: Node, known: tuple[str, ...]) -> Diagnostic:
    near = difflib.get_close_matches(str(key.scalar), known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "known are " + ", ".join(known)
    return _finding("LM1221", key.span, given=key.scalar, hint=hint)


def _rule(node: Node, found: list[Diagnostic]) -> IdentityRule | None:
    if node.kind != "map":
        found.append(_finding("LM1220", node.span, what="a rule", kind="a map"))
        return None
    before = len(found)
    has = {key.scalar for key, _ in node.pairs}
    found.extend(_unknown(key, _FIELDS) for key, _ in node.pairs if key.scalar not in _FIELDS)
    found.extend(_finding("LM1223", node.span, field=name) for name in ("id", "match", "spiffe_id") if name not in has)
    rule_id = _text(node, "id", found)
    if rule_id is not None and not _ID.match(rule_id):
        found.append(_finding("LM1224", _span(node, "id"), field="id", reason="letters, digits, `.`, `-`, `_`"))
    match = _match(node.get("match"), found)
    names = {selector.name for selector in match}
    spiffe_id = _template(node, names, found)
    if has <= _NEEDED:
        # nothing else was said
        if len(found) > before or rule_id is None or spiffe_id is None:
            return None
        return IdentityRule(id=rule_id, match=match, spiffe_id=spiffe_id, span=node.span)
    ttl = _ttl(node, found)
    dns_names = _texts(node, "dns_names", found)
    for name, place in dns_names:
        found.extend(_unknown_facts(name, place, names))
        if not is_host_name(TEMPLATE.sub("x", name)):
            found.append(_finding("LM1224", place, field="dns_names", reason=f"lower-case host names: `{name}`"))
    hint = _text(node, "hint", found) or ""
    if len(hint.encode()) > MAX_HINT_BYTES:
        found.append(_finding("LM1224", _span(node, "hint"), field="hint", reason="at most 1024 bytes"))
    is_direct, is_admin = _flag(node, "direct", found), _flag(node, "admin", found)
    if is_admin and spiffe_id is not None and TEMPLATE.search(spiffe_id):
        found.append(_finding("LM1217", _span(node, "admin"), rule=rule_id, spiffe_id=spiffe_id))
    federates_with = _domains(node, found)
    if len(found) > before or rule_id is None or spiffe_id is None:
        return None
    return IdentityRule(
        id=rule_id,
        match=match,
        spiffe_id=spiffe_id,
        ttl=ttl,
        dns_names=tuple(name for name, _ in dns_names),
        hint=hint,
        direct=is_direct,
        admin=is_admin,
        federates_with=federates_with,
        span=node.span,
    )


def _span(node: Node, name: str) -> Span:
    found = node.get(name)
    return found.span if found is not None else node.span


def _text(node: Node, name: str, found: list[Diagnostic]) -> str | None:
    value = node.get(name)
    if value is None:
        return None
    if value.kind != "text":
        found.append(_finding("LM1224", value.span, field=name, reason="text"))
        return None
    return str(value.scalar)


def _flag(node: Node, name: str, found: list[Diagnostic]) -> bool:
    value = node.get(name)
    if value is not None and value.kind != "bool":
        found.append(_finding("LM1224", value.span, field=name, reason="true or false"))
    return value is not None and value.scalar is True


def _texts(node: Node, name: str, found: list[Diagnostic]) -> tuple[tuple[str, Span], ...]:
    value = node.get(name)
    if value is None:
        return ()
    if value.kind != "list" or not value.items or any(item.kind != "text" for item in value.items):
        found.append(_finding("LM1224", value.span, field=name, reason="a list of texts that is not empty"))
        return ()
    return tuple((str(item.scalar), item.span) for item in value.items)


def _match(node: Node | None, found: list[Diagnostic]) -> tuple[Selector, ...]:
    if node is None:
        return ()
    if node.kind != "map" or not node.pairs:
        found.append(_finding("LM1224", node.span, field="match", reason="a map of selectors that is not empty"))
        return ()
    selectors = []
    for key, value in node.pairs:
        name = str(key.scalar)
        if name not in _NAMES and not any(name.startswith(family) and len(name) > len(family) for family in _FAMILIES):
            found.append(_unknown(key, _NAMES))
        elif value.kind not in {"text", "int"} or value.scalar == "":
            found.append(_finding("LM1224", value.span, field=name, reason="text, exact or with `*` at the end"))
        else:
            text = str(value.scalar)
            if "*" in text[:-1]:
                found.append(_finding("LM1224", value.span, field=name, reason="`*` only at the end"))
            if name in DIGESTS and not _DIGEST.match(text):
                found.append(_finding("LM1224", value.span, field=name, reason="64 lower-case hexadecimal digits"))
            if name == "docker:image-digest" and not _IMAGE_DIGEST.match(text):
                found.append(_finding("LM1224", value.span, field=name, reason="`sha256:` and 64 hexadecimal digits"))
            selectors.append(Selector.parse(name, text))
    return tuple(sorted(selectors, key=lambda selector: selector.name))


def _template(node: Node, selectors: set[str], found: list[Diagnostic]) -> str | None:
    text = _text(node, "spiffe_id", found)
    if text is None:
        return None
    place = _span(node, "spiffe_id")
    if not text.startswith("/"):
        found.append(_finding("LM1224", place, field="spiffe_id", reason="a path that begins with `/`"))
        return None
    found.extend(_unknown_facts(text, place, selectors))
    try:
        SpiffeId.parse("spiffe://td" + TEMPLATE.sub("x", text))
    except SpiffeIdError as err:
        found.append(_finding("LM1226", place, given=text, reason=str(err)))
        return None
    if is_reserved(text):
        rule = node.get("id")
        found.append(_finding("LM1231", place, rule=rule.scalar if rule else "", spiffe_id=text))
    return text


def _unknown_facts(text: str, place: Span, selectors: set[str]) -> Iterator[Diagnostic]:
    """A finding for every name between braces that no attestor ever gives."""
    for name in TEMPLATE.findall(text):
        if name not in _NAMES and not name.startswith(_FAMILIES):
            near = difflib.get_close_matches(name, [*selectors, *_NAMES], n=1)
            hint = f"did you mean `{near[0]}`?" if near else "use a selector's name"
            yield _finding("LM1225", place, given=name, hint=hint)


def _ttl(node: Node, found: list[Diagnostic]) -> dt.timedelta:
    value = node.get("ttl")
    if value is None:
        return DEFAULT_TTL
    match = _TTL.match(str(value.scalar)) if value.kind == "text" else None
    ttl = dt.timedelta(seconds=int(match.group(1)) * _UNITS[match.group(2)]) if match else None
    if ttl is None or not MIN_TTL <= ttl <= MAX_TTL:
        found.append(_finding("LM1224", value.span, field="ttl", reason="60s to 30d, such as `15m` or `1h`"))
        return DEFAULT_TTL
    return ttl


def _domains(node: Node, found: list[Diagnostic]) -> tuple[TrustDomain, ...]:
    domains = []
    for name, place in _texts(node, "federates_with", found):
        try:
            domains.append(TrustDomain.parse(name))
        except SpiffeIdError as err:
            found.append(_finding("LM1224", place, field="federates_with", reason=f"trust domains: `{name}`: {err}"))
    return tuple(domains)
