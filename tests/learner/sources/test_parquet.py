import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit.record import to_bytes
from audit.sinks.parquet import write_parquet
from mesh.problems import Invalid
from tests.learner.sources.accounts import read, read_text
from tests.learner.sources.test_decisions import row

OUT = {"direction": "outbound", "protocol": "tcp", "method": None, "path": None, "port": 443}
EGRESS = {**OUT, "tier": "egress", "destination": "192.0.2.7:443"}
RECORDS = [
    row(),
    row(decision="deny", policy_decision="deny", caller=None, peer_ip="2001:db8::7"),
    row(policy_decision="deny", protocol="grpc"),
    row(**EGRESS, rule="dns:*.example.org", facts={"name": "a.example.org"}),
    row(**EGRESS, rule="dns:api.example.com"),
    row(**OUT, destination="192.0.2.9:443", code="LM3230", decision="deny", facts={"name": "evil.test"}),
    row(direction="outbound"),
    row("change"),
    row("lost", records=12),
    row(decision="maybe"),
]


def numbered(first: int = 0, last: int = len(RECORDS)) -> list[tuple[int, bytes]]:
    return [(place, to_bytes(json.loads(text))) for place, text in enumerate(RECORDS)][first:last]


def test_records_become_the_flows_that_their_lines_become(tmp_path: pathlib.Path) -> None:
    write_parquet(tmp_path / "records.parquet", numbered())
    flows, account, findings = read(tmp_path / "records.parquet")
    expected, by_lines = read_text(tmp_path, "\n".join(RECORDS))
    assert flows == expected
    assert account.source == "parquet"
    assert (account.seen, account.flows, account.lost, account.unreadable) == (10, 6, 12, 1)
    assert account.skipped == by_lines.skipped
    assert [item.code for item in findings] == ["LM4013", "LM4016", "LM4015"]


def test_a_directory_of_days_counts_a_record_once_and_leaves_what_is_being_written(tmp_path: pathlib.Path) -> None:
    for day, first, last in (("2026-05-01", 0, 4), ("2026-05-01", 2, 6), ("2026-05-02", 6, 10)):
        (tmp_path / f"day={day}").mkdir(exist_ok=True)
        write_parquet(tmp_path / f"day={day}" / f"{first:012d}-{last:012d}.parquet", numbered(first, last))
    (tmp_path / "day=2026-05-02" / ".draft.parquet").write_bytes(b"PAR1")
    flows, account, _ = read(tmp_path)
    assert len(flows) == 6
    assert (account.seen, account.lost) == (10, 12)


def test_a_directory_without_parquet_has_no_flows(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert read(tmp_path)[0] == []


@pytest.mark.parametrize("form", ["auto", "parquet"])
def test_what_only_begins_like_parquet_is_refused(tmp_path: pathlib.Path, form: str) -> None:
    path = tmp_path / "records"
    path.write_bytes(b"PAR1" + bytes(64))
    with pytest.raises(Invalid) as caught:
        read(path, form)
    assert caught.value.code == "LM4001"


def test_parquet_of_something_else_is_refused(tmp_path: pathlib.Path) -> None:
    pq.write_table(pa.table({"index": [1], "kind": ["decision"]}), tmp_path / "a.parquet")
    with pytest.raises(Invalid) as caught:
        read(tmp_path / "a.parquet")
    assert caught.value.code == "LM4001"
