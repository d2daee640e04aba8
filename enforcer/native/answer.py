"""The answers that the data plane itself gives: refusals, each with its code, the deciding rule and what to do.

Bodies are JSON and hold nothing that the caller does not know or may not know: no header, no token, no path.
"""

from __future__ import annotations

import json

from enforcer.native.sentences import sentence
from mesh.request import Decision

_STATUS = {
    "LM3101": (426, "Upgrade Required"),
    "LM3105": (431, "Request Header Fields Too Large"),
    "LM3108": (403, "Forbidden"),
    "LM3112": (408, "Request Timeout"),
    "LM3113": (417, "Expectation Failed"),
    "LM3300": (503, "Service Unavailable"),
    "LM3302": (502, "Bad Gateway"),
    "LM3303": (503, "Service Unavailable"),
    "LM3304": (503, "Service Unavailable"),
    "LM3305": (503, "Service Unavailable"),
    "LM3221": (503, "Service Unavailable"),
    "LM3222": (503, "Service Unavailable"),
    "LM3223": (503, "Service Unavailable"),
    "LM3224": (502, "Bad Gateway"),
}
_BAD_REQUEST = (400, "Bad Request")
_FORBIDDEN = (403, "Forbidden")


def status_of(code: str) -> tuple[int, str]:
    """The status that a problem of HTTP itself is answered with."""
    return _STATUS.get(code, _BAD_REQUEST if code.startswith("LM31") else _FORBIDDEN)


def problem(code: str, facts: dict[str, object], *, record: str = "", with_body: bool = True) -> bytes:
    """The answer to something that is no request, or cannot be served; the connection ends with it."""
    body = {"code": code, "message": sentence(code, "message", facts), "help": sentence(code, "help", facts)}
    return _answer(status_of(code), body, record, close=True, with_body=with_body)


def denial(decision: Decision, *, record: str, close: bool, with_body: bool) -> bytes:
    """The answer to a request that the policies deny."""
    facts: dict[str, object] = {"policy": decision.policy, "rule": decision.rule, "tier": decision.tier}
    body = {
        "code": decision.code,
        "message": sentence(decision.code, "message", facts),
        "help": sentence(decision.code, "help", facts),
        "tier": decision.tier,
        "policy": decision.policy,
        "rule": decision.rule,
        "snapshot": decision.snapshot,
    }
    return _answer(_FORBIDDEN, body, record, close=close, with_body=with_body)


def _answer(status: tuple[int, str], body: dict[str, str], record: str, *, close: bool, with_body: bool) -> bytes:
    if record:
        body["decision"] = record
        body["why"] = f"limen audit show {record}"
    text = json.dumps(body, ensure_ascii=False).encode("utf-8") + b"\n"
    lines = [
        b"HTTP/1.1 %d %b\r\n" % (status[0], status[1].encode("ascii")),
        b"content-type: application/json\r\ncache-control: no-store\r\n",
        b"content-length: %d\r\n" % len(text),
        b"x-limen-code: %b\r\n" % body["code"].encode("ascii"),
    ]
    if status[0] == 426:
        lines.append(b"upgrade: HTTP/1.1\r\nconnection: upgrade\r\n")  # RFC 9110 §15.5.22
    elif status[0] == 503:
        lines.append(b"retry-after: 1\r\n")
    if close:
        lines.append(b"connection: close\r\n")
    lines.append(b"\r\n")
    if with_body:
        lines.append(text)
    return b"".join(lines)
