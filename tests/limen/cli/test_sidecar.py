import json
from typing import Any

import pytest

pytestmark = pytest.mark.system


def test_a_workload_that_does_not_run_is_named(installation: Any) -> None:
    done = installation.limen("sidecar", "upgrade", "nobody")
    assert done.returncode != 0
    assert "LM3467" in done.stderr


def test_without_a_name_all_workloads_are_meant_and_there_may_be_none(installation: Any) -> None:
    done = installation.limen("sidecar", "upgrade", "-o", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
