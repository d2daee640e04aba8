"""The agent's own numbers for Prometheus: its clock against the server's, when its SVID ends, what it refused.

They are served by an agent alone: a server has no such clock, and a moment of 0 would cry that it has passed.
"""

from __future__ import annotations

import math

from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.registry import Collector

CLOCK_SKEW = Gauge(
    "limen_agent_clock_skew_seconds",
    "How far this host's clock is ahead of the server's; negative when it is behind.",
    registry=None,
)
NODE_SVID_EXPIRY = Gauge(
    "limen_agent_node_svid_expiry_timestamp_seconds", "When the node's own SVID ends, Unix time.", registry=None
)
SVID_EXPIRY = Gauge(
    "limen_agent_svid_expiry_timestamp_seconds",
    "When the first SVID of a launched workload ends, Unix time; NaN without.",
    registry=None,
)
ADMISSIONS = Counter(
    "limen_agent_admissions_total",
    "How the node's SVID was renewed or asked for anew.",
    ["way", "outcome"],
    registry=None,
)
REFUSED = Gauge(
    "limen_agent_refused_releases",
    "Releases and candidates refused since the last release was applied, ten at most: the last good one holds.",
    registry=None,
)
SPANS = Counter(
    "limen_agent_spans_total",
    "Spans of requests by what became of them: exported, failed, dropped for want of room.",
    ["outcome"],
    registry=None,
)
NONE = math.nan
"""No moment: what compares it with the present is false, and no alarm is raised."""
NODE_SVID_EXPIRY.set(NONE)
SVID_EXPIRY.set(NONE)
_published: list[bool] = []


def publish(*more: Collector) -> None:
    """Serve the numbers from now on, in this process, and what else its agent counts."""
    if not _published:
        _published.append(True)
        for found in (CLOCK_SKEW, NODE_SVID_EXPIRY, SVID_EXPIRY, ADMISSIONS, REFUSED, SPANS):
            REGISTRY.register(found)
        for collector in more:
            REGISTRY.register(collector)
