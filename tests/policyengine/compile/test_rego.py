"""The Rego program answers as the reference does: every corner and generated cases, in process.

`test_rego_opa` asks a real OPA the same, many more times.
"""

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from limen.decisions import decision_from_json
from limen.engines import rego_engine
from mesh.request import Decision, Request
from policyengine import reference
from policyengine.compile.rego import MODULE, compile_rego
from policyengine.decide import Index
from policyengine.inputdoc import input_of
from policyengine.model import PolicySet
from policyengine.rego import Engine, RegoError, Source
from tests.policyengine.corners import CORNERS, Corner, ask, deny, tree
from tests.policyengine.kinds import Tally
from tests.policyengine.strategies import policy_sets, requests

POINT = "limen/authz/decision"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One process for all programs: to begin one takes longer than to ask it."""
    with Engine(source_of(tree()), deadline_s=20.0) as found:
        yield found


def source_of(policies: PolicySet) -> Source:
    program = compile_rego(policies, "s")
    return Source(modules={MODULE: program.modules[MODULE]}, data=program.data, entrypoints=(POINT,), strict=False)


def decide(engine: Engine, request: Request) -> Decision:
    """Ask, once more if the library died: that it now and then does is no other decision."""
    try:
        return decision_from_json(engine.ask(POINT, input_of(request)))
    except RegoError:
        engine.load()
        return decision_from_json(engine.ask(POINT, input_of(request)))


@pytest.mark.parametrize("corner", CORNERS, ids=lambda corner: corner.name)
def test_program_agrees_on_corner(engine: Engine, corner: Corner) -> None:
    engine.replace(source_of(corner.policies))
    engine.load()
    found = decide(engine, corner.request)
    assert found == reference.decide(corner.policies, corner.request, snapshot="s")


# INVARIANT: the reference evaluator, the index and the Rego program decide every request alike, and what a candidate
# decides beside them is its own. Rounds of generated cases, until every kind of rule decided, and failed to, so often.
def test_reference_index_and_program_decide_alike(engine: Engine) -> None:
    tally, rounds = Tally(), 0

    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(policies=policy_sets, candidate=policy_sets, asked=st.lists(requests, min_size=12, max_size=12))
    def agree(policies: PolicySet, candidate: PolicySet, asked: list[Request]) -> None:
        engine.replace(source_of(policies))
        engine.load()
        index, beside = Index(policies, "s"), Index(candidate, "c")
        for request in asked:
            expected = reference.decide(policies, request, snapshot="s")
            shadow = beside.decide(request)
            assert index.decide(request) == expected
            assert decide(engine, request) == expected
            assert shadow == reference.decide(candidate, request, snapshot="c")
            tally.add(policies, request, expected, shadow)

    while rounds < 2 or (tally.missing(2) and rounds < 30):
        seed(rounds)(agree)()
        rounds += 1
    assert not tally.missing(2)


def test_module_is_the_same_for_every_policy_set() -> None:
    assert compile_rego(tree(), "a").modules == compile_rego(tree(app=[deny()]), "b").modules


def test_data_is_json_and_names_its_snapshot() -> None:
    program = compile_rego(tree(app=[deny()]), "sha256:00")
    assert json.loads(json.dumps(program.data)) == program.data
    assert program.release["snapshot"] == "sha256:00"
    assert program.manifest()["revision"] == "sha256:00"
    assert program.manifest()["roots"] == ["limen"]


def test_a_decision_reads_one_place_however_many_rules_there_are() -> None:
    rules = [{"effect": "allow", "id": f"r{n:04}", "to": [{"paths": [f"/p{n}/**"]}]} for n in range(500)]
    release = compile_rego(tree(app=rules), "s").release
    services = release["services"]
    assert isinstance(services, dict)
    places = services["db"]["places"]
    assert len(places) == 1
    assert places["0"]["below"]["p77"] == ["0000077"]
    assert all(len(ranks) == 1 for ranks in places["0"]["below"].values())


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({}, id="empty"),
        pytest.param({"version": 2}, id="another-version"),
        pytest.param([], id="no-object"),
    ],
)
def test_what_is_no_input_document_is_denied(document: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limen.engines.input_of", lambda _: document)
    policies = tree(app=[{"effect": "allow"}])
    with rego_engine(compile_rego(policies, "s")) as decide:
        found = decide(ask())
    assert (str(found.effect), found.code) == ("deny", "LM2390")
