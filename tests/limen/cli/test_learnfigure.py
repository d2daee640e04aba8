import json
import pathlib
import xml.etree.ElementTree as ET

import pytest

from limen.__main__ import run
from tests.learner import worlds


@pytest.mark.parametrize("what", ["coverage", "graph"])
def test_a_picture_is_written(what: str, tmp_path: pathlib.Path) -> None:
    flows = tmp_path / "flows.jsonl"
    flows.write_text("".join(json.dumps(item.to_json()) + "\n" for item in [*worlds.shop(), *worlds.prober()]))
    out = tmp_path / "f.svg"
    assert run(["learn", "figure", what, "--from", str(flows), "--out", str(out)]) == 0
    root = ET.fromstring(out.read_text())
    assert root.tag.endswith("svg")
    assert ("orders" in out.read_text()) is (what == "graph")
