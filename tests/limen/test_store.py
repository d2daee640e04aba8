import json

import pytest

from limen import store
from mesh.database import migrate, open_database, transaction
from mesh.problems import Invalid

ROW = {"start": "2026-01-01T00:00:00Z", "source": None, "destination": None, "destination_port": 1, "protocol": "tcp"}


def test_progress_is_one_row_per_node() -> None:
    engine = open_database("sqlite://")
    migrate(engine, "limen")
    first = store.Progress(sequence=1, digest="d1", previous="", key=b"k")
    second = store.Progress(sequence=2, digest="d2", previous="d1", key=b"k")
    with transaction(engine) as connection:
        assert store.get_progress(connection, "n") is None
        store.put_progress(connection, "n", first)
        store.put_progress(connection, "n", second)
        assert store.get_progress(connection, "n") == second
        assert store.get_progress(connection, "m") is None
    engine.dispose()


def test_one_bad_flow_keeps_none_of_its_batch() -> None:
    engine = open_database("sqlite://")
    migrate(engine, "limen")
    with pytest.raises(Invalid, match="LM5231"), transaction(engine) as connection:
        store.put_flows(connection, "n", [json.dumps(ROW).encode(), b"[]"])
    with transaction(engine) as connection:
        assert store.flows(connection, 10) == []
        assert store.put_flows(connection, "n", [json.dumps(ROW | {"connections": 3}).encode()]) == 3
        assert store.count_flows(connection) == 3
    engine.dispose()
