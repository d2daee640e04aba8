import datetime as dt

from learner.sessions import GAP, Atom, split_sessions
from mesh.flow import Flow
from tests.learner.worlds import START, flow


def atom(found: Flow) -> Atom:
    return str(found.source), str(found.destination), found.destination_port, found.method or "", found.path or ""


def at(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


def count(*flows: Flow) -> int:
    return len(split_sessions(flows, atom, lambda _: False))


def test_repeats_are_one_session_however_many() -> None:
    assert count(*(flow("a", "b", at(n / 10)) for n in range(500))) == 1


def test_a_pause_begins_another() -> None:
    gap = GAP.total_seconds()
    assert count(flow("a", "b", at(0)), flow("a", "b", at(gap))) == 1
    assert count(flow("a", "b", at(0)), flow("a", "b", at(gap + 1))) == 2


def test_another_atom_of_the_same_caller_begins_another() -> None:
    assert count(flow("a", "b", at(0)), flow("a", "b", at(1), path="/x"), flow("a", "b", at(2))) == 3


def test_callers_do_not_cut_each_other() -> None:
    mixed = [flow(name, "b", at(n)) for n in range(20) for name in ("x", "y")]
    assert count(*mixed) == 2
    assert count(*reversed(mixed)) == 2


def test_one_denied_flow_makes_its_session_denied() -> None:
    flows = [flow("a", "b", at(n), status=200 + n) for n in range(3)]
    found = split_sessions(flows, atom, lambda item: item.status == 202)
    assert [item.is_denied for item in found] == [True]
