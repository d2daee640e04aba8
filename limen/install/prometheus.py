"""What Prometheus scrapes on this host: a configuration with the addresses that running processes have written down."""

from __future__ import annotations

import json
import pathlib
import urllib.parse

_JOBS = ("server", "agent")


def scrape(run: pathlib.Path) -> str:
    """A `scrape_configs` section for the processes whose files are in ``run``; empty when none runs."""
    jobs = []
    for name in _JOBS:
        try:
            addresses = json.loads((run / f"{name}.json").read_text("utf-8"))["addresses"]
            found = urllib.parse.urlsplit(str(addresses["metrics"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        jobs.append(
            f"  - job_name: limen-{name}\n    metrics_path: {found.path}\n"
            f'    static_configs: [{{targets: ["{found.netloc}"]}}]\n'
        )
    return "scrape_configs:\n" + "".join(jobs) if jobs else ""
