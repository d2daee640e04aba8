"""A real OPA as an engine: found, started on a socket of its own, fed and ended."""

import pathlib

import pytest

from limen.opa import find_opa, running_opa
from mesh.problems import NotFound, Unavailable
from policyengine.compile.rego import Program, compile_rego
from policyengine.inputdoc import input_of
from tests.policyengine.corners import allow, ask, tree
from tests.tools import require_opa


def test_an_OPA_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMEN_OPA", "/nowhere/opa")
    with pytest.raises(NotFound, match="/nowhere/opa"):
        find_opa()


def test_a_program_that_ends_at_once_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMEN_OPA", "/bin/false")
    with pytest.raises(Unavailable, match="does not begin"), running_opa():
        pass


@pytest.mark.peer
def test_OPA_decides_and_leaves_nothing_behind() -> None:
    require_opa()
    program = compile_rego(tree(app=[allow()]), "s")
    with running_opa() as opa:
        opa.load(program)
        document = input_of(ask())
        one = opa.decide(document)
        assert opa.decide_all([document, document]) == [one, one]
        assert isinstance(one, dict)
        assert (one["decision"], one["rule"]) == ("allow", "r0")
        path = opa._connection._path
    assert not pathlib.Path(path).exists()


@pytest.mark.peer
def test_what_OPA_says_against_a_module_is_told() -> None:
    require_opa()
    bad = Program(snapshot="s", modules={"m.rego": "package a\nx if {"}, release={}, roots=("limen",))
    with running_opa() as opa, pytest.raises(Unavailable, match="occurred"):
        opa.load(bad)
