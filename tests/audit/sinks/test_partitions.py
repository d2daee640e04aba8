import datetime as dt
import pathlib

import pyarrow.dataset
import pytest

from audit.destination import parse_destination
from audit.record import record, to_bytes
from audit.sinks.partitions import Bucket, Directory, PartitionSink
from mesh.problems import Problem
from tests.audit.making import START
from tests.audit.receivers import bucket, free_port

ROWS = [
    (number, to_bytes(record("ca", now=START + dt.timedelta(hours=8 * number), random=bytes(10), source="s", n=number)))
    for number in range(6)
]


def test_a_query_engine_reads_the_days_from_the_paths(tmp_path: pathlib.Path) -> None:
    sink = PartitionSink(Directory(tmp_path), "parquet")
    sink.send(ROWS[:3])
    sink.send(ROWS[3:])
    sink.send(ROWS[3:])
    sink.close()
    table = pyarrow.dataset.dataset(tmp_path, partitioning="hive").to_table(columns=["index", "day", "record"])
    assert sorted(table.column("index").to_pylist()) == list(range(6))
    assert set(table.column("day").to_pylist()) == {"2026-11-24", "2026-11-25", "2026-11-26"}
    assert {text.encode() for text in table.column("record").to_pylist()} == {data for _, data in ROWS}


def test_lines_are_partitioned_alike(tmp_path: pathlib.Path) -> None:
    PartitionSink(Directory(tmp_path), "jsonl").send(ROWS[:2])
    (file,) = tmp_path.rglob("*.jsonl")
    assert file.relative_to(tmp_path).as_posix() == "day=2026-11-24/000000000000-000000000001.jsonl"
    assert file.read_bytes() == b"".join(data + b"\n" for _, data in ROWS[:2])


def test_a_directory_that_cannot_be_written_takes_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(Problem) as caught:
        PartitionSink(Directory(tmp_path / "a"), "parquet").send(ROWS)
    assert caught.value.code == "LM6101"


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("form", ["parquet", "ocsf"])
def test_an_s3_server_has_every_record(form: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "limen")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "limen-secret-key")
    port = free_port()
    to = f"s3://audit/limen?endpoint=http://127.0.0.1:{port}&region=us-east-1"
    sink = PartitionSink(Bucket(parse_destination(to, form)), form)
    with pytest.raises(Problem) as caught:
        sink.send(ROWS[:1])
    assert caught.value.code == "LM6101"
    with bucket(tmp_path, port, "audit") as objects:
        sink.send(ROWS)
        sink.send(ROWS)
        if form == "parquet":
            table = pyarrow.dataset.dataset(objects / "limen", partitioning="hive").to_table(columns=["index"])
            assert sorted(table.column("index").to_pylist()) == list(range(6))
        else:
            assert sum(path.read_bytes().count(b"\n") for path in objects.rglob("*.jsonl")) == 6
        other = parse_destination(f"s3://nowhere/x?endpoint=http://127.0.0.1:{port}&region=us-east-1", form)
        with pytest.raises(Problem) as caught:
            PartitionSink(Bucket(other), form).send(ROWS)
        assert caught.value.code == "LM6101"


@pytest.mark.parametrize("query", ["endpoint=http://10.0.0.1:9000", "endpoint=ftp://a", "colour=red"])
def test_an_endpoint_in_the_clear_is_this_machines_alone(query: str) -> None:
    with pytest.raises(Problem) as caught:
        Bucket(parse_destination(f"s3://audit/x?{query}"))
    assert caught.value.code == "LM6100"


def test_without_its_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(Problem) as caught:
        Bucket(parse_destination("s3://audit/x"))
    assert (caught.value.code, "limen[s3]" in caught.value.help) == ("LM6105", True)
