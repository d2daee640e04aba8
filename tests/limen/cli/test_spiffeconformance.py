import os
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.system


def test_our_own_workload_api_conforms(make_installation: Callable[..., Any], until: Callable[..., Any]) -> None:
    installation = make_installation()
    installation.rules(
        f'rules:\n- id: me\n  match: {{"unix:uid": "{os.geteuid()}"}}\n  spiffe_id: "/user/me"\n  direct: true\n'
    )
    until(lambda: installation.limen("spiffe-conformance").returncode == 0, 60)
    found = installation.json("spiffe-conformance")
    assert found["conforms"]
    assert len(found["rows"]) > 40
    assert {row["result"] for row in found["rows"] if row["level"] == "M"} == {"pass"}
    assert "0 MUST" in installation.limen("spiffe-conformance").stdout
    gone = installation.limen("spiffe-conformance", "--socket", "unix:///nowhere")
    assert (gone.returncode, "LM1041" in gone.stderr) == (3, True)
    assert installation.limen("spiffe-conformance", "--socket", "nowhere").returncode == 2
