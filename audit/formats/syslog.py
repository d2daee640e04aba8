r"""RFC 5424 messages with structured data, one a line; the message is the record itself.

`PRI` is of facility 13 (log audit), the time the record's own, the host name the trust domain of its source, `MSGID`
its kind. `limen@32473` holds what people search by (32473 is the enterprise number that RFC 5612 gives those who have
none), `meta` the log's index as its sequence (§7.3.1). In a value `"`, `\` and `]` are escaped (§6.3.3), and control
characters, which receivers treat in ways of their own, become U+FFFD. The message is JSON in ASCII: it needs no BOM.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

from audit.formats.meaning import Gravity, Meaning, meaning, read
from audit.record import Record
from mesh.clock import format_time

FACILITY: Final = 13
SD_ID = "limen@32473"
_SEVERITY = {Gravity.INFO: 6, Gravity.NOTICE: 5, Gravity.WARNING: 4, Gravity.ERROR: 3}
_MAX_SEQUENCE = 2147483647
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ESCAPED = re.compile(r'(["\\\]])')
_PRINTABLE = re.compile(r"[^\x21-\x7e]")
_FIELDS = (
    "decision",
    "policy_decision",
    "mode",
    "direction",
    "caller",
    "destination",
    "port",
    "peer_ip",
    "protocol",
    "method",
    "host",
    "path",
    "policy",
    "rule",
    "tier",
    "snapshot",
    "code",
    "event",
    "actor",
    "spiffe_id",
    "serial",
    "review",
    "node",
)


def lines(records: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """The records as messages, one a line, in the order of the log; on the wire RFC 5425 counts their octets instead.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    for index, data in records:
        yield message(index, data) + b"\n"


def message(index: int, data: bytes, *, body: bytes | None = None) -> bytes:
    """The message of a record; ``body`` is the record in another form, to be sent in its place.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    record = read(index, data)
    said = meaning(index, record)
    priority = FACILITY * 8 + _SEVERITY[said.gravity]
    time, host, kind = format_time(said.time), _name(_domain(said.source), 255), _name(said.kind, 32)
    if body is None:
        said_as = data.decode() if data.isascii() else json.dumps(record, ensure_ascii=True, separators=(",", ":"))
    else:
        # UTF-8 begins with its mark (§6.4)
        said_as = body.decode() if body.isascii() else f"\ufeff{body.decode()}"
    if said_as.lstrip("\ufeff").startswith("{"):
        # JSON has DEL as it is, and only in texts
        said_as = said_as.replace("\x7f", "\\u007f")
    structured = f'{_elements(record, said)}[meta sequenceId="{index % _MAX_SEQUENCE + 1}"]'
    return f"<{priority}>1 {time} {host} limen - {kind} {structured} {said_as}".encode()


def _elements(record: Record, said: Meaning) -> str:
    found = [f'id="{_value(said.id)}"', f'source="{_value(said.source)}"', f'action="{_value(said.action)}"']
    for name in _FIELDS:
        value = record.get(name)
        if (type(value) is str and value) or type(value) is int:
            found.append(f'{name}="{_value(str(value))}"')
    if said.trace_id is not None:
        found.append(f'trace_id="{said.trace_id}"')
    if said.span_id is not None:
        found.append(f'span_id="{said.span_id}"')
    return f"[{SD_ID} {' '.join(found)}]"


def _value(text: str) -> str:
    return _ESCAPED.sub(r"\\\1", _CONTROL.sub("\ufffd", text))


def _name(text: str, longest: int) -> str:
    """A header's field: printable ASCII without spaces; `-` for nothing."""
    return _PRINTABLE.sub("_", text)[:longest] or "-"


def _domain(source: str) -> str:
    """The trust domain that a source names: `server:corp.test` and `spiffe://corp.test/…` alike."""
    return source.rpartition("://")[2].partition("/")[0].rpartition(":")[2] or source
