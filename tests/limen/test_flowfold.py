import json
import pathlib

import pytest

from learner.history import History
from learner.remembering import Memory, write
from limen.flowfold import Odd, fold_large
from mesh.flow import Flow
from tests.learner import worlds


def save(path: pathlib.Path, flows: list[Flow]) -> pathlib.Path:
    path.write_text("".join(json.dumps(item.to_json()) + "\n" for item in flows))
    return path


def test_what_is_folded_at_once_is_what_is_folded_line_by_line(tmp_path: pathlib.Path) -> None:
    flows = [*worlds.shop(), *worlds.prober(), *worlds.lone_replica(), *worlds.fast_scan()]
    flows.sort(key=lambda item: item.start)
    slow, fast = History(), History()
    slow.add(flows)
    assert fold_large(save(tmp_path / "f.jsonl", flows), fast) == len(flows)

    def lines(history: History) -> dict[str, object]:
        rows = [json.loads(line) for line in write(Memory(history))]
        # which of several at one moment is the example depends on the order in which they are read
        return {json.dumps(row[:7]): [*row[8:21], row[22], row[25:]] for row in rows[1:]} | {"head": rows[0]}

    assert lines(fast) == lines(slow)


@pytest.mark.parametrize(
    "change",
    [
        {"start": "2026-11-02 08:00:00"},
        {"start": "2026-11-02T08:00:00"},
        {"destination_port": "80"},
        {"protocol": "x"},
        {"path": 7},
        {"connections": 0},
        {"connections": "1"},
        {"end": "soon"},
    ],
    ids=str,
)
def test_what_is_odd_is_left_to_the_other_reader(change: dict[str, object], tmp_path: pathlib.Path) -> None:
    row = {**worlds.flow("a", "b", worlds.START).to_json(), **change}
    file = tmp_path / "f.jsonl"
    file.write_text(json.dumps(row) + "\n")
    history = History()
    with pytest.raises(Odd):
        fold_large(file, history)
    assert history.flows == 0
    file.write_text("{\n")
    with pytest.raises(Odd):
        fold_large(file, history)
