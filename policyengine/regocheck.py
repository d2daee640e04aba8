"""What a custom Rego rule may be made of: checked on its compiled plan, and on its tokens, before it ever runs.

A rule decides on its input document and on nothing else: no network, no clock, no environment, no randomness, no data
but what other rules of the tree say. Built-in functions are allowed by name; whatever a newer engine brings is refused
until it is listed. The plan (OPA's intermediate representation) is what would run, so aliases and indirections hide
nothing from this check. `with` is refused in the text, because a compiler may inline it (CVE-2022-36085 hid an unsafe
function behind it). This module compiles nothing and runs nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

ALLOWED_BUILTINS = frozenset(
    [
        "eq",
        "equal",
        "neq",
        "lt",
        "lte",
        "gt",
        "gte",
        "plus",
        "minus",
        "mul",
        "div",
        "rem",
        "abs",
        "ceil",
        "floor",
        "round",
        "assign",
        "internal.member_2",
        "internal.member_3",
        "and",
        "or",
        "intersection",
        "union",
        "count",
        "sum",
        "product",
        "max",
        "min",
        "sort",
        "all",
        "any",
        "array.concat",
        "array.reverse",
        "array.slice",
        "array.flatten",
        "object.get",
        "object.keys",
        "object.remove",
        "object.union",
        "object.union_n",
        "object.filter",
        "object.subset",
        "json.filter",
        "json.remove",
        "concat",
        "contains",
        "endswith",
        "startswith",
        "format_int",
        "indexof",
        "indexof_n",
        "lower",
        "upper",
        "replace",
        "split",
        "sprintf",
        "substring",
        "strings.any_prefix_match",
        "strings.any_suffix_match",
        "strings.reverse",
        "strings.count",
        "strings.replace_n",
        "trim",
        "trim_left",
        "trim_right",
        "trim_prefix",
        "trim_suffix",
        "trim_space",
        "regex.match",
        "regex.is_valid",
        "regex.split",
        "glob.match",
        "to_number",
        "is_array",
        "is_boolean",
        "is_null",
        "is_number",
        "is_object",
        "is_set",
        "is_string",
        "type_name",
        "bits.and",
        "bits.lsh",
        "bits.negate",
        "bits.or",
        "bits.rsh",
        "bits.xor",
        "base64.is_valid",
        "hex.decode",
        "semver.compare",
        "semver.is_valid",
        "time.clock",
        "time.date",
        "time.weekday",
        "time.add_date",
        "time.diff",
        "time.parse_ns",
        "time.parse_rfc3339_ns",
        "time.parse_duration_ns",
    ]
)
MAX_MODULES = 64
MAX_MODULE_BYTES = 64 * 1024
RESERVED_ROOTS = frozenset(("limen", "system"))

MODULE_PATH = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}/){0,8}[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\.rego")

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)|(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<other>.)""",
    re.VERBOSE,
)
_PATH = re.compile(r"data(?:\.[A-Za-z_][A-Za-z0-9_]*){2,8}")
_DATA = 1  # the local that is `data` in a plan


def is_rule_path(text: str) -> bool:
    """Whether a text names a rule: `data.package.rule`, outside what is Limen's or OPA's own."""
    return _PATH.fullmatch(text) is not None and text.split(".")[1] not in RESERVED_ROOTS


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """What is wrong with a module, and on which line (1 where the whole module is meant)."""

    line: int
    reason: str


def package_of(source: str) -> str | None:
    """The package that a module declares, `shop.extra`; None when it declares none in the plain form."""
    words = [token for _, token in _tokens(source)]
    if not words or words[0] != "package":
        return None
    # up to the end of the path: names and dots take turns
    path, place = [], 1
    while place < len(words) and re.fullmatch(r"[A-Za-z_]\w*", words[place]):
        path.append(words[place])
        if place + 1 >= len(words) or words[place + 1] != ".":
            break
        place += 2
    return ".".join(path) or None


def check_text(source: str, roots: frozenset[str]) -> Iterator[Refused]:
    """What a module's tokens may not be.

    1. It is text of a bounded length, in a package of its own.
    2. No `with`: neither input nor functions are replaced.
    3. `data` is followed by a root that is a package of the same tree; it never stands alone.
    4. It imports `input`, what is below such roots, and the language (`rego.v1`, `future.keywords`).
    """
    # (1)
    if len(source.encode("utf-8", "replace")) > MAX_MODULE_BYTES:
        yield Refused(1, f"a module is at most {MAX_MODULE_BYTES} bytes long")
        return
    package = package_of(source)
    if package is None:
        yield Refused(1, "a module begins with `package NAME`")
    elif package.partition(".")[0] in RESERVED_ROOTS:
        yield Refused(1, f"the package `{package}` is reserved")
    tokens = list(_tokens(source))
    for place, (line, token) in enumerate(tokens):
        before = tokens[place - 1][1] if place else ""
        after = [text for _, text in tokens[place + 1 : place + 3]]
        if before == ".":
            continue
        # (2)
        if token == "with":  # noqa: S105  a keyword
            yield Refused(line, "`with` is not allowed in a rule")
        # (3)
        elif token == "data" and not (len(after) == 2 and after[0] == "." and after[1] in roots):  # noqa: S105
            yield Refused(line, "`data` is followed by a package of the policy tree")
        # (4)
        elif token == "import" and after[:1] not in (["input"], ["data"], ["rego"], ["future"]):  # noqa: S105
            yield Refused(line, "a module imports packages of the policy tree, `input` and `rego.v1` only")


def _tokens(source: str) -> Iterator[tuple[int, str]]:
    """The tokens of a module with their lines; comments and white space are none, a text is one."""
    line = 1
    for found in _TOKEN.finditer(source):
        if found.lastgroup != "skip":
            yield line, found.group()
        line += found.group().count("\n")


def check_plan(
    plan: Mapping[str, object], entrypoints: Iterable[str] = (), modules: Mapping[str, str] | None = None
) -> Iterator[str]:
    """What a compiled program may not do; with the modules it was made of, where they say it.

    1. It calls allowed built-in functions only, those in functions that nothing calls among them.
    2. It replaces nothing (`with`) and reads no data that is not a rule.
    3. No rule depends on itself, and the entry points, `package/rule`, are rules.
    """
    # (1)
    static = plan.get("static")
    listed = static.get("builtin_funcs", []) if isinstance(static, Mapping) else []
    names = {str(item.get("name")) for item in listed if isinstance(item, Mapping)}
    functions = _functions(plan)
    calls: dict[str, set[str]] = {}
    for name, body in functions.items():
        calls[name] = {_text(stmt, "func") for kind, stmt in _statements(body) if kind == "CallStmt"}
    called = {name for found in calls.values() for name in found} - set(functions)
    for name in sorted((names | called) - ALLOWED_BUILTINS):
        yield f"{_place_of(name, modules or {})}the function `{name}` is not allowed"
    # (2)
    for body in functions.values():
        kinds = [(kind, stmt) for kind, stmt in _statements(body)]
        if any(kind == "WithStmt" for kind, _ in kinds):
            yield "`with` is not allowed in a rule"
        if any(kind != "CallStmt" and _reads_data(kind, stmt) for kind, stmt in kinds):
            yield "`data` is followed by a rule of the policy tree"
        if any(kind == "CallDynamicStmt" for kind, _ in kinds):
            yield "a rule is named, not computed"
    # (3)
    for name in functions:
        if _reaches(calls, name, name):
            yield f"`{name.partition('.')[2]}` depends on itself"
    rules = {name.partition(".")[2] for name in functions}
    wanted = {f"data.{point.replace('/', '.')}" for point in entrypoints}
    yield from (f"there is no rule `{name}`" for name in sorted(wanted - rules))


def _place_of(name: str, modules: Mapping[str, str]) -> str:
    """`shop.rego:3: `, where modules first spell a function's name; empty where none does, as for an operator."""
    spelt = [token for _, token in _tokens(name)]
    for path, source in sorted(modules.items()):
        tokens = list(_tokens(source))
        for at, (line, _) in enumerate(tokens):
            if [token for _, token in tokens[at : at + len(spelt)]] == spelt:
                return f"{path}:{line}: "
    return ""


def _functions(plan: Mapping[str, object]) -> dict[str, object]:
    funcs = plan.get("funcs")
    rows = funcs.get("funcs", []) if isinstance(funcs, Mapping) else []
    return {str(row.get("name")): row.get("blocks") for row in rows if isinstance(row, Mapping)}


def _statements(value: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    """All statements below a value, with their kinds."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            kind, stmt = item.get("type"), item.get("stmt")
            if isinstance(kind, str) and isinstance(stmt, Mapping):
                yield kind, stmt
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _reads_data(kind: str, stmt: Mapping[str, object]) -> bool:
    """Whether a statement takes the whole of `data` as a value."""
    if kind == "CallDynamicStmt":
        return False
    return any(
        isinstance(operand, Mapping) and operand.get("type") == "local" and operand.get("value") == _DATA
        for operand in stmt.values()
    )


def _text(stmt: Mapping[str, object], name: str) -> str:
    return str(stmt.get(name, ""))


def _reaches(calls: Mapping[str, Iterable[str]], start: str, goal: str) -> bool:
    seen: set[str] = set()
    waiting = list(calls.get(start, ()))
    while waiting:
        name = waiting.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            waiting.extend(calls.get(name, ()))
    return False
