"""The answers that the data plane itself gives: refusals, each with its code, the deciding rule and what to do.

Bodies are JSON and hold nothing that the caller does not know or may not know: no header, no token, no path.
"""

from __future__ import annotations

import json
from typing import NamedTuple

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
    "LM3308": (503, "Service Unavailable"),
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


class Refusal(NamedTuple):
    """A refusal before it is written: status and reason, fields, body."""

    status: tuple[int, str]
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def wire(self, *, with_body: bool) -> bytes:
        """The answer as HTTP/1.1 has it."""
        lines = [b"HTTP/1.1 %d %b\r\n" % (self.status[0], self.status[1].encode("ascii"))]
        lines += [b"%b: %b\r\n" % field for field in self.fields]
        lines.append(b"\r\n")
        if with_body:
            lines.append(self.body)
        return b"".join(lines)


def problem(code: str, facts: dict[str, object], *, record: str = "", with_body: bool = True) -> bytes:
    """The answer to something that is no request, or cannot be served; the connection ends with it."""
    return problem_refusal(code, facts, record=record).wire(with_body=with_body)


def problem_refusal(code: str, facts: dict[str, object], *, record: str = "") -> Refusal:
    """What `problem` writes."""
    body = {"code": code, "message": sentence(code, "message", facts), "help": sentence(code, "help", facts)}
    return _refusal(status_of(code), body, record, close=True)


def denial(decision: Decision, *, record: str, close: bool, with_body: bool) -> bytes:
    """The answer to a request that the policies deny."""
    return denial_refusal(decision, record=record, close=close).wire(with_body=with_body)


def denial_refusal(decision: Decision, *, record: str, close: bool) -> Refusal:
    """What `denial` writes."""
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
    return _refusal(_FORBIDDEN, body, record, close=close)


def _refusal(status: tuple[int, str], body: dict[str, str], record: str, *, close: bool) -> Refusal:
    if record:
        body["decision"] = record
        body["why"] = f"limen audit show {record}"
    text = json.dumps(body, ensure_ascii=False).encode("utf-8") + b"\n"
    fields = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(text)),
        (b"x-limen-code", body["code"].encode("ascii")),
    ]
    if status[0] == 426:
        fields += [(b"upgrade", b"HTTP/1.1"), (b"connection", b"upgrade")]  # RFC 9110 §15.5.22
    elif status[0] == 503:
        fields.append((b"retry-after", b"1"))
    if close:
        fields.append((b"connection", b"close"))
    return Refusal(status, tuple(fields), text)
