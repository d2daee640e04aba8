import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.history import History
from learner.propose import propose_from
from learner.remembering import Memory, NotAHistory, read, write
from mesh.flow import Flow
from tests.learner import worlds


def folded(*batches: list[Flow]) -> History:
    history = History()
    for batch in batches:
        history.add(batch)
    return history


@given(st.integers(0, 300))
def test_a_history_goes_on_where_it_was_cut(cut: int) -> None:
    flows = [*worlds.shop(days=2), *worlds.prober(), *worlds.lone_replica()]
    flows.sort(key=lambda item: item.start)
    memory = Memory(folded(flows[:cut]), inputs=["x"])
    again = read(list(write(memory))) if cut else memory
    again.history.add(flows[cut:])
    whole = folded(flows)
    assert propose_from(again.history).to_json() == propose_from(whole).to_json()


def test_the_memory_is_the_same_after_a_round() -> None:
    memory = Memory(folded(worlds.shop()), inputs=["a", "b"])
    memory.looked(set(memory.history.kinds))
    lines = list(write(memory))
    assert list(write(read(lines))) == lines


def test_what_is_taken_back_restarts_the_count_of_its_service() -> None:
    memory = Memory(folded(worlds.shop()))
    keys = set(memory.history.kinds)
    assert memory.looked(keys) == []
    gone = {key for key in keys if key[1].endswith("/orders")}
    assert memory.looked(keys - gone) == [f"{worlds.NS}orders"]
    assert memory.restarts == {f"{worlds.NS}orders": memory.history.last}
    assert memory.looks == 2


@pytest.mark.parametrize("lines", [[], ["{}"], ["x"], ['{"format":"limen-history/1"}'], ["[1]"]], ids=range(5))
def test_what_is_no_history_is_refused(lines: list[str]) -> None:
    with pytest.raises(NotAHistory):
        read(lines)


def test_a_damaged_line_is_refused() -> None:
    lines = list(write(Memory(folded(worlds.shop(days=1)))))
    with pytest.raises(NotAHistory):
        read([lines[0], json.dumps(json.loads(lines[1])[:-1])])
