"""The golden signals of this host's sidecars, as Prometheus reads them from the agent.

Sidecars tell what was added, and so do programs without one, whose word is their own; here it adds up, by workload.
Labels are bounded: so many workloads, so many rows of each, and no label that is not of its kind. Connections that are
open are asked for when Prometheus asks.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from enforcer.native.signals import BUCKETS_S, OTHER
from mesh.problems import Invalid

MAX_WORKLOADS = 256
MAX_CALLER = 2048  # the longest SPIFFE ID
MAX_ROWS = 2048
"""Of each workload: what goes beyond counts together. Sixteen sidecars that name 32 callers each have room."""
_BOUNDS = [*map(str, BUCKETS_S), "+Inf"]
_OUTCOMES = frozenset(("allowed", "denied", "refused"))
_WAYS = frozenset(("inbound", "outbound"))
_STATUS = re.compile(r"[1-9]xx|none")
_CODE = re.compile(r"(?:LM[0-9]{4})?")

# how many connections are open now, by workload and direction
Open = Callable[[], Iterable[tuple[str, str, int]]]


class SidecarSignals(Collector):
    """Adds up what sidecars tell."""

    def __init__(self, is_open: Open) -> None:
        self._open = is_open
        self._workloads: set[str] = set()
        self._rows: collections.Counter[str] = collections.Counter()
        self._requests: collections.Counter[tuple[str, ...]] = collections.Counter()
        self._durations: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self._handshakes: collections.Counter[tuple[str, ...]] = collections.Counter()
        self._failures: collections.Counter[tuple[str, ...]] = collections.Counter()
        self._shed: collections.Counter[tuple[str, ...]] = collections.Counter()
        self._received: collections.Counter[tuple[str, ...]] = collections.Counter()
        self._sent: collections.Counter[tuple[str, ...]] = collections.Counter()

    def add(self, workload: str, message: Mapping[str, object]) -> None:
        """Add what a workload's sidecar counted since it told last.

        Raises Invalid LM3002 for what is not such a message; nothing of it counts then.
        """
        told = dict[str, Any](message)  # of any shape: what has another one fails here
        try:
            requests = [
                (str(port)[:16], str(caller)[:MAX_CALLER], str(outcome), str(status), _count(count))
                for port, caller, outcome, status, count in told["requests"]
            ]
            durations = [_count(count) for count in told["durations"]]
            seconds = float(told["seconds"])
            handshakes = [(str(way), str(code), _count(count)) for way, code, count in told["handshakes"]]
            shed = [(str(code), _count(count)) for code, count in told["shed"]]
            moved = [(str(way), _count(came), _count(went)) for way, came, went in told["bytes"]]
        except (KeyError, TypeError, ValueError) as err:
            raise Invalid("LM3002", reason="signals are counts") from err
        if (
            len(durations) != len(_BOUNDS)
            or not all(row[2] in _OUTCOMES and _STATUS.fullmatch(row[3]) for row in requests)
            or not all(way in _WAYS for way, *_ in (*handshakes, *moved))
            or not all(_CODE.fullmatch(code) for code in (*(row[1] for row in handshakes), *(row[0] for row in shed)))
            or not math.isfinite(seconds)
            or seconds < 0
        ):
            raise Invalid("LM3002", reason="signals are counts")
        name = self._bounded(workload)
        for port, caller, outcome, status, count in requests:
            self._add(self._requests, name, (port, caller, outcome, status), (OTHER, OTHER, outcome, status), count)
        known = self._durations.setdefault(name, [0] * len(_BOUNDS))
        self._durations[name] = [before + more for before, more in zip(known, durations, strict=True)]
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        for way, code, count in handshakes:
            if code:
                self._add(self._failures, name, (way, code), (way, OTHER), count)
            else:
                self._handshakes[name, way] += count
        for code, count in shed:
            self._add(self._shed, name, (code,), (OTHER,), count)
        for way, came, went in moved:
            self._received[name, way] += came
            self._sent[name, way] += went

    def _add(
        self,
        counts: collections.Counter[tuple[str, ...]],
        name: str,
        labels: tuple[str, ...],
        instead: tuple[str, ...],
        count: int,
    ) -> None:
        """Count under labels, or under others when the workload has had its share of rows."""
        if (name, *labels) not in counts:
            if self._rows[name] >= MAX_ROWS:
                labels = instead
            else:
                self._rows[name] += 1
        counts[name, *labels] += count

    def _bounded(self, workload: str) -> str:
        if workload not in self._workloads and len(self._workloads) >= MAX_WORKLOADS:
            return OTHER
        self._workloads.add(workload)
        return workload

    def collect(self) -> Iterable[Metric]:
        """What Prometheus reads."""
        for name, text, labels, counts in (
            (
                "limen_sidecar_requests",
                "Requests, and at L4 connections, by caller, outcome and class of status.",
                ["port", "caller", "outcome", "status"],
                self._requests,
            ),
            ("limen_sidecar_handshakes", "Mutual TLS handshakes that succeeded.", ["direction"], self._handshakes),
            (
                "limen_sidecar_handshake_failures",
                "Mutual TLS handshakes that failed, by code.",
                ["direction", "code"],
                self._failures,
            ),
            ("limen_sidecar_shed", "What was not taken on for want of room, by code.", ["code"], self._shed),
            ("limen_sidecar_received_bytes", "Bytes of mutual TLS that came.", ["direction"], self._received),
            ("limen_sidecar_sent_bytes", "Bytes of mutual TLS that were sent.", ["direction"], self._sent),
        ):
            counter = CounterMetricFamily(name, text, labels=["workload", *labels])
            for key, count in counts.items():
                counter.add_metric(key, count)
            yield counter
        durations = HistogramMetricFamily(
            "limen_sidecar_request_duration_seconds",
            "From a request's decision to the end of its answer.",
            labels=["workload"],
        )
        for name, found in self._durations.items():
            total, buckets = 0, []
            for bound, count in zip(_BOUNDS, found, strict=True):
                total += count
                buckets.append((bound, total))
            durations.add_metric([name], buckets, self._seconds[name])
        yield durations
        gauge = GaugeMetricFamily(
            "limen_sidecar_open_connections", "Mutual TLS connections that are open.", labels=["workload", "direction"]
        )
        now: collections.Counter[tuple[str, str]] = collections.Counter()
        for workload, direction, count in self._open():
            now[self._bounded(workload), direction] += count
        for key, count in now.items():
            gauge.add_metric(key, count)
        yield gauge


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a count is a whole number")
    return value
