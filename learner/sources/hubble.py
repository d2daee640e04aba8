"""Reads Hubble's flows as JSON lines (`hubble observe -o jsonpb` or the exporter): cilium's api/v1/flow/flow.proto.

Hubble reports packets: what is not a reply begins a conversation, and a reply proves that it was answered. Of HTTP,
the response is taken, which holds the request's method and path too. Memory is bounded: beyond ``MAX_OPEN``
conversations the oldest are given out as they are. Events that Hubble lost are counted.
"""

from __future__ import annotations

import dataclasses
import pathlib
import urllib.parse
from collections.abc import Iterator

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.rows import Input, Object, Outcome, json_object
from mesh.flow import Flow, Verdict
from mesh.problems import Diagnostic

MAX_OPEN = 100_000
_DENIED = frozenset({"DROPPED", "ERROR"})
_Key = tuple[str, int, str, int, str]


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a log.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source = Input(path, findings, ledger)
    reader = _Reader(ledger)
    for number, line in source.lines():
        yield from source.take(number, lambda line=line: reader.outcomes(json_object(line)))  # type: ignore[misc]  # mypy has no type for a lambda's default
    yield from source.count(reader.finish())


def recognises(head: bytes) -> bool:
    """Whether the first line is a flow of Hubble, wrapped or bare."""
    try:
        row = json_object(head.lstrip().partition(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    if isinstance(row.get("lost_events"), dict) and "node_name" in row:
        return True
    found = row.get("flow") if isinstance(row.get("flow"), dict) else row
    return isinstance(found, dict) and {"verdict", "Type"} <= set(found) and ("IP" in found or "l4" in found)


class _Reader:
    """The conversations that have begun and may yet be answered."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open: dict[_Key, Flow] = {}

    def outcomes(self, row: Object) -> Iterator[Outcome]:
        if "lost_events" in row:
            lost = fields.mapping(row, "lost_events")
            self._ledger.lost += fields.number("num_events_lost", lost["num_events_lost"])
            return
        flow = fields.mapping(row, "flow") if "flow" in row else row
        if "verdict" not in flow:
            yield "of another kind than a flow"
        elif flow.get("Type") == "L7":
            yield _http(flow)
        else:
            yield from self._packet(flow)

    def finish(self) -> Iterator[Flow]:
        while self._open:
            yield self._open.pop(next(iter(self._open)))

    def _packet(self, flow: Object) -> Iterator[Outcome]:
        name, layer = _layer4(flow)
        if name is None:
            yield "neither TCP nor UDP"
            return
        addresses = fields.mapping(flow, "IP")
        source, destination = (
            fields.ip("source", addresses["source"]),
            fields.ip("destination", addresses["destination"]),
        )
        sport = fields.port("source_port", layer.get("source_port", 0))
        dport = fields.port("destination_port", layer.get("destination_port", 0))
        key, back = (source, sport, destination, dport, name), (destination, dport, source, sport, name)
        is_reply = flow.get("is_reply")
        if is_reply is True or (is_reply is None and _is_syn_ack(layer)):
            found = self._open.get(back)
            if found is None:
                yield "an answer to what was not seen"
            else:
                # a reset answers nothing that was established
                refused = bool(fields.mapping(layer, "flags").get("RST")) and not found.established
                self._open[back] = dataclasses.replace(found, established=not refused)
            return
        if is_reply is None and flow["verdict"] not in _DENIED and name == "tcp" and not _is_syn(layer):
            self._ledger.mark_ambiguous(f"{source}:{sport} - {destination}:{dport} {name}")
            return
        if key in self._open:
            return
        if len(self._open) >= MAX_OPEN:
            yield self._open.pop(next(iter(self._open)))
        self._open[key] = Flow(
            start=fields.moment("time", flow["time"]),
            source_ip=source,
            destination_ip=destination,
            destination_port=dport,
            protocol="tcp" if name == "tcp" else "udp",
            established=False,
            replica=fields.text(fields.mapping(flow, "source"), "pod_name"),
            sensor="hubble",
            verdict=Verdict.DENIED if flow["verdict"] in _DENIED else None,
        )


def _layer4(flow: Object) -> tuple[str | None, Object]:
    layers = fields.mapping(flow, "l4")
    for name in ("TCP", "UDP"):
        if name in layers:
            return name.lower(), fields.mapping(layers, name)
    return None, {}


def _is_syn(layer: Object) -> bool:
    flags = fields.mapping(layer, "flags")
    return flags.get("SYN") is True and not flags.get("ACK")


def _is_syn_ack(layer: Object) -> bool:
    flags = fields.mapping(layer, "flags")
    return flags.get("SYN") is True and flags.get("ACK") is True


def _http(flow: Object) -> Outcome:
    layer = fields.mapping(flow, "l7")
    http = fields.mapping(layer, "http")
    if not http:
        return "an event of layer 7 other than HTTP"
    is_denied = flow["verdict"] in _DENIED
    if layer.get("type") != "RESPONSE" and not is_denied:
        return "an HTTP request: its response says what came of it"
    # a response goes from the callee to the caller
    ends = ("destination", "source") if layer.get("type") == "RESPONSE" else ("source", "destination")
    addresses = fields.mapping(flow, "IP")
    name, transport = _layer4(flow)
    if name is None:
        raise ValueError("`l4` of an HTTP event has TCP")
    port = transport["source_port" if ends[0] == "destination" else "destination_port"]
    url = fields.text(http, "url") or ""
    code = fields.number("code", http.get("code", 0), 0, 999)
    return Flow(
        start=fields.moment("time", flow["time"]),
        source_ip=fields.ip("IP", addresses[ends[0]]),
        destination_ip=fields.ip("IP", addresses[ends[1]]),
        destination_port=fields.port("port", port),
        protocol="http",
        method=fields.text(http, "method"),
        path=urllib.parse.urlsplit(url).path or "/",
        status=code or None,
        established=not is_denied,
        replica=fields.text(fields.mapping(flow, ends[0]), "pod_name"),
        sensor="hubble",
        verdict=Verdict.DENIED if is_denied else None,
    )
