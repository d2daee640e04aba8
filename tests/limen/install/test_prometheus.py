"""What Prometheus scrapes, by what running processes wrote down."""

import json
import pathlib

from limen.install.prometheus import scrape


def test_each_process_that_runs_is_scraped(tmp_path: pathlib.Path) -> None:
    assert scrape(tmp_path) == ""
    (tmp_path / "agent.json").write_text(json.dumps({"addresses": {"metrics": "http://127.0.0.1:9/metrics"}}))
    (tmp_path / "server.json").write_text("{}")
    assert scrape(tmp_path) == (
        "scrape_configs:\n  - job_name: limen-agent\n    metrics_path: /metrics\n"
        '    static_configs: [{targets: ["127.0.0.1:9"]}]\n'
    )
