"""The Grafana dashboard: what sidecars, agents and the server count, by the metrics that they serve and no other.

Plain data in the form of Grafana's dashboard JSON (schemaVersion 39, Grafana 11); Prometheus is chosen when it is
imported, and the workloads that are shown by a variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_WIDTH, _HEIGHT, _ACROSS = 12, 8, 2
_SOURCE = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
_ONE = '{workload=~"$workload"}'


class Panel(NamedTuple):
    """A graph: its title, its unit as Grafana names it, and its lines, each a PromQL expression and its legend."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{_ONE}[$__rate_interval]))"


_DENIED = (
    'sum by (workload, caller) (rate(limen_sidecar_requests_total{workload=~"$workload", outcome!="allowed"}'
    "[$__rate_interval]))"
)
_OUTCOMES = _rate("limen_sidecar_requests_total", "workload, outcome")
_STATUS = _rate("limen_sidecar_requests_total", "workload, status")
_SHED = _rate("limen_sidecar_shed_total", "workload, code")


def _quantile(share: float) -> str:
    buckets = _rate("limen_sidecar_request_duration_seconds_bucket", "le, workload")
    return f"histogram_quantile({share}, {buckets})"


PANELS = (
    Panel("Requests", "reqps", ((_OUTCOMES, "{{workload}} {{outcome}}"),)),
    Panel("Answers", "reqps", ((_STATUS, "{{workload}} {{status}}"),)),
    Panel("Denied and refused, by caller", "reqps", ((_DENIED, "{{caller}} → {{workload}}"),)),
    Panel("Duration", "s", tuple((_quantile(share), f"{{{{workload}}}} p{share * 100:g}") for share in (0.5, 0.99))),
    Panel(
        "Open connections",
        "short",
        ((f"sum by (workload, direction) (limen_sidecar_open_connections{_ONE})", "{{workload}} {{direction}}"),),
    ),
    Panel(
        "Mutual TLS handshakes",
        "ops",
        (
            (_rate("limen_sidecar_handshakes_total", "workload, direction"), "{{workload}} {{direction}}"),
            (_rate("limen_sidecar_handshake_failures_total", "workload, code"), "{{workload}} {{code}}"),
        ),
    ),
    Panel(
        "Mutual TLS bytes",
        "Bps",
        (
            (_rate("limen_sidecar_received_bytes_total", "workload, direction"), "{{workload}} {{direction}} received"),
            (_rate("limen_sidecar_sent_bytes_total", "workload, direction"), "{{workload}} {{direction}} sent"),
        ),
    ),
    Panel("Not taken on, by code", "ops", ((_SHED, "{{workload}} {{code}}"),)),
    Panel(
        "Time left of SVIDs",
        "s",
        (
            ("limen_agent_svid_expiry_timestamp_seconds - time()", "{{instance}} first of its workloads"),
            ("limen_agent_node_svid_expiry_timestamp_seconds - time()", "{{instance}} node"),
        ),
    ),
    Panel(
        "Clocks, against the server's", "s", (("limen_agent_clock_skew_seconds", "{{instance}}"),)
    ),
    Panel(
        "Spans",
        "ops",
        (("sum by (instance, outcome) (rate(limen_agent_spans_total[$__rate_interval]))", "{{instance}} {{outcome}}"),),
    ),
    Panel(
        "Time left of authorities",
        "s",
        (("limen_authority_expiry_timestamp_seconds - time()", "{{kind}}"),),
    ),
    Panel("Agents behind the newest trust state", "short", (("limen_trust_agents_behind", "agents"),)),
    Panel(
        "Audit records not exported yet", "short", (("limen_audit_export_lag_records", "{{export}}"),)
    ),
)  # fmt: skip


def expressions() -> tuple[str, ...]:
    """Every PromQL expression of the dashboard, Grafana's variables and all."""
    return tuple(expression for panel in PANELS for expression, _ in panel.lines)


def dashboard(panels: Sequence[Panel] = PANELS) -> dict[str, object]:
    """The dashboard, as `Import` in Grafana takes it."""
    return {
        "__inputs": [
            {
                "name": "DS_PROMETHEUS",
                "label": "Prometheus",
                "type": "datasource",
                "pluginId": "prometheus",
                "pluginName": "Prometheus",
            }
        ],
        "uid": "limen",
        "title": "Limen",
        "tags": ["limen"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "workload",
                    "label": "Workload",
                    "type": "query",
                    "datasource": _SOURCE,
                    "query": {"query": "label_values(limen_sidecar_requests_total, workload)", "refId": "workload"},
                    "refresh": 2,
                    "includeAll": True,
                    "allValue": ".*",
                    "multi": True,
                    "current": {"text": "All", "value": "$__all"},
                }
            ]
        },
        "panels": [_panel(place, panel) for place, panel in enumerate(panels)],
    }


def _panel(place: int, panel: Panel) -> dict[str, object]:
    row, column = divmod(place, _ACROSS)
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": row * _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for number, (expression, legend) in enumerate(panel.lines)
        ],
    }
