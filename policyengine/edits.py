"""Edits of policy files that leave everything else as it stands: rules are added, removed, and brought to say more.

An edit changes the lines that it is about and no others, so that comments, order and form of the rest stay byte for
byte. The places are those of the strict reader, named by policy and rule. What comes out is read again and must say
exactly what was asked for; otherwise nothing is changed.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import yaml

from mesh.problems import Invalid
from mesh.yamlio import Node, compose_documents, needs_quotes
from policyengine.yamltext import LOADER, comments_of, lines_of

Where = Sequence[str | int]
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def add_rule(text: str, policy: str, rule: Mapping[str, object]) -> str:
    """Add a rule behind the others of a policy.

    Raises Invalid LM2712 when the policy is not in the file or has a rule of this id; LM5100 and others for a bad file.
    """
    rules = _rules(text, policy)
    if any(_id(item) == rule.get("id") for item in rules.items):
        raise Invalid("LM2712", what=f"rule `{rule.get('id')}` is in policy `{policy}` already")

    def change(spec: dict[str, Any]) -> None:
        spec["rules"].append(copy.deepcopy(dict(rule)))

    lines = lines_of(text)
    if _is_flow(text, rules):
        last = rules.items[-1]
        line, column = _end(text, last)
        lines[line] = lines[line][:column] + ", " + _flow(rule) + lines[line][column:]
    else:
        indent = rules.items[-1].span.column - 3  # `- ` stands before the value
        behind = _after(text, rules.items[-1], indent)
        lines[behind:behind] = _block(rule, indent)
    return _checked(text, lines, policy, change)


def add_port(text: str, service: str, port: int, protocol: str) -> str:
    """Declare a port of a service behind the others.

    Raises Invalid LM2712 when the service is not in the file, or declares its ports in a form that is not edited.
    """
    nodes, found = compose_documents(text, "edit")
    if found:
        raise Invalid(found[0].code, span=found[0].span, **found[0].facts)
    wanted: list[object] = []
    ports = None
    for node in nodes:
        plain = node.plain()
        if _is_named(node, "Service", service):
            ports = _at(node, ("spec", "ports"))
            assert isinstance(plain, dict), "a service is a mapping"
            plain["spec"]["ports"].append({"port": port, "protocol": protocol})
        wanted.append(plain)
    if ports is None or ports.kind != "list" or not ports.items:
        raise Invalid("LM2712", what=f"service `{service}` is in the file, with ports")
    lines = lines_of(text)
    entry = _flow({"port": port, "protocol": protocol})
    if _is_flow(text, ports):
        line, column = _end(text, ports.items[-1])
        lines[line] = f"{lines[line][:column]}, {entry}{lines[line][column:]}"
    else:
        indent = ports.items[-1].span.column - 3
        lines.insert(_after(text, ports.items[-1], indent), f"{' ' * indent}- {entry}")
    result = "\n".join(lines) + "\n"
    after, wrong = compose_documents(result, "edit")
    if wrong or [node.plain() for node in after] != wanted:
        raise Invalid("LM2712", what=f"the ports of service `{service}` stand on lines of their own")
    return result


def remove_policy(text: str, policy: str) -> str:
    """Remove the document of a policy, with its comments; the others stay byte for byte.

    Raises Invalid LM2712 when it is not in the file, or when the file is not made of documents between lines of `---`.
    """
    nodes, found = compose_documents(text, "edit")
    if found:
        raise Invalid(found[0].code, span=found[0].span, **found[0].facts)
    place = next((at for at, node in enumerate(nodes) if _is_named(node, "Policy", policy)), None)
    if place is None:
        raise Invalid("LM2712", what=f"policy `{policy}` is in the file")
    lines = lines_of(text)
    first = nodes[place].span.line - 1
    begin = next((at for at in range(first, -1, -1) if lines[at].rstrip() == "---"), 0)
    end = next((at for at in range(first, len(lines)) if lines[at].rstrip() == "---"), len(lines))
    if begin == first:
        end = next((at for at in range(first + 1, len(lines)) if lines[at].rstrip() == "---"), len(lines))
    if begin == 0 and end < len(lines) and lines[0].rstrip() != "---":
        end += 1  # the mark that stood between this document and the next
    del lines[begin:end]
    result = "\n".join(lines) + "\n" if lines else ""
    after, wrong = compose_documents(result, "edit")
    wanted = [node.plain() for at, node in enumerate(nodes) if at != place]
    if wrong or [node.plain() for node in after if node.plain() is not None] != wanted:
        raise Invalid("LM2712", what=f"policy `{policy}` is a document between lines of `---`")
    return result


def policy_text(name: str, owner: str, service: str, tier: str, rule: Mapping[str, object]) -> str:
    """A document of a policy with one rule."""
    head = {"name": name, "owner": owner} if owner else {"name": name}
    lines = ["apiVersion: limen.dev/v1", "kind: Policy", f"metadata: {_flow(head)}", "spec:"]
    lines += [f"  service: {_scalar(service)}", f"  tier: {tier}", "  rules:", *_block(rule, 2)]
    return "\n".join(lines) + "\n"


def rule_in(text: str, policy: str, rule: str) -> Mapping[str, object]:
    """What a rule of a file says, as it is written there.

    Raises Invalid LM2712 when it is not there.
    """
    rules = _rules(text, policy)
    found = rules.items[_place(rules, policy, rule)].plain()
    assert isinstance(found, dict), "a rule is a mapping"
    return found


def remove_rule(text: str, policy: str, rule: str) -> str:
    """Remove a rule with the comments above it and in it.

    Raises Invalid LM2712 when it is not there or is the only one: a policy has a rule, so remove the policy instead.
    """
    rules = _rules(text, policy)
    place = _place(rules, policy, rule)
    if len(rules.items) == 1:
        raise Invalid("LM2712", what=f"rule `{rule}` is the only one of policy `{policy}`; remove the policy")

    def change(spec: dict[str, Any]) -> None:
        del spec["rules"][place]

    lines = lines_of(text)
    if _is_flow(text, rules):
        raise Invalid("LM2712", what=f"the rules of policy `{policy}` stand on lines of their own")
    item = rules.items[place]
    first = item.span.line - 1
    comments = {found.line for found in comments_of(text) if found.stands_alone}
    while first - 1 in comments:
        first -= 1
    del lines[first : _after(text, item, item.span.column - 3)]
    return _checked(text, lines, policy, change)


def set_list(text: str, policy: str, rule: str, where: Where, values: Sequence[str | int | bool]) -> str:
    """Give a list of a rule other values: ``where`` leads to it, as in `("to", 0, "paths")`.

    Values that stay keep their lines, in a list of lines, and the comments with them; new ones follow the others.

    Raises Invalid LM2712 when there is no such list, or for an empty one: no list of a file is empty.
    """
    rules = _rules(text, policy)
    item = rules.items[_place(rules, policy, rule)]
    found = _at(item, where)
    if found is None or found.kind != "list" or not values:
        raise Invalid("LM2712", what=f"rule `{rule}` has a list `{'.'.join(map(str, where))}`, and it stays one")
    kept = [node.scalar for node in found.items if node.scalar in values]
    wanted = [*kept, *(value for value in values if value not in kept)]

    def change(spec: dict[str, Any]) -> None:
        target = spec["rules"][_place(rules, policy, rule)]
        for part in where[:-1]:
            target = target[part]
        target[where[-1]] = list(wanted)

    lines = lines_of(text)
    new = [value for value in wanted if value not in kept]
    if _is_flow(text, found):
        start, (line, column) = found.span, _end(text, found)
        lines[start.line - 1 : line + 1] = [
            lines[start.line - 1][: start.column - 1] + _flow(wanted) + lines[line][column:]
        ]
    else:
        indent = found.items[0].span.column - 3
        behind = _after(text, found.items[-1], indent)
        lines[behind:behind] = [f"{' ' * indent}- {_scalar(value)}" for value in new]
        comments = {note.line for note in comments_of(text) if note.stands_alone}
        for node in reversed(found.items):
            if node.scalar not in values:
                first = node.span.line - 1
                while first - 1 in comments:
                    first -= 1
                del lines[first : node.span.line]
    return _checked(text, lines, policy, change)


def change_rule(text: str, policy: str, rule: str, wanted: Mapping[str, object]) -> str:
    """Bring a rule to say what is ``wanted``, field by field; what stays the same keeps its lines and comments.

    Raises Invalid LM2712 for what no list, and no field that comes or goes, can say: an effect or an id, say.
    """
    while True:
        item = _rules(text, policy)
        step = _first_difference(item.items[_place(item, policy, rule)].plain(), wanted, ())
        if step is None:
            return text
        where, value = step
        if isinstance(value, list) and all(not isinstance(entry, dict | list) for entry in value):
            found = _at(item.items[_place(item, policy, rule)], where)
            text = (set_list if found is not None else add_field)(text, policy, rule, where, value)
        elif value is None:
            text = remove_field(text, policy, rule, where)
        else:
            text = add_field(text, policy, rule, where, value)


def add_field(text: str, policy: str, rule: str, where: Where, value: object) -> str:
    """Add a field of a rule, or of a mapping in it, behind the others.

    Raises Invalid LM2712 when it is there, or when there is no such mapping.
    """
    parent = _parent(text, policy, rule, where)
    name = str(where[-1])
    if parent.get(name) is not None:
        raise Invalid("LM2712", what=f"rule `{rule}` has a field `{name}` already")

    def change(spec: dict[str, Any]) -> None:
        _mapping(spec["rules"], rule, where)[name] = copy.deepcopy(value)

    lines = lines_of(text)
    if lines[parent.span.line - 1][parent.span.column - 1] == "{":
        line, column = _end(text, parent)
        lines[line] = f"{lines[line][: column - 1].rstrip()}, {name}: {_flow(value)}{lines[line][column - 1 :]}"
    else:
        indent = parent.pairs[0][0].span.column - 1
        behind = _last_line(text, parent) + 1
        lines[behind:behind] = [f"{' ' * indent}{name}: {_flow(value)}"]
    return _checked(text, lines, policy, change)


def remove_field(text: str, policy: str, rule: str, where: Where) -> str:
    """Remove a field of a rule, or of a mapping in it, with the comments above it and in it.

    Raises Invalid LM2712 when it is not there, or does not stand on lines of its own.
    """
    parent = _parent(text, policy, rule, where)
    name = str(where[-1])
    place = next((at for at, (key, _) in enumerate(parent.pairs) if key.scalar == name), None)
    if place is None:
        raise Invalid("LM2712", what=f"rule `{rule}` has a field `{name}`")

    def change(spec: dict[str, Any]) -> None:
        del _mapping(spec["rules"], rule, where)[name]

    lines = lines_of(text)
    if lines[parent.span.line - 1][parent.span.column - 1] == "{":
        start, (line, column) = parent.span, _end(text, parent)
        plain = parent.plain()
        assert isinstance(plain, dict), "a map is a dict"
        left = {key: value for key, value in plain.items() if key != name}
        if any(start.line <= found.line + 1 <= line for found in comments_of(text)):
            raise Invalid("LM2712", what=f"the mapping around `{name}` stands on one line")
        lines[start.line - 1 : line + 1] = [
            lines[start.line - 1][: start.column - 1] + _flow(left) + lines[line][column:]
        ]
    else:
        key, value = parent.pairs[place]
        first = key.span.line - 1
        if lines[first][: key.span.column - 1].strip():
            raise Invalid("LM2712", what=f"`{name}` stands on a line of its own")
        comments = {found.line for found in comments_of(text) if found.stands_alone}
        behind = _last_line(text, value) + 1
        while first - 1 in comments:
            first -= 1
        del lines[first:behind]
    return _checked(text, lines, policy, change)


def _first_difference(old: object, wanted: object, where: tuple[str | int, ...]) -> tuple[Where, object] | None:
    """Where a value does not say what is wanted, and what stands there instead; None for nothing.

    Raises Invalid LM2712 for what is neither a field that comes or goes nor a list.
    """
    if isinstance(old, dict) and isinstance(wanted, Mapping):
        for name in old:
            if name not in wanted:
                return (*where, name), None
        for name, value in wanted.items():
            step = ((*where, name), value) if name not in old else _first_difference(old[name], value, (*where, name))
            if step is not None:
                return step
        return None
    if old == wanted:
        return None
    if isinstance(old, list) and isinstance(wanted, list):
        if not any(isinstance(entry, dict) for entry in (*old, *wanted)):
            return where, wanted
        if len(old) == len(wanted):
            steps = (_first_difference(old[i], wanted[i], (*where, i)) for i in range(len(old)))
            return next((step for step in steps if step is not None), None)
    raise Invalid("LM2712", what=f"`{'.'.join(map(str, where))}` is changed by adding or removing")


def _parent(text: str, policy: str, rule: str, where: Where) -> Node:
    """The mapping that a field of a rule is in."""
    rules = _rules(text, policy)
    found = _at(rules.items[_place(rules, policy, rule)], where[:-1])
    if found is None or found.kind != "map" or not found.pairs:
        raise Invalid("LM2712", what=f"rule `{rule}` has a mapping `{'.'.join(map(str, where[:-1]))}`")
    return found


def _mapping(rules: list[dict[str, Any]], rule: str, where: Where) -> dict[str, Any]:
    """The same mapping among plain values."""
    found: Any = next(item for item in rules if item.get("id") == rule)
    for part in where[:-1]:
        found = found[part]
    return cast("dict[str, Any]", found)


def _rules(text: str, policy: str) -> Node:
    """The list of the rules of a policy."""
    nodes, found = compose_documents(text, "edit")
    if found:
        raise Invalid(found[0].code, span=found[0].span, **found[0].facts)
    for node in nodes:
        if _is_policy(node, policy):
            rules = _at(node, ("spec", "rules"))
            if rules is not None and rules.kind == "list" and rules.items:
                return rules
    raise Invalid("LM2712", what=f"policy `{policy}` is in the file, with rules")


def _is_policy(node: Node, name: str) -> bool:
    return _is_named(node, "Policy", name)


def _is_named(node: Node, wanted: str, name: str) -> bool:
    kind, named = _at(node, ("kind",)), _at(node, ("metadata", "name"))
    return kind is not None and named is not None and (kind.scalar, named.scalar) == (wanted, name)


def _at(node: Node, where: Where) -> Node | None:
    found: Node | None = node
    for part in where:
        if found is None:
            return None
        if isinstance(part, int):
            found = found.items[part] if found.kind == "list" and 0 <= part < len(found.items) else None
        else:
            found = found.get(part) if found.kind == "map" else None
    return found


def _id(rule: Node) -> object:
    found = _at(rule, ("id",))
    return None if found is None else found.scalar


def _place(rules: Node, policy: str, rule: str) -> int:
    places = [place for place, item in enumerate(rules.items) if _id(item) == rule]
    if len(places) != 1:
        raise Invalid("LM2712", what=f"policy `{policy}` has one rule `{rule}`")
    return places[0]


def _is_flow(text: str, node: Node) -> bool:
    """Whether a list stands in brackets."""
    return lines_of(text)[node.span.line - 1][node.span.column - 1] == "["


def _end(text: str, node: Node) -> tuple[int, int]:
    """Where a node in flow style ends: line and column, from 0, behind its bracket or its last character."""
    starts: list[tuple[int, int]] = []
    for event in yaml.parse(text, Loader=LOADER):
        begin, end = event.start_mark, event.end_mark
        assert begin is not None, "events have marks"
        assert end is not None, "events have marks"
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            starts.append((begin.line + 1, begin.column + 1))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            if starts.pop() == (node.span.line, node.span.column):
                return end.line, end.column
        elif isinstance(event, yaml.ScalarEvent) and (begin.line + 1, begin.column + 1) == (
            node.span.line,
            node.span.column,
        ):
            return end.line, end.column
    raise AssertionError("a node of the text ends in it")


def _after(text: str, item: Node, indent: int) -> int:
    """The line behind an item of a block list: behind its last value and the comments that are indented into it."""
    after = _last_line(text, item) + 1
    inside = {found.line for found in comments_of(text) if found.stands_alone and found.column > indent}
    while after in inside:
        after += 1
    return after


def _last_line(text: str, node: Node) -> int:
    """The line on which a node ends, from 0: of its last value, or of the bracket around it."""
    while (node.items or node.pairs) and lines_of(text)[node.span.line - 1][node.span.column - 1] not in "[{":
        node = node.items[-1] if node.items else node.pairs[-1][1]
    line, column = _end(text, node)
    return line if column else line - 1  # a block of text ends where the next line begins


def _scalar(value: object) -> str:
    """A value in the form that people write: plain where nothing else could be read, quoted otherwise."""
    if not isinstance(value, str):
        return json.dumps(value)
    return value if _PLAIN.fullmatch(value) and not needs_quotes(value) else json.dumps(value, ensure_ascii=False)


def _flow(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _scalar(value)


def _block(rule: Mapping[str, object], indent: int) -> list[str]:
    """A rule as lines: a field a line, the entries of `to` each on its own."""
    lines: list[str] = []
    for name, value in rule.items():
        if name == "to" and isinstance(value, list | tuple):
            lines += [f"{name}:", *(f"- {_flow(entry)}" for entry in value)]
        else:
            lines.append(f"{_scalar(name)}: {_flow(value)}")
    pad = " " * indent
    return [f"{pad}{'- ' if place == 0 else '  '}{line}" for place, line in enumerate(lines)]


def _checked(text: str, lines: list[str], policy: str, change: Any) -> str:  # noqa: ANN401  a function of plain values
    """The edited text, when it says what was asked for and keeps what it did not ask about."""
    result = "\n".join(lines) + "\n"
    before, _ = compose_documents(text, "edit")
    after, found = compose_documents(result, "edit")
    wanted: list[object] = []
    for node in before:
        plain = node.plain()
        if _is_policy(node, policy):
            assert isinstance(plain, dict), "a policy is a mapping"
            change(plain["spec"])
        wanted.append(plain)
    if found or [node.plain() for node in after] != wanted:
        raise Invalid("LM2712", what="what it changes stands on lines of its own")
    return result
