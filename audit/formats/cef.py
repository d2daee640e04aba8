r"""ArcSight Common Event Format, version 0, one event a line.

Escaping (CEF Implementation Standard, "Character encoding"): in the header `\` and `|`, in an extension `\`, `=` and
line breaks; a header has no line breaks. Keys are those of the extension dictionary, and values are cut to its lengths;
`LimenAuditRecord` holds the whole record as it stands in the log, so that nothing is lost.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator

from audit.formats.meaning import PRODUCT, VENDOR, Gravity, Outcome, is_address, meaning, read, version
from audit.record import Record

RAW = "LimenAuditRecord"
_SEVERITY = {Gravity.INFO: 1, Gravity.NOTICE: 3, Gravity.WARNING: 6, Gravity.ERROR: 9}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)
_LONGEST_HEADER = 512
# extension key, the record's field, and the dictionary's length
_TEXTS = (
    ("suid", "caller", 1023),
    ("suser", "actor", 1023),
    ("duid", "destination", 1023),
    ("duser", "spiffe_id", 1023),
    ("app", "protocol", 31),
    ("requestMethod", "method", 1023),
    ("dhost", "host", 1023),
    ("request", "path", 1023),
    ("reason", "code", 1023),
)
# the six custom texts: their labels, and the record's fields
_CUSTOM = (
    ("policy", "policy"),
    ("rule", "rule"),
    ("tier", "tier"),
    ("snapshot", "snapshot"),
    ("mode", "mode"),
)
_LONGEST_CUSTOM = 4000


def lines(records: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """The records as CEF events, one a line, in the order of the log.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    for index, data in records:
        yield line(index, data).encode() + b"\n"


def line(index: int, data: bytes) -> str:
    """The CEF event of a record, without a line break.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    record = read(index, data)
    said = meaning(index, record)
    code = record.get("code")
    head = (
        VENDOR,
        PRODUCT,
        version(),
        f"{said.kind}:{code if isinstance(code, str) and code else said.action}",
        f"{said.kind} {said.action}",
        str(_SEVERITY[said.gravity]),
    )
    values: dict[str, str] = {
        "rt": str((said.time - _EPOCH) // _MILLISECOND),
        "externalId": said.id,
        "cat": said.kind,
        "act": said.action,
        "outcome": "failure" if said.outcome is Outcome.FAILURE else "success",
        "deviceProcessName": said.source[:1023],
        "msg": said.message[:1023],
    }
    _sides(record, values)
    for number, (label, name) in enumerate(_CUSTOM, 1):
        value = record.get(name)
        if type(value) is str and value:
            values |= {f"cs{number}": value[:_LONGEST_CUSTOM], f"cs{number}Label": label}
    if said.trace_id is not None:
        values |= {"cs6": said.trace_id, "cs6Label": "traceId"}
    values[RAW] = data.decode()
    head_text = "|".join(_header(item[:_LONGEST_HEADER]) for item in head)
    return f"CEF:0|{head_text}|" + " ".join(f"{name}={_value(text)}" for name, text in values.items())


def _sides(record: Record, values: dict[str, str]) -> None:
    for key, name, longest in _TEXTS:
        value = record.get(name)
        if type(value) is str and value:
            values[key] = value[:longest]
    ip, port = record.get("peer_ip"), record.get("port")
    if type(ip) is str and is_address(ip):
        # `src` is an IPv4 address in the dictionary; an IPv6 address has a custom field of its own
        values |= {"c6a2": ip, "c6a2Label": "sourceIPv6"} if ":" in ip else {"src": ip}
    if type(port) is int and 0 <= port <= 65535:
        values["dpt"] = str(port)


def _header(text: str) -> str:
    return " ".join(text.splitlines()).replace("\\", "\\\\").replace("|", "\\|")


def _value(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("=", "\\=")
    return escaped.replace("\r", "\\r").replace("\n", "\\n")
