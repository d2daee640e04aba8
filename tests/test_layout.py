"""The house keeps its shape: mirror tree, catalogue, diagnostics pages, module sizes."""

import ast
import pathlib
import re
import string

import pytest

from mesh import problems

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = ("mesh", "ca", "policyengine", "audit", "enforcer", "learner", "limen")
CODE = re.compile(r"LM\d{4}")


def modules() -> list[pathlib.Path]:
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            inside = path.relative_to(ROOT)
            if (
                "proto" in inside.parts
                or "migrations" in inside.parts
                or inside.parts[:3] == ("limen", "demo", "services")
            ):
                continue
            found.append(inside)
    return found


def has_code(path: pathlib.Path) -> bool:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return any(not isinstance(node, ast.Expr | ast.Import | ast.ImportFrom) for node in tree.body)


@pytest.mark.parametrize("path", modules(), ids=str)
def test_every_module_has_its_test_file(path: pathlib.Path) -> None:
    if path.name == "__init__.py" and not has_code(path):
        return
    name = "test_main.py" if path.name == "__main__.py" else f"test_{path.stem}.py"
    expected = ROOT / "tests" / path.parent / name
    assert expected.exists(), f"{path} needs {expected.relative_to(ROOT)}"


@pytest.mark.parametrize("path", modules(), ids=str)
def test_no_module_is_longer_than_600_lines(path: pathlib.Path) -> None:
    lines = len((ROOT / path).read_text("utf-8").splitlines())
    assert lines <= 600


def used_codes() -> set[str]:
    found: set[str] = set()
    for path in modules():
        found |= set(CODE.findall((ROOT / path).read_text("utf-8")))
    return found


@pytest.mark.parametrize("code", sorted(used_codes()))
def test_every_code_used_stands_in_the_catalogue(code: str) -> None:
    assert code in problems.catalogue()


@pytest.mark.parametrize("code", sorted(problems.catalogue()))
def test_every_code_has_its_page(code: str) -> None:
    page = ROOT / "docs" / "diagnostics" / f"{code}.md"
    assert page.exists(), f"docs/diagnostics/{code}.md is missing"
    text = page.read_text("utf-8")
    for heading in (f"# {code}", "## Summary", "## Avoid", "## Prefer", "## Why"):
        assert heading in text


@pytest.mark.parametrize("code", sorted(problems.catalogue()))
def test_every_entry_is_well_formed(code: str) -> None:
    found = problems.entry(code)
    assert set(found) == {"name", "severity", "message", "help"}
    problems.Severity(found["severity"])
    assert not found["message"].endswith(".")
    assert "\n" not in found["message"]
    for text in (found["message"], found["help"]):
        list(string.Formatter().parse(text))


def test_no_page_stands_without_its_code() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "diagnostics").glob("LM*.md")}
    assert pages <= set(problems.catalogue())


def calls_with_facts() -> list[tuple[str, str, frozenset[str]]]:
    found = []
    for path in modules():
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call) or not node.exc.args:
                continue
            first = node.exc.args[0]
            if not (isinstance(first, ast.Constant) and isinstance(first.value, str) and CODE.fullmatch(first.value)):
                continue
            names = frozenset(keyword.arg or "**" for keyword in node.exc.keywords)
            found.append((f"{path}:{node.lineno}", first.value, names))
    return found


@pytest.mark.parametrize(
    # ids in one order: parallel workers must collect the same ones
    ("place", "code", "names"),
    calls_with_facts(),
    ids=lambda value: ",".join(sorted(value)) if isinstance(value, frozenset) else str(value),
)
def test_every_raise_gives_all_facts_of_its_sentence(place: str, code: str, names: frozenset[str]) -> None:
    del place
    if "**" in names:
        return
    entry = problems.entry(code)
    asked = {
        name for text in (entry["message"], entry["help"]) for _, name, _, _ in string.Formatter().parse(text) if name
    }
    assert asked <= names


def test_no_other_package_took_the_name_policyengine() -> None:
    import policyengine

    assert pathlib.Path(policyengine.__file__ or "").is_relative_to(ROOT)
