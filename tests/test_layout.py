"""The house keeps its shape: mirror tree, catalogue, diagnostics pages, module sizes.

Each rule is one test over everything it speaks of, and names all that break it: a test for each of thousands of cases
would cost more than the looking.
"""

import ast
import functools
import gc
import pathlib
import re
import string
from collections.abc import Iterator

from mesh import problems

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = ("mesh", "ca", "policyengine", "audit", "enforcer", "learner", "limen")
CODE = re.compile(r"LM\d{4}")
MAX_LINES = 600


@functools.cache
def modules() -> dict[pathlib.Path, str]:
    """The text of every module of ours, by its path."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            inside = path.relative_to(ROOT)
            if (
                "proto" in inside.parts
                or "migrations" in inside.parts
                or inside.parts[:3] == ("limen", "demo", "services")
            ):
                continue
            found[inside] = path.read_text("utf-8")
    assert len(found) > 250
    return found


def parse(text: str) -> ast.Module:
    """The tree of a module. CPython 3.11 fails when a collection runs Python code meanwhile (gh-106905)."""
    gc.disable()
    try:
        return ast.parse(text)
    finally:
        gc.enable()


def has_code(text: str) -> bool:
    return any(not isinstance(node, ast.Expr | ast.Import | ast.ImportFrom) for node in parse(text).body)


def test_every_module_has_its_test_file() -> None:
    missing = []
    for path, text in modules().items():
        if path.name == "__init__.py" and not has_code(text):
            continue
        name = "test_main.py" if path.name == "__main__.py" else f"test_{path.stem}.py"
        if not (ROOT / "tests" / path.parent / name).exists():
            missing.append(f"{path} needs tests/{path.parent}/{name}")
    assert missing == []


def test_no_module_is_longer_than_600_lines() -> None:
    assert [str(path) for path, text in modules().items() if len(text.splitlines()) > MAX_LINES] == []


def test_every_code_used_stands_in_the_catalogue() -> None:
    used = {code for text in modules().values() for code in CODE.findall(text)}
    assert len(used) > 400
    assert used - set(problems.catalogue()) == set()


def test_every_code_has_its_page_and_every_page_its_code() -> None:
    pages = {path.stem: path.read_text("utf-8") for path in (ROOT / "docs" / "diagnostics").glob("LM*.md")}
    assert set(pages) == set(problems.catalogue())
    headings = ("## Summary", "## Avoid", "## Prefer", "## Why")
    lacking = [
        f"{code}: {heading}"
        for code, text in pages.items()
        for heading in (f"# {code}", *headings)
        if heading not in text
    ]
    assert lacking == []


def test_every_entry_is_well_formed() -> None:
    for code in problems.catalogue():
        found = problems.entry(code)
        assert set(found) == {"name", "severity", "message", "help"}, code
        problems.Severity(found["severity"])
        assert not found["message"].endswith("."), code
        assert "\n" not in found["message"], code
        for text in (found["message"], found["help"]):
            list(string.Formatter().parse(text))


def raises() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Every `raise X("LMnnnn", fact=…)`: where it stands, its code, the names of its facts."""
    for path, text in modules().items():
        for node in ast.walk(parse(text)):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call) or not node.exc.args:
                continue
            first = node.exc.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and CODE.fullmatch(first.value):
                names = frozenset(keyword.arg or "**" for keyword in node.exc.keywords)
                yield f"{path}:{node.lineno}", first.value, names


def test_every_raise_gives_all_facts_of_its_sentence() -> None:
    found = list(raises())
    assert len(found) > 500
    lacking = []
    for place, code, names in found:
        entry = problems.entry(code)
        texts = (entry["message"], entry["help"])
        asked = {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}
        if "**" not in names and not asked <= names:
            lacking.append(f"{place}: {code} lacks {', '.join(sorted(asked - names))}")
    assert lacking == []


def test_no_other_package_took_the_name_policyengine() -> None:
    import policyengine

    assert pathlib.Path(policyengine.__file__ or "").is_relative_to(ROOT)
