"""Reads what `conntrack -E` and `conntrack -L` print, as text or as XML: with both tuples of a connection.

The original tuple names the caller; the reply tuple names who really answered, so that a service's address that was
translated (a Kubernetes ClusterIP) becomes that of the pod. Events are folded by connection; memory is bounded. A
listing has no times: the file's own is taken for what was open then. Times without an offset (XML, `-o ktimestamp`)
are UTC: run conntrack with `TZ=UTC`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.rows import Input, Outcome
from mesh.flow import Flow
from mesh.problems import Diagnostic

MAX_OPEN = 200_000
_OTHER = "neither TCP nor UDP"
_TUPLE = re.compile(r"src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)")
_EVENT = re.compile(r"\[(NEW|UPDATE|DESTROY)\]")
_STAMP = re.compile(r"\s*\[(\d+\.\d+)\]")
_STARTED = re.compile(r"\[start=([^\]]+)\]")
_LINE = re.compile(
    r"(?:\[\d+\.\d+\]\s*)?(?:\[(?:NEW|UPDATE|DESTROY)\]\s+)?(?:ipv[46]\s+\d+\s+)?(\w+)\s+(\d+)\s+(?:\d+\s)?"
)
_OVERRUN = re.compile(rb"ENOBUFS|losing events", re.IGNORECASE)
_UNANSWERED = frozenset({"SYN_SENT", "SYN_SENT2", "SYN_RECV", "NONE"})
Tuple = tuple[str, int, str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line: a connection's tuples and where it stood. ``event`` is None in a listing."""

    protocol: str
    original: Tuple
    reply: Tuple
    event: str | None
    state: str | None
    is_unreplied: bool
    is_assured: bool
    at: dt.datetime | None

    @property
    def is_established(self) -> bool:
        """Whether the callee had answered by then, and not only by a reset."""
        if self.is_unreplied:
            return False
        return self.protocol == "udp" or self.is_assured or (self.state or "CLOSE") not in _UNANSWERED | {"CLOSE"}


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The connections of a file, one flow each.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source = Input(path, findings, ledger)
    seen_at = _EPOCH + dt.timedelta(microseconds=path.stat().st_mtime_ns // 1000) if path.exists() else _EPOCH
    folded = _Folded(seen_at)
    for number, line in source.lines():
        if _OVERRUN.search(line):
            ledger.lost += 1
        elif not _is_talk(line):
            yield from source.take(number, lambda line=line: folded.outcomes(read_entry(line)))  # type: ignore[misc]  # mypy has no type for a lambda's default
    yield from source.count(folded.finish())


def recognises(head: bytes) -> bool:
    """Whether one of the first lines is an entry of conntrack."""
    if b"<conntrack>" in head[:200]:
        return True
    for line in head.split(b"\n")[:5]:
        text = line.decode("utf-8", "replace").strip()
        if _LINE.match(text) and len(_TUPLE.findall(text)) == 2:
            return True
    return False


def read_entry(line: bytes) -> Entry | None:
    """One line; None for a protocol without ports.

    Raises ValueError for what conntrack does not write.
    """
    text = line.decode("utf-8").strip()
    return _from_xml(text) if text.startswith("<") else _from_text(text)


class _Folded:
    """The connections that are not given out yet, by their original tuple."""

    def __init__(self, seen_at: dt.datetime) -> None:
        self._seen_at = seen_at
        self._open: dict[tuple[str, Tuple], Flow] = {}

    def outcomes(self, entry: Entry | None) -> Iterator[Outcome]:
        if entry is None:
            yield _OTHER
            return
        key = (entry.protocol, entry.original)
        at = entry.at or self._seen_at
        known = self._open.get(key)
        if known is not None and entry.event == "NEW":
            yield self._open.pop(key)
            known = None
        if known is None:
            while len(self._open) >= MAX_OPEN:
                yield self._open.pop(next(iter(self._open)))
            known = Flow(
                start=at,
                source_ip=entry.original[0],
                source_port=entry.original[1],
                # whoever the answers come from: the address that was called may be a translated one
                destination_ip=entry.reply[0],
                destination_port=entry.reply[1],
                protocol="tcp" if entry.protocol == "tcp" else "udp",
                established=False,
                sensor="conntrack",
            )
        established = bool(known.established) or entry.is_established
        self._open[key] = dataclasses.replace(known, end=max(at, known.end or at), established=established)
        if entry.event == "DESTROY":
            yield self._open.pop(key)

    def finish(self) -> Iterator[Flow]:
        while self._open:
            yield self._open.pop(next(iter(self._open)))


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _is_talk(line: bytes) -> bool:
    """What conntrack says beside its entries: how many there were, and the frame of XML."""
    text = line.strip()
    return text.startswith((b"conntrack v", b"<?xml", b"<conntrack>", b"</conntrack>"))


def _from_text(text: str) -> Entry | None:
    head = _LINE.match(text)
    if head is None:
        raise ValueError("it does not begin like an entry of conntrack")
    if head[1] not in {"tcp", "udp"}:
        return None
    tuples = _TUPLE.findall(text)
    if len(tuples) != 2:
        raise ValueError("an entry of TCP or UDP has two tuples")
    rest = text[head.end() :].split()
    state = rest[0] if rest and rest[0].isupper() and "=" not in rest[0] else None
    event, stamp, started = _EVENT.search(text), _STAMP.match(text), _STARTED.search(text)
    at = fields.seconds("timestamp", stamp[1]) if stamp else None
    if at is None and started:
        at = _ctime(started[1])
    return Entry(
        protocol=head[1],
        original=_tuple(*tuples[0]),
        reply=_tuple(*tuples[1]),
        event=event[1] if event else None,
        state=state,
        is_unreplied="[UNREPLIED]" in text,
        is_assured="[ASSURED]" in text,
        at=at,
    )


def _ctime(text: str) -> dt.datetime:
    try:
        return dt.datetime.strptime(text, "%a %b %d %H:%M:%S %Y").replace(tzinfo=dt.UTC)
    except ValueError as err:
        raise ValueError(f"`start` is no moment: {text[:40]}") from err


def _tuple(source: str, destination: str, sport: object, dport: object) -> Tuple:
    return (
        fields.ip("src", source),
        fields.port("sport", sport),
        fields.ip("dst", destination),
        fields.port("dport", dport),
    )


def _from_xml(text: str) -> Entry | None:
    """One `<flow>`; no declaration may stand in it, so no entity can be made up."""
    # conntrack names the program behind an event of user space after the element
    text = text[: text.rfind("</flow>") + len("</flow>")]
    if "<!" in text or not text.startswith("<flow"):
        raise ValueError("a line of XML is one `flow` element")
    try:
        flow = ET.fromstring(text)  # noqa: S314  one element of a line of bounded length, without declarations
    except ET.ParseError as err:
        raise ValueError(f"a line of XML is one `flow` element: {err}") from err
    metas = {meta.get("direction"): meta for meta in flow.findall("meta")}
    original, reply, own = metas.get("original"), metas.get("reply"), metas.get("independent")
    if original is None or reply is None:
        raise ValueError("a flow has both directions")
    layer = original.find("layer4")
    protocol = layer.get("protoname") if layer is not None else None
    if protocol not in {"tcp", "udp"}:
        return None
    kind = flow.get("type")
    return Entry(
        protocol=protocol,
        original=_xml_tuple(original),
        reply=_xml_tuple(reply),
        event=kind.upper() if kind else None,
        state=own.findtext("state") if own is not None else None,
        is_unreplied=own is not None and own.find("unreplied") is not None,
        is_assured=own is not None and own.find("assured") is not None,
        at=_when(flow.find("when")),
    )


def _xml_tuple(meta: ET.Element) -> Tuple:
    values = [meta.findtext(name) for name in ("layer3/src", "layer3/dst", "layer4/sport", "layer4/dport")]
    if any(value is None for value in values):
        raise ValueError("a tuple has src, dst, sport and dport")
    source, destination, sport, dport = (value or "" for value in values)
    return _tuple(source, destination, sport, dport)


def _when(found: ET.Element | None) -> dt.datetime | None:
    if found is None:
        return None
    names = ("year", "month", "day", "hour", "min", "sec")
    year, month, day, hour, minute, second = (fields.number(name, found.findtext(name), 0, 9999) for name in names)
    return dt.datetime(year, month, day, hour, minute, min(second, 59), tzinfo=dt.UTC)
