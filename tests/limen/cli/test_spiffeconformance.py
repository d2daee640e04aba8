import json
import os
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.system


def test_our_own_workload_api_conforms(make_installation: Callable[..., Any], until: Callable[..., Any]) -> None:
    installation = make_installation()
    none = installation.limen("spiffe-conformance", "-o", "json")
    assert (none.returncode, "LM1042" in none.stderr, json.loads(none.stdout)["conforms"]) == (4, True, True)
    assert [row["id"] for row in json.loads(none.stdout)["rows"] if row["result"] == "fail"] == []
    installation.rules(
        f'rules:\n- id: me\n  match: {{"unix:uid": "{os.geteuid()}"}}\n  spiffe_id: "/user/me"\n  direct: true\n'
    )
    until(lambda: installation.limen("spiffe-conformance").returncode == 0, 60)
    found = installation.json("spiffe-conformance")
    assert found["conforms"]
    # one domain that federates with none, and a caller who has an identity
    assert found["counts"] == {"pass": len(found["rows"]) - 2, "fail": 0, "n/a": 2}
    assert {row["id"] for row in found["rows"] if row["result"] != "pass"} == {"W-10", "W-12"}
    assert "0 MUST" in installation.limen("spiffe-conformance").stdout
    gone = installation.limen("spiffe-conformance", "--socket", "unix:///nowhere")
    assert (gone.returncode, "LM1041" in gone.stderr) == (3, True)
    assert installation.limen("spiffe-conformance", "--socket", "nowhere").returncode == 2
