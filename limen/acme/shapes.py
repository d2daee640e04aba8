"""How ACME's objects look on the wire (RFC 8555 §7.1), and small readings that the rim shares. Nothing is decided."""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.acme import names, store
from ca.acme.jws import Jws, malformed
from mesh.problems import Problem

Json = Any


def no_payload(message: Jws) -> None:
    """Refuse a payload where an object is only read (POST-as-GET)."""
    if message.payload:
        raise malformed("this is read with an empty payload")


def waiting(status: str) -> dict[str, str]:
    """The header that tells a client to ask again soon."""
    return {"Retry-After": "1"} if status in {"processing", "pending"} else {}


def order_json(row: store.Row, base: str) -> Json:
    """An order."""
    found: dict[str, Json] = {
        "status": row["status"],
        "expires": _second(row["expires"]),
        "identifiers": [{"type": kind, "value": value} for kind, value in json.loads(row["identifiers"])],
        "authorizations": [f"{base}/acme/authz/{item}" for item in json.loads(row["authorizations"])],
        "finalize": f"{base}/acme/finalize/{row['id']}",
    }
    if row["status"] == "valid":
        found["certificate"] = f"{base}/acme/cert/{row['certificate']}"
    if row["error"]:
        found["error"] = json.loads(row["error"])
    return found


def authorization_json(row: store.Row, challenges: Sequence[store.Row], base: str) -> Json:
    """An authorization with its challenges."""
    is_wildcard = row["value"].startswith("*.")
    shown = [item for item in challenges if row["status"] in {"pending", "deactivated"} or item["status"] != "pending"]
    found: dict[str, Json] = {
        "status": row["status"],
        "expires": _second(row["expires"]),
        "identifier": {"type": row["type"], "value": row["value"].removeprefix("*.")},
        "challenges": [challenge_json(item, base) for item in shown],
    }
    return {**found, "wildcard": True} if is_wildcard else found


def challenge_json(row: store.Row, base: str) -> Json:
    """A challenge."""
    found = {
        "type": row["type"],
        "url": f"{base}/acme/challenge/{row['id']}",
        "status": row["status"],
        "token": row["token"],
    }
    if row["validated"]:
        found["validated"] = _second(row["validated"])
    if row["error"]:
        found["error"] = json.loads(row["error"])
    return found


def _second(moment: str) -> str:
    return moment.partition(".")[0] + "Z"


def own_names(host: str, more: Sequence[str]) -> list[names.Identifier]:
    """The names that this server's own ACME certificate is for."""
    found: dict[names.Identifier, None] = {}
    for item in (host, *more, "localhost"):
        try:
            address = ipaddress.ip_address(item)
        except ValueError:
            found["dns", names.dns_name(item)] = None
            continue
        if not address.is_unspecified:
            found["ip", str(address)] = None
    return list(found)


def retry_after(problem: Problem) -> dict[str, str]:
    """The header that tells a limited caller when to come again."""
    return {"Retry-After": str(math.ceil(float(str(problem.facts["seconds"]))))} if problem.code == "LM1409" else {}


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as PEM, for memory only."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
