import json
import pathlib
from typing import Any

import pytest

from limen.cli.plan import read_flows
from limen.flowcounts import LARGE_BYTES, Odd, count_flows, is_large
from mesh.flow import Flow

ROW: dict[str, Any] = {
    "start": "2026-11-24T12:00:00Z",
    "source": "spiffe://corp.test/ns/shop/sa/cart",
    "destination": "spiffe://corp.test/ns/shop/sa/db",
    "destination_port": 8080,
    "protocol": "http",
    "method": "GET",
    "path": "/o/7",
}


def written(folder: pathlib.Path, *rows: Any) -> pathlib.Path:
    file = folder / "flows.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", "utf-8")
    return file


def identity(flow: Flow) -> tuple[object, ...]:
    return (flow.source, flow.source_ip, flow.destination, flow.destination_port, flow.protocol, flow.method, flow.path)


def test_counts_what_the_other_reader_reads(tmp_path: pathlib.Path) -> None:
    rows = [
        ROW,
        {**ROW, "start": "2026-11-25T12:00:00+01:00", "sensor": "s", "unheard": {"of": 1}},
        {**ROW, "path": '/ö"\\?q=1'},
        {**ROW, "source": None, "source_ip": "10.0.0.1"},
        {**ROW, "method": None, "path": None, "protocol": "tcp"},
        {**ROW, "status": 200, "established": True, "connections": 3},
    ]
    file = written(tmp_path, *rows)
    found = {identity(item.flow): item.count for item in count_flows(file)}
    expected: dict[tuple[object, ...], int] = {}
    for flow in read_flows(file):
        expected[identity(flow)] = expected.get(identity(flow), 0) + 1
    assert found == expected
    assert sorted(found.values()) == [1, 1, 1, 3]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param("nonsense", id="text"),
        pytest.param("[]", id="array"),
        pytest.param({**ROW, "start": "yesterday"}, id="moment"),
        pytest.param({**ROW, "end": "tomorrow"}, id="end"),
        pytest.param({**ROW, "destination_port": 70000}, id="port"),
        pytest.param({**ROW, "destination_port": "8080"}, id="port-as-text"),
        pytest.param({**ROW, "protocol": "quic"}, id="protocol"),
        pytest.param({**ROW, "source": 5}, id="type"),
        pytest.param({key: value for key, value in ROW.items() if key != "start"}, id="field"),
    ],
)
def test_leaves_what_is_odd_to_the_reader_that_names_the_line(tmp_path: pathlib.Path, row: Any) -> None:
    with pytest.raises(Odd):
        list(count_flows(written(tmp_path, ROW, row, ROW)))


def test_only_large_files_are_counted(tmp_path: pathlib.Path) -> None:
    file = written(tmp_path, ROW)
    assert not is_large(file)
    with file.open("ab") as end:
        end.truncate(LARGE_BYTES)
    assert is_large(file)
    assert not is_large(tmp_path / "missing")
    pattern = file.rename(tmp_path / "flows[1].jsonl")
    assert not is_large(pattern)
