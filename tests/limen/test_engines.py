"""The engines of `limen policy eval` behind one form; what is not ours may fail, and denies then."""

import pytest

from limen.engines import NAMES, open_engine, rego_engine
from mesh.problems import Invalid
from policyengine import reference
from policyengine.compile.rego import MODULE, Program, compile_rego
from policyengine.model import PolicySet
from tests.policyengine.corners import allow, ask, deny, tree
from tests.tools import require_envoy, require_opa

POLICIES: PolicySet = tree(app=[allow(), deny(to=[{"paths": ["/admin/**"]}])])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.peer] * (name in {"opa", "envoy"})) for name in NAMES]
)
def test_engines_decide_alike(name: str) -> None:
    if name == "opa":
        require_opa()
    if name == "envoy":
        require_envoy()
    with open_engine(name, POLICIES, "s") as decide:
        for request in (ask(), ask(path="/admin/x"), ask(path="/a;b"), ask(source=None), ask(service="none")):
            assert decide(request) == reference.decide(POLICIES, request, snapshot="s")


def test_an_engine_that_gives_no_decision_denies() -> None:
    program = compile_rego(POLICIES, "s")
    broken = Program(
        snapshot="s", modules={MODULE: "package limen.authz\n\ndecision := 1\n"}, release=program.release, roots=()
    )
    with rego_engine(broken) as decide:
        found = decide(ask())
    assert (found.is_allowed, found.code) == (False, "LM2390")


def test_a_program_that_does_not_compile_is_refused() -> None:
    broken = Program(snapshot="s", modules={MODULE: "package limen.authz\n\ndecision if {"}, release={}, roots=())
    with pytest.raises(Invalid, match="LM2613"), rego_engine(broken):
        pass
