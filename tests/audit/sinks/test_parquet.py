import pathlib
import stat

import pyarrow.parquet
import pytest

from audit.formats.parquet import COLUMNS
from audit.sinks.parquet import write_parquet
from mesh.problems import Problem
from tests.audit.formats.samples import SAMPLES, samples
from tests.audit.making import START


def test_another_implementation_reads_every_row_in_the_order_of_the_log(tmp_path: pathlib.Path) -> None:
    assert write_parquet(tmp_path / "a.parquet", samples()) == len(SAMPLES)
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == list(COLUMNS)
    assert [item.encode() for item in table.column("record").to_pylist()] == [data for _, data in samples()]
    assert table.column("index").to_pylist() == list(range(len(SAMPLES)))
    assert set(table.column("time").to_pylist()) == {START}
    assert str(table.schema.field("port").type) == "int32"
    assert str(table.schema.field("time").type).startswith("timestamp[us, tz=")


def test_a_file_is_its_owners_alone_and_nothing_else_is_left(tmp_path: pathlib.Path) -> None:
    write_parquet(tmp_path / "a'b.parquet", samples())
    assert [item.name for item in tmp_path.iterdir()] == ["a'b.parquet"]
    assert stat.S_IMODE((tmp_path / "a'b.parquet").stat().st_mode) == 0o600


def test_an_export_without_records_is_a_file_without_rows(tmp_path: pathlib.Path) -> None:
    assert write_parquet(tmp_path / "a.parquet", []) == 0
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").num_rows == 0


def test_a_failure_leaves_what_was_there(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"before")
    with pytest.raises(Problem) as caught:
        write_parquet(tmp_path / "a.parquet", [*samples(), (99, b"{}")])
    assert caught.value.code == "LM6035"
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("a.parquet", b"before")]
    with pytest.raises(Problem) as caught:
        write_parquet(tmp_path / "none" / "a.parquet", samples())
    assert caught.value.code == "LM6051"
