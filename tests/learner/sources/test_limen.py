import json
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learner.sources.limen import read_flows
from mesh.problems import Diagnostic, Invalid
from tests.learner import worlds
from tests.learner.sources.accounts import ledger


def test_flows_are_read_and_bad_lines_found_with_their_place(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "f.jsonl"
    good = [json.dumps(flow.to_json()) for flow in worlds.shop(1)[:3]]
    path.write_text("\n".join([good[0], "{", "", "[]", good[1], '{"start": 1}', good[2]]), "utf-8")
    findings: list[Diagnostic] = []
    assert len(list(read_flows(path, findings, ledger("limen")))) == 3
    assert [(item.code, item.span.line if item.span else 0) for item in findings] == [
        ("LM4002", 2),
        ("LM4002", 4),
        ("LM4002", 6),
    ]


def test_a_file_that_is_not_there_is_a_problem(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Invalid, match="LM4001"):
        list(read_flows(tmp_path / "none", [], ledger("limen")))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_flows_or_findings(tmp_path: pathlib.Path, data: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    findings: list[Diagnostic] = []
    list(read_flows(path, findings, ledger("limen")))
    assert all(item.code == "LM4002" for item in findings)
