"""Every format of traffic by its name: what it is, whether it was tried against its tool, and who reads it.

A file's format is told from its content, and from nothing else; content that two formats claim is nobody's. It
reads the beginning of a file and keeps no state.
"""

from __future__ import annotations

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Iterator

from learner.sources import (
    als,
    azure,
    conntrack,
    decisions,
    envoy,
    gcp,
    hubble,
    istio,
    limen,
    live,
    netflow,
    otel,
    parquet,
    pcap,
    sockets,
    suricata,
    vpc,
    zeek,
)
from learner.sources.ledger import Ledger
from learner.sources.rows import open_bytes
from mesh.flow import Flow
from mesh.problems import Diagnostic, Invalid, Span

HEAD_BYTES = 65536
Reader = Callable[[pathlib.Path, list[Diagnostic], Ledger], Iterator[Flow]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format; ``is_experimental`` says that it was never tried on what the real tool wrote."""

    name: str
    title: str
    read: Reader
    recognises: Callable[[bytes], bool]
    is_experimental: bool = False


# what was never tried on the output of the tool itself is experimental, and the help says so
_ALL = (
    ("limen", "Limen's flows", limen, False),
    ("decisions", "Limen's decision records", decisions, False),
    ("parquet", "Limen's decision records as Parquet, a file or a directory of days", parquet, False),
    ("live", "what `limen flows capture` and `limen flows sockets` wrote", live, False),
    ("pcap", "pcap and pcapng captures", pcap, False),
    ("envoy", "Envoy's JSON access logs", envoy, False),
    ("als", "Envoy's gRPC access log entries, as delimited protobuf or JSON lines", als, False),
    ("istio", "Istio's text access logs", istio, False),
    ("conntrack", "conntrack -E and -L, text and XML", conntrack, False),
    ("sockets", "a host's sockets, by ss -tuan or /proc/net/tcp", sockets, False),
    ("netflow", "NetFlow v5, v9 and IPFIX messages", netflow, False),
    ("otel", "OpenTelemetry traces as OTLP JSON", otel, False),
    ("zeek", "Zeek's conn.log, TSV and JSON", zeek, True),
    ("hubble", "Hubble's flows as JSON", hubble, True),
    ("suricata", "Suricata's EVE JSON", suricata, True),
    ("vpc", "AWS VPC flow logs, versions 2 to 5", vpc, True),
    ("gcp", "Google Cloud's VPC flow logs", gcp, True),
    ("azure", "Azure's NSG and VNet flow logs", azure, True),
)
FORMATS: dict[str, Format] = {
    name: Format(name=name, title=title, read=one.read_flows, recognises=one.recognises, is_experimental=untried)
    for name, title, one, untried in _ALL
}


def read_source(
    path: pathlib.Path, form: str, findings: list[Diagnostic], ledger: Ledger | None = None
) -> Iterator[Flow]:
    """The flows of a file of the named format, or of the one that its content shows (`auto`).

    What was left out and what limits the input stands in the ledger; when the last flow was taken it is said in
    ``findings`` too.

    Raises Invalid LM4001 for an unreadable file, LM4007 for one that no reader knows, LM4014 for one that several
    know.
    """
    found = FORMATS[detect(path) if form == "auto" else form]
    account = ledger if ledger is not None else Ledger(file=str(path), source=found.name)
    account.source = found.name
    return _told(path, found, findings, account)


def _told(path: pathlib.Path, found: Format, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    yield from found.read(path, findings, ledger)
    if found.name == "pcap":  # it has findings of its own
        return
    place = Span(file=str(path), line=1, column=1)
    skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(ledger.skipped.items()))
    if skipped:
        findings.append(Diagnostic(code="LM4016", span=place, facts={"source": found.name, "counts": skipped}))
    if limits := ledger.limits():
        findings.append(Diagnostic(code="LM4015", span=place, facts={"limits": "; ".join(limits)}))


def detect(path: pathlib.Path) -> str:
    """Tell a file's format from its first bytes; a directory is one of Parquet.

    Raises Invalid LM4001, LM4007 or LM4014.
    """
    if path.is_dir():
        return "parquet"
    try:
        with open_bytes(path) as file:
            head = file.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as err:
        raise Invalid("LM4001", file=str(path), reason=getattr(err, "strerror", None) or str(err)) from err
    found = [item.name for item in FORMATS.values() if item.recognises(head)]
    if not found:
        raise Invalid("LM4007", file=str(path))
    if len(found) > 1:
        raise Invalid("LM4014", file=str(path), candidates=", ".join(found))
    return found[0]
