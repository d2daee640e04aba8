"""Every statement that is to be shown is in the id of a test that pytest collects; none can go unseen."""

import collections
import pathlib
import re
import subprocess
import sys

import pytest

from tests.conformance.statements import STATEMENTS

ROOT = pathlib.Path(__file__).parents[2]
# where statements are shown; the ids count in these alone
FILES = ("tests/conformance", "tests/mesh/test_x509svid.py")
_ID = re.compile(r"(?<![A-Za-z0-9])((?:ID|BM|X|J|B|E|W|F)-[0-9]+)(?![0-9])")


def carried(nodes: list[str]) -> dict[str, list[str]]:
    """The tests that carry each id, in the part of their name that parametrisation gives."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for node in nodes:
        _, _, parameters = node.partition("[")
        for name in _ID.findall(parameters):
            found[name].append(node)
    return found


@pytest.fixture(scope="module")
def tests() -> dict[str, list[str]]:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "--deselect",
            "tests/conformance/test_complete.py",
            *FILES,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return carried([line for line in done.stdout.splitlines() if "::" in line])


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_statement_is_shown_by_a_test(statement: str, tests: dict[str, list[str]]) -> None:
    level, words = STATEMENTS[statement]
    assert tests.get(statement), f"no test shows {statement} ({level}): {words}"


def test_no_test_carries_an_id_that_is_no_statement(tests: dict[str, list[str]]) -> None:
    assert set(tests) <= set(STATEMENTS)


def test_the_table_has_every_number_once_and_words_for_each() -> None:
    groups = collections.Counter(name.partition("-")[0] for name in STATEMENTS)
    assert groups == {"ID": 22, "X": 31, "J": 20, "B": 12, "BM": 6, "E": 14, "W": 18, "F": 18}
    assert list(STATEMENTS) == [f"{group}-{number}" for group in groups for number in range(1, groups[group] + 1)]
    assert {level for level, _ in STATEMENTS.values()} == {"M", "S", "~"}
    assert len({words for _, words in STATEMENTS.values()}) >= len(STATEMENTS) - 1


def test_an_id_is_found_in_parameters_alone_and_whole() -> None:
    nodes = ["a.py::test_W_1[x]", "a.py::t[W-10-x]", "a.py::t[AB-2]", "a.py::t[E-3-case-/X/Y]", "a.py::test_E-4"]
    assert set(carried(nodes)) == {"W-10", "E-3"}
