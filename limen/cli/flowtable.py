"""How conversations and flows are shown: a table for people, the public JSON objects for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from limen.cli import render
from mesh.flow import Flow

if TYPE_CHECKING:
    from learner.flows import Row


def show_rows(rows: Sequence[Row], output: str) -> None:
    """The rows of a flow table."""
    if output == "json":
        render.data([row.to_json() for row in rows])
        return
    render.table(
        [
            (
                f"{row.source_ip}:{row.source_port}",
                f"{row.destination_ip}:{row.destination_port}",
                row.protocol,
                row.packets,
                row.bytes,
                f"{(row.last - row.first).total_seconds():.3f}",
                "yes" if row.established else "no",
            )
            for row in rows
        ],
        ("source", "destination", "protocol", "packets", "bytes", "seconds", "established"),
    )


def show_flows(found: Sequence[Flow], output: str) -> None:
    """Flows of any source."""
    if output == "json":
        render.data([flow.to_json() for flow in found])
        return
    render.table(
        [
            (
                flow.source or flow.source_ip or "?",
                f"{flow.destination or flow.destination_ip or '?'}:{flow.destination_port}",
                flow.protocol,
                flow.method or "",
                flow.path or "",
                flow.status or "",
                {True: "yes", False: "no", None: "?"}[flow.established],
            )
            for flow in found
        ],
        ("source", "destination", "protocol", "method", "path", "status", "established"),
    )
