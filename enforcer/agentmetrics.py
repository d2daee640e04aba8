"""The agent's own numbers for Prometheus: its clock against the server's, and when its SVID ends."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

CLOCK_SKEW = Gauge(
    "limen_agent_clock_skew_seconds", "How far this host's clock is ahead of the server's; negative when it is behind."
)
NODE_SVID_EXPIRY = Gauge("limen_agent_node_svid_expiry_timestamp_seconds", "When the node's own SVID ends, Unix time.")
SVID_EXPIRY = Gauge(
    "limen_agent_svid_expiry_timestamp_seconds",
    "When the first SVID of a launched workload ends, Unix time; 0 without.",
)
ADMISSIONS = Counter(
    "limen_agent_admissions_total", "How the node's SVID was renewed or asked for anew.", ["way", "outcome"]
)
