"""Reads `Issuer` documents with the strict reader: bounded, asymmetric, keys from where nobody can overhear them."""

from __future__ import annotations

import ipaddress
import json
import re
import urllib.parse
from collections.abc import Mapping
from typing import cast

from mesh.jwks import ALGORITHMS, parse_jwks
from mesh.jwtproof import LEEWAY_S, MAX_LEEWAY_S
from mesh.problems import Invalid
from policyengine.issuer import BINDINGS, Binding, Issuer
from policyengine.reading import MISSING, Path, Reader

_OPTIONAL = ("jwks_uri", "ca", "keys", "algorithms", "leeway", "bind")
_MAX_TEXT, _MAX_PEM = 2048, 65_536
_SECONDS = re.compile(r"([0-9]{1,3})s")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


def read_issuer(reader: Reader, name: str, owner: str, value: object, path: Path) -> Issuer | None:
    """The spec of an Issuer; None when anything in it is refused.

    1. The issuer and its audiences are texts, compared exactly.
    2. Keys come from exactly one place: an `https` address, with authorities of its own if wanted, or the document.
    3. Algorithms are asymmetric; clocks differ by 60 seconds at most.
    """
    fields = reader.mapping(value, path, ("issuer", "audiences"), _OPTIONAL)
    if fields is None:
        return None
    before = len(reader.findings)
    # (1)
    issuer = _text(reader, fields["issuer"], (*path, "issuer"))
    audiences = reader.items(fields["audiences"], (*path, "audiences"), lambda item, at: _text(reader, item, at))
    # (2)
    if ("jwks_uri" in fields) == ("keys" in fields):
        _refuse(reader, path, "an issuer has either `jwks_uri` or `keys`")
    if "ca" in fields and "jwks_uri" not in fields:
        _refuse(reader, (*path, "ca"), "`ca` goes with `jwks_uri`")
    uri = _address(reader, fields["jwks_uri"], (*path, "jwks_uri")) if "jwks_uri" in fields else None
    authorities = _authorities(reader, fields["ca"], (*path, "ca")) if "ca" in fields else ""
    keys = _keys(reader, fields["keys"], (*path, "keys")) if "keys" in fields else None
    # (3)
    algorithms = _words(reader, fields, "algorithms", path, ALGORITHMS)
    bind = _words(reader, fields, "bind", path, BINDINGS)
    leeway = _leeway(reader, fields.get("leeway", LEEWAY_S), (*path, "leeway"))
    if len(reader.findings) > before or issuer is None or audiences is None or leeway is None:
        return None
    return Issuer(
        name=name, owner=owner, issuer=issuer, audiences=audiences, jwks_uri=uri, ca=authorities or "", keys=keys,
        algorithms=algorithms or ALGORITHMS, leeway_s=leeway,
        bind=cast("tuple[Binding, ...]", bind or ()),  # each was one of the words
    )  # fmt: skip


def issuer_to_json(found: Issuer) -> dict[str, object]:
    """The spec as it would stand in a file; what is as it would be anyway is left out."""
    out: dict[str, object] = {"issuer": found.issuer, "audiences": list(found.audiences)}
    if found.jwks_uri is not None:
        out["jwks_uri"] = found.jwks_uri
    if found.ca:
        out["ca"] = found.ca
    if found.keys is not None:
        out["keys"] = json.loads(found.keys)
    if found.algorithms != ALGORITHMS:
        out["algorithms"] = list(found.algorithms)
    if found.leeway_s != LEEWAY_S:
        out["leeway"] = found.leeway_s
    if found.bind:
        out["bind"] = list(found.bind)
    return out


def _refuse(reader: Reader, path: Path, reason: str) -> None:
    reader.refuse(path, "LM2060", reason=reason)


def _text(reader: Reader, value: object, path: Path) -> str | None:
    text = reader.text(value, path)
    if text is not None and not 0 < len(text) <= _MAX_TEXT:
        _refuse(reader, path, f"it has 1 to {_MAX_TEXT} characters")
        return None
    return text


def _address(reader: Reader, value: object, path: Path) -> str | None:
    """An `https` URL without user and fragment; `http` on the loopback interface alone, where nobody overhears it."""
    text = _text(reader, value, path)
    if text is None:
        return None
    try:
        parts = urllib.parse.urlsplit(text)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        parts, port, host = urllib.parse.urlsplit(""), 0, ""
    plain = text.isascii() and text.isprintable() and " " not in text
    if not plain or not _HOST.fullmatch(host if ":" not in host else f"[{host}]") or port == 0:
        _refuse(reader, path, "`jwks_uri` is the URL of a key set")
    elif "@" in parts.netloc or "#" in text:
        _refuse(reader, path, "`jwks_uri` names no user and no fragment")
    elif parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        _refuse(reader, path, "`jwks_uri` begins with `https://`: whoever sits between could choose the keys")
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _authorities(reader: Reader, value: object, path: Path) -> str | None:
    text = reader.prose(value, path)
    if text is None:
        return None
    rest = _CERTIFICATE.sub("", text).strip() if len(text) <= _MAX_PEM else "x"
    if rest or "CERTIFICATE" not in text:
        _refuse(reader, path, "`ca` consists of certificates in PEM")
        return None
    return text.strip() + "\n"


def _keys(reader: Reader, value: object, path: Path) -> str | None:
    if value is MISSING:
        return None
    if not isinstance(value, Mapping):
        reader.refuse(path, "LM2004", field="keys", expected="a mapping")
        return None
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        found = parse_jwks(text.encode())
    except (TypeError, ValueError):
        _refuse(reader, path, "`keys` is a JSON Web Key Set")
        return None
    except Invalid as problem:
        _refuse(reader, path, f"`keys` is a JSON Web Key Set: {problem.facts['reason']}")
        return None
    listed = value.get("keys")
    if not found or not isinstance(listed, list) or len(found) != len(listed):
        _refuse(reader, path, "`keys` holds public keys for signatures: RSA of 2048 bits or more, P-256, P-384, P-521")
        return None
    return text


def _words(
    reader: Reader, fields: Mapping[str, object], name: str, path: Path, known: tuple[str, ...]
) -> tuple[str, ...] | None:
    if name not in fields:
        return None
    found = reader.items(fields[name], (*path, name), lambda item, at: reader.choice(item, at, known))
    return None if found is None else tuple(word for word in known if word in found)


def _leeway(reader: Reader, value: object, path: Path) -> int | None:
    """Seconds: a whole number, or with an `s` behind it."""
    match = _SECONDS.fullmatch(value) if isinstance(value, str) else None
    seconds = int(match[1]) if match is not None else value
    if type(seconds) is not int or not 0 <= seconds <= MAX_LEEWAY_S:
        _refuse(reader, path, f"clocks differ by 0 to {MAX_LEEWAY_S} seconds")
        return None
    return seconds
