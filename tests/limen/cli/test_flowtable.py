import json

import pytest

from learner.flows import Row
from limen.cli.flowtable import show_flows, show_rows
from tests.learner import worlds

ROW = Row("10.0.0.1", 40000, "10.0.0.2", 443, "tcp", 3, 180, 0, 1_500_000_000, True, False)


def test_rows_and_flows_are_tables_or_their_public_objects(capsys: pytest.CaptureFixture[str]) -> None:
    flow = worlds.shop(1)[0]
    show_rows([ROW], "json")
    assert json.loads(capsys.readouterr().out) == [ROW.to_json()]
    show_rows([ROW], "table")
    assert "10.0.0.1:40000  10.0.0.2:443  tcp       3        180    1.500    yes" in capsys.readouterr().out
    show_flows([flow], "json")
    assert json.loads(capsys.readouterr().out) == [flow.to_json()]
    show_flows([flow], "table")
    assert str(flow.destination_port) in capsys.readouterr().out
