"""Spans of the requests that a sidecar serves, where the agent asked for them; the agent exports them.

A request that comes with a sampled trace gets a span in it; one without a valid trace begins one, as often as the agent
said; one whose trace is not sampled passes as it came. What goes to the workload names the new span as its parent.
Spans wait in a bounded queue, and what did not fit is counted. This module sends nothing, and no attribute of a span
holds a query, a token or another header.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable

from enforcer.native.http1 import RequestHead
from enforcer.native.judge import Judgement
from enforcer.native.records import Contact
from enforcer.native.tracecontext import is_state, parse_parent, write_parent

MAX_WAITING = 2048
MAX_PORTION = 256
WHOLE = 1_000_000
_MAX_TEXT = 1024
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))
_PARENT, _STATE = b"traceparent", b"tracestate"


@dataclasses.dataclass(slots=True)
class Span:
    """A request that is being served. ``begin_ns`` is Unix time, ``started_ns`` of a clock that only goes forward."""

    trace_id: str
    span_id: str
    parent_id: str
    keeps_state: bool
    begin_ns: int
    started_ns: int


class Tracer:
    """Makes the spans of one workload. ``per_million`` of the requests that belong to no trace begin one."""

    def __init__(
        self,
        per_million: int,
        *,
        random: Callable[[int], bytes] = os.urandom,
        wall_ns: Callable[[], int] = time.time_ns,
        ticks_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._bound = (min(per_million, WHOLE) << 64) // WHOLE
        self._random, self._wall_ns, self._ticks_ns = random, wall_ns, ticks_ns
        self._waiting: list[dict[str, object]] = []
        self.dropped = 0

    def begin(self, head: RequestHead) -> Span | None:
        """Begin the span of a request; None for one that is not traced.

        1. A valid parent says whether the trace is sampled, and its state goes on if it is valid.
        2. Without one a new trace begins, sampled by what its own random id says.
        """
        parents, states = [], []
        for name, value in head.fields:
            if len(name) in {10, 11}:  # few names are so long
                lowered = name.lower()
                if lowered == _PARENT:
                    parents.append(value)
                elif lowered == _STATE:
                    states.append(value)
        parent = parse_parent(parents)
        # (1)
        if parent is not None:
            if not parent.is_sampled:
                return None
            trace_id, parent_id, keeps = parent.trace_id, parent.span_id, is_state(states)
        # (2)
        else:
            found = self._random(16)
            if int.from_bytes(found[8:], "big") >= self._bound:
                return None
            trace_id, parent_id, keeps = found.hex(), "", False
        return Span(trace_id, self._random(8).hex(), parent_id, keeps, self._wall_ns(), self._ticks_ns())

    def end(self, span: Span, head: RequestHead, judgement: Judgement, contact: Contact, status: int | None) -> None:
        """Put a span whose request is over into the queue; without a ``status`` it was cut off."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        decision = judgement.decision
        attributes: dict[str, object] = {
            "http.request.method": head.method if head.method in _METHODS else "_OTHER",
            "url.scheme": "http",
            "url.path": judgement.path[:_MAX_TEXT],
            "server.address": head.host_name[:_MAX_TEXT],
            "server.port": contact.port,
            "network.protocol.version": "1.1",
            "network.peer.address": contact.peer_ip,
            "limen.peer": contact.caller or "",
            "limen.decision": str(decision.effect),
            "limen.policy_decision": str(decision.policy_effect),
            "limen.code": decision.code,
            "limen.tier": decision.tier,
            "limen.policy": decision.policy,
            "limen.rule": decision.rule,
            "limen.snapshot": decision.snapshot,
        }
        if head.method not in _METHODS:
            attributes["http.request.method_original"] = head.method[:_MAX_TEXT]
        if status is not None:
            attributes["http.response.status_code"] = status
        error = _error(judgement, status)
        if error:
            attributes["error.type"] = error
        self._waiting.append(
            {
                "trace_id": span.trace_id,
                "span_id": span.span_id,
                "parent_id": span.parent_id,
                "begin_ns": span.begin_ns,
                "end_ns": span.begin_ns + max(0, self._ticks_ns() - span.started_ns),
                "error": error,
                "attributes": attributes,
            }
        )

    def take(self) -> list[dict[str, object]]:
        """Take the next portion of the spans that are over."""
        taken, self._waiting = self._waiting[:MAX_PORTION], self._waiting[MAX_PORTION:]
        return taken


def _error(judgement: Judgement, status: int | None) -> str:
    """What kind of failure a span is; empty for none. A denial is one: its caller may not, and somebody should look."""
    if not judgement.decision.is_allowed:
        return judgement.decision.code
    if status is None:
        return "cut"
    return str(status) if status >= 500 else ""


def forwarded(span: Span, head: RequestHead) -> RequestHead:
    """The head with the span as its parent, for the workload.

    The value changes where the field stands; with several of them, none or a state that is dropped the fields change.
    """
    value = write_parent(span.trace_id, span.span_id)
    places = [place for place, (name, _) in enumerate(head.fields) if name.lower() == _PARENT]
    has_state = not span.keeps_state and any(name.lower() == _STATE for name, _ in head.fields)
    if len(places) == 1 and not has_state:
        fields = list(head.fields)
        fields[places[0]] = fields[places[0]][0], value
        is_gap = head.form is not None and places[0] in head.form.gaps
        return head._replace(fields=tuple(fields), form=head.form if is_gap else None)
    dropped = {_PARENT} if span.keeps_state else {_PARENT, _STATE}
    kept = [field for field in head.fields if field[0].lower() not in dropped]
    return head._replace(fields=(*kept, (_PARENT, value)), form=None)
