"""Reads NetFlow v5, NetFlow v9 and IPFIX: files of exported messages, one after the other (for IPFIX, RFC 5655).

`learner.sources.exports` takes the messages apart; this says what their records mean. Records are of one direction
and their flags are those of all packets together, so that only a SYN without an ACK proves who began; the rest is
told by who talks to several (`learner.sources.pairs`). Where an exporter saw the translation of addresses, the
caller's own address and the callee's own address are taken. Sampling and gaps in the exporter's count are accounted.
"""

from __future__ import annotations

import datetime as dt
import functools
import ipaddress
import pathlib
from collections.abc import Iterable, Iterator

from learner.sources import fields
from learner.sources.exports import Exporter, Record, begins_like_export, read_messages
from learner.sources.ledger import Ledger
from learner.sources.pairs import Half, Pairs
from learner.sources.rows import Input, Outcome
from mesh.flow import Flow
from mesh.problems import Diagnostic

# information elements (IANA's registry of IPFIX entities); those of NetFlow v9 have the same numbers
_PROTOCOL, _FLAGS, _SPORT, _DPORT = 4, 6, 7, 11
_SOURCES, _DESTINATIONS = (8, 27), (226, 282, 12, 28)
_POST_DPORT, _FORWARDING = 228, 89
_FIRST_UPTIME, _LAST_UPTIME = 22, 21
_START_S, _END_S, _START_MS, _END_MS, _START_NS, _END_NS = 150, 151, 152, 153, 156, 157
_SYN, _RST, _ACK = 0x02, 0x04, 0x10


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a file of messages; conversations whose direction nothing tells are counted as ambiguous.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source = Input(path, findings, ledger)
    pairs = Pairs(ledger, "netflow")
    exporter = Exporter(ledger)

    def parse(record: Record) -> Iterable[Outcome]:
        return pairs.outcomes(_half(record))

    for number, message in read_messages(source):
        try:
            records = exporter.records(message)
        except ValueError as err:
            ledger.seen += 1
            source.broken(number, str(err))
            continue
        for record in records:
            yield from source.take(number, functools.partial(parse, record))
    yield from source.count(pairs.finish())


def recognises(head: bytes) -> bool:
    """Whether it begins with the header of an exported message."""
    return begins_like_export(head)


def _half(record: Record) -> Half | str:
    number = record.number
    protocol = number(_PROTOCOL)
    if protocol not in {6, 17}:
        return "neither TCP nor UDP"
    source, destination = _address(record, _SOURCES), _address(record, _DESTINATIONS)
    if source is None or destination is None:
        return "without addresses"
    sport, dport = number(_SPORT), number(_POST_DPORT) or number(_DPORT)
    if sport is None or dport is None:
        return "without ports"
    start, end = _times(record)
    flags = number(_FLAGS)
    return Half(
        start=start,
        end=max(start, end),
        source=(source, fields.port("source port", sport)),
        destination=(destination, fields.port("destination port", dport)),
        protocol="tcp" if protocol == 6 else "udp",
        is_initiator=True if protocol == 6 and flags is not None and flags & _SYN and not flags & _ACK else None,
        is_refusal=protocol == 6 and flags is not None and bool(flags & _RST) and not flags & _SYN,
        # RFC 7270 §4.12: the two high bits 10 are "dropped"
        is_denied=((number(_FORWARDING) or 0) & 0xC0) == 0x80,
    )


def _address(record: Record, elements: tuple[int, ...]) -> str | None:
    """The first of several elements that is there and is not all zeros, as exporters fill what they do not know."""
    for element in elements:
        data = record.values.get(element)
        if data is not None and len(data) in {4, 16} and any(data):
            return fields.ip("address", str(ipaddress.ip_address(data)))
    return None


def _times(record: Record) -> tuple[dt.datetime, dt.datetime]:
    number = record.number
    if (first := number(_START_MS)) is not None:
        return _both(first, number(_END_MS))
    if (first := number(_START_NS)) is not None:
        # NTP's format: seconds since 1900 and a binary fraction (RFC 7011 §6.1.10)
        last = number(_END_NS)
        return _both(_ntp_ms(first), None if last is None else _ntp_ms(last))
    if (first := number(_START_S)) is not None:
        last = number(_END_S)
        return _both(first * 1000, None if last is None else last * 1000)
    first, last = number(_FIRST_UPTIME), number(_LAST_UPTIME)
    if first is not None and record.boot_ms is not None:
        return _both(record.boot_ms + first, None if last is None else record.boot_ms + last)
    # without any time, that of the export
    return _both(record.exported_ms, None)


def _ntp_ms(value: int) -> int:
    return ((value >> 32) - 2_208_988_800) * 1000 + ((value & 0xFFFFFFFF) * 1000 >> 32)


def _both(first_ms: int, last_ms: int | None) -> tuple[dt.datetime, dt.datetime]:
    start = fields.milliseconds("start", first_ms)
    return start, start if last_ms is None else fields.milliseconds("end", last_ms)
