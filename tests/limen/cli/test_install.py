"""`limen install`: the dashboard speaks of metrics that a running installation serves, and of no others."""

from __future__ import annotations

import json
import pathlib
import re
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from limen.__main__ import run

_METRIC = re.compile(r"\blimen_[a-z_]+")
_OF_FAMILY = re.compile(r"_(?:total|bucket|sum|count)\Z")


@pytest.mark.system
def test_every_metric_of_the_dashboard_is_served_by_a_running_installation(
    installation: Any,
) -> None:
    told = json.loads(installation.limen("install", "grafana").stdout)
    asked = set(_METRIC.findall(json.dumps(told)))
    served: set[str] = set()
    for process in ("server", "agent"):
        with urllib.request.urlopen(installation.address(process, "metrics"), timeout=100) as answer:
            served |= {family.name for family in text_string_to_metric_families(answer.read().decode())}
    assert len(asked) > 10
    assert {name for name in asked if name not in served and _OF_FAMILY.sub("", name) not in served} == set()


@pytest.mark.system
def test_what_prometheus_scrapes_is_where_the_processes_serve(installation: Any) -> None:
    said = installation.limen("install", "prometheus").stdout
    for process in ("server", "agent"):
        address = installation.address(process, "metrics").removeprefix("http://").removesuffix("/metrics")
        assert f"  - job_name: limen-{process}\n    metrics_path: /metrics\n" in said
        assert f'targets: ["{address}"]' in said


def test_without_an_installation_there_is_nothing_to_scrape(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--state", str(tmp_path), "install", "prometheus"]) == 3
    assert "LM5271" in capsys.readouterr().err
