"""Reads Suricata's EVE JSON: `flow` records of TCP and UDP, and the requests of `http` records.

A flow of HTTP whose requests were logged is left out for them (remembered for the last ``MAX_REMEMBERED`` flows). A
TCP flow without a SYN began before Suricata looked: its direction is not known. Packets that the kernel dropped, as
`stats` records say, are lost.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.rows import Input, Object, Outcome, json_object
from mesh.flow import Flow
from mesh.problems import Diagnostic

MAX_REMEMBERED = 200_000


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a log.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source = Input(path, findings, ledger)
    reader = _Reader(ledger)
    for number, line in source.lines():
        yield from source.take(number, lambda line=line: reader.outcomes(json_object(line)))  # type: ignore[misc]  # mypy has no type for a lambda's default


def recognises(head: bytes) -> bool:
    """Whether the first line is an event of EVE."""
    try:
        row = json_object(head.lstrip().partition(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    return {"timestamp", "event_type"} <= set(row) and ("src_ip" in row or row["event_type"] == "stats")


class _Reader:
    """What was said of the requests of flows that have not ended."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._with_requests: dict[object, None] = {}
        self._dropped = 0

    def outcomes(self, row: Object) -> list[Outcome]:
        kind = row["event_type"]
        if kind == "stats":
            self._lost(row)
            return ["statistics"]
        if kind == "http":
            return [self._request(row)]
        if kind == "flow":
            return self._flow(row)
        return [f"{str(kind)[:40]} events"]

    def _lost(self, row: Object) -> None:
        """The counter grows while Suricata runs, and begins anew with it."""
        capture = fields.mapping(fields.mapping(row, "stats"), "capture")
        dropped = fields.number("kernel_drops", capture.get("kernel_drops", 0))
        self._ledger.lost += dropped - self._dropped if dropped >= self._dropped else dropped
        self._dropped = dropped

    def _request(self, row: Object) -> Outcome:
        http = fields.mapping(row, "http")
        self._with_requests[row.get("flow_id")] = None
        if len(self._with_requests) > MAX_REMEMBERED:
            del self._with_requests[next(iter(self._with_requests))]
        status = http.get("status")
        url = fields.text(http, "url")
        return Flow(
            start=fields.moment("timestamp", row["timestamp"]),
            source_ip=fields.ip("src_ip", row["src_ip"]),
            destination_ip=fields.ip("dest_ip", row["dest_ip"]),
            destination_port=fields.port("dest_port", row["dest_port"]),
            protocol="http",
            method=fields.text(http, "http_method"),
            path=url.partition("?")[0] if url else None,
            status=fields.number("status", status, 0, 999) if status is not None else None,
            established=True,
            sensor="suricata",
        )

    def _flow(self, row: Object) -> list[Outcome]:
        protocol = str(row["proto"]).lower()
        if protocol not in {"tcp", "udp"}:
            return ["neither TCP nor UDP"]
        if row.get("flow_id") in self._with_requests:
            del self._with_requests[row.get("flow_id")]
            return ["of a flow whose requests were read"]
        flow, tcp = fields.mapping(row, "flow"), fields.mapping(row, "tcp")
        ends = fields.ip("src_ip", row["src_ip"]), fields.ip("dest_ip", row["dest_ip"])
        port = fields.port("dest_port", row["dest_port"])
        if protocol == "tcp" and tcp.get("syn") is not True:
            self._ledger.mark_ambiguous(f"{ends[0]}:{row.get('src_port')} - {ends[1]}:{port} tcp")
            return []
        back = fields.number("pkts_toclient", flow.get("pkts_toclient", 0))
        answered = back > 0 and (_has_syn_back(tcp) or protocol == "udp" or tcp.get("state") in _ESTABLISHED)
        return [
            Flow(
                start=fields.moment("start", flow["start"]),
                end=fields.moment("end", flow["end"]) if "end" in flow else None,
                source_ip=ends[0],
                destination_ip=ends[1],
                destination_port=port,
                protocol="tcp" if protocol == "tcp" else "udp",
                established=answered,
                sensor="suricata",
            )
        ]


# `closed` is where a refused connection ends too
_ESTABLISHED = frozenset({"established", "fin_wait1", "fin_wait2", "time_wait", "last_ack", "close_wait", "closing"})


def _has_syn_back(tcp: Object) -> bool:
    """Whether the callee sent a SYN, by the flags of its side as hexadecimal text: it answered the handshake."""
    text = fields.text(tcp, "tcp_flags_tc") or "0"
    try:
        return bool(int(text, 16) & 0x02)
    except ValueError as err:
        raise ValueError(f"`tcp_flags_tc` is hexadecimal: {text[:20]}") from err
