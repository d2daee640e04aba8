"""Where accounts, orders, authorizations and challenges may go (RFC 8555 §7.1.6): all of it stands here. Pure."""

from __future__ import annotations

from mesh.problems import Conflict

ORDER: dict[tuple[str, str], str] = {
    ("pending", "proven"): "ready",
    ("pending", "refused"): "invalid",
    ("ready", "finalize"): "processing",
    ("ready", "refused"): "invalid",
    ("processing", "issued"): "valid",
}
AUTHORIZATION: dict[tuple[str, str], str] = {
    ("pending", "proven"): "valid",
    ("pending", "refused"): "invalid",
    ("pending", "deactivate"): "deactivated",
    ("valid", "deactivate"): "deactivated",
}
CHALLENGE: dict[tuple[str, str], str] = {
    ("pending", "respond"): "processing",
    ("processing", "proven"): "valid",
    ("processing", "refused"): "invalid",
}
ACCOUNT: dict[tuple[str, str], str] = {("valid", "deactivate"): "deactivated", ("valid", "revoke"): "revoked"}
Table = dict[tuple[str, str], str]


def move(table: Table, status: str, event: str) -> str:
    """The status after an event.

    Raises Conflict LM1421 for an event that has no place there.
    """
    found = table.get((status, event))
    if found is None:
        raise Conflict("LM1421", status=status, event=event)
    return found


def challenge_types(kind: str, *, is_wildcard: bool) -> tuple[str, ...]:
    """How a name may be proven: a wildcard by DNS alone (RFC 8555 §7.1.3), an address never by DNS (RFC 8738 §7)."""
    if is_wildcard:
        return ("dns-01",)
    return ("http-01", "tls-alpn-01") if kind == "ip" else ("http-01", "dns-01", "tls-alpn-01")
