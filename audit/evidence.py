"""An evidence pack's readable page: one HTML file that needs no script, no network and nothing beside it. Pure.

Everything that comes from records is escaped, and the page forbids scripts and requests by its own policy: a record is
written by whoever caused it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

Json = Mapping[str, object]
MAX_ROWS = 1000
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1a1a1a}"
    "table{border-collapse:collapse;width:100%;margin:.5rem 0 2rem}th,td{text-align:left;vertical-align:top;"
    "padding:.25rem .6rem;border-bottom:1px solid #ddd;overflow-wrap:anywhere;min-width:4.5rem}"
    "th{background:#f4f4f4;white-space:nowrap}"
    "code,pre{font:13px ui-monospace,monospace}pre{background:#f4f4f4;padding:.8rem;overflow-x:auto}"
    ".deny{color:#a40000}@media print{body{margin:0;max-width:none}}"
)


def cell(value: object) -> str:
    """A value as text of the page."""
    if value is None or value == "":
        return "-"
    return html.escape(value if isinstance(value, str) else str(value), quote=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; every cell is escaped."""
    head = "".join(f"<th scope=col>{cell(name)}</th>" for name in headers)
    body = "".join("<tr>" + "".join(f"<td>{cell(item)}</td>" for item in row) + "</tr>\n" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>\n"


def page(
    *,
    title: str,
    facts: Sequence[tuple[str, object]],
    releases: Sequence[Sequence[object]],
    counts: Sequence[Sequence[object]],
    rows: Sequence[Json],
    total: int,
) -> str:
    """The page: what was asked, which releases were in force and who approved them, what was decided, the records."""
    shown = [
        (
            row["index"],
            row["time"],
            row["kind"],
            row.get("decision") or row.get("event"),
            row.get("caller") or row.get("actor") or row.get("spiffe_id"),
            row.get("destination") or row.get("service"),
            " ".join(str(row[name]) for name in ("method", "path") if row.get(name)),
            row.get("code"),
            row["id"],
        )
        for row in rows
    ]
    more = (
        f"<p>The first {len(shown)} of {total}; <code>records.jsonl</code> has all.</p>" if total > len(shown) else ""
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY, quote=True)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{cell(title)}</title><style>{_STYLE}</style></head><body>\n<h1>{cell(title)}</h1>\n"
        f"{table(('asked and found', 'value'), facts)}"
        "<h2>Check it yourself</h2><p>Take the log's public key from whoever runs it, not from this pack. Each proof "
        "leads from one record to the signed checkpoint:</p>"
        "<pre>python verify_log.py KEY_FILE --proof proofs/*.json</pre>"
        "<p>A snapshot's name is the SHA-256 of its canonical content; approvals are DSSE envelopes over it.</p>\n"
        f"<h2>Releases in force, and who approved them</h2>\n"
        f"{table(('from', 'release', 'snapshot', 'by', 'approved', 'key'), releases)}"
        f"<h2>Decisions</h2>\n{table(('service', 'caller', 'decision', 'code', 'records'), counts)}"
        f"<h2>Records</h2>{more}\n"
        f"{table(('record', 'time', 'kind', 'what', 'who', 'to', 'request', 'code', 'id'), shown)}"
        "</body></html>\n"
    )
