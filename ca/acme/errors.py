"""Which ACME error type and HTTP status stand for a code (RFC 8555 §6.7). The one place where they meet."""

from __future__ import annotations

from mesh.problems import Problem

PREFIX = "urn:ietf:params:acme:error:"
TYPES: dict[str, tuple[str, int]] = {
    "LM1400": ("malformed", 400),
    "LM1401": ("badNonce", 400),
    "LM1402": ("badSignatureAlgorithm", 400),
    "LM1403": ("unauthorized", 403),
    "LM1404": ("accountDoesNotExist", 400),
    "LM1405": ("externalAccountRequired", 403),
    "LM1406": ("rejectedIdentifier", 403),
    "LM1407": ("badCSR", 400),
    "LM1408": ("orderNotReady", 403),
    "LM1409": ("rateLimited", 429),
    "LM1410": ("alreadyRevoked", 400),
    "LM1411": ("badRevocationReason", 400),
    "LM1412": ("badPublicKey", 400),
    "LM1413": ("invalidContact", 400),
    "LM1414": ("connection", 400),
    "LM1415": ("dns", 400),
    "LM1416": ("incorrectResponse", 403),
    "LM1417": ("tls", 400),
    "LM1419": ("malformed", 404),
    "LM1420": ("unsupportedIdentifier", 400),
    "LM1421": ("malformed", 409),
    "LM1422": ("malformed", 415),
    "LM1423": ("malformed", 413),
}


def document(problem: Problem) -> tuple[dict[str, object], int]:
    """The problem document (RFC 7807) of a problem, and its HTTP status; what is no ACME error is serverInternal."""
    kind, status = TYPES.get(problem.code, ("serverInternal", 500))
    detail = f"{problem.code}: {problem.message}" if problem.code in TYPES else problem.code
    found: dict[str, object] = {"type": PREFIX + kind, "detail": detail[:1000], "status": status}
    if problem.code == "LM1402":
        found["algorithms"] = ["ES256", "ES384", "RS256", "EdDSA"]
    return found, status
