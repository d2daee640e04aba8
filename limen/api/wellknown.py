"""The standards' public documents: the SPIFFE bundle endpoint, and OpenID Connect discovery for JWT-SVIDs.

Anonymous callers read them (F-7), so they cost little: each is made once per change. This module holds no key but
public ones and decides nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import urllib.parse
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from fastapi import FastAPI, Request, Response

from ca.federation import WELL_KNOWN
from limen.api import problems
from mesh import canonicaljson
from mesh.bundle import TrustBundle
from mesh.problems import Invalid, NotFound

FRESH_S = 1.0
_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
Json = Any


class Documents:
    """What is published of a trust bundle. ``issuer`` is the OIDC issuer, None when there is none."""

    def __init__(self, bundle: Callable[[], TrustBundle], issuer: str | None = None) -> None:
        self._bundle, self._issuer = bundle, None if issuer is None else check_issuer(issuer)
        self._made: tuple[TrustBundle, bytes] | None = None

    def spiffe(self) -> tuple[bytes, int]:
        """The newest bundle document (F-8), and for how many seconds it may be kept."""
        found = self._bundle()
        if self._made is None or self._made[0] != found:
            self._made = (found, found.to_json())
        return self._made[1], found.refresh_seconds

    def keys(self) -> tuple[bytes, int]:
        """The JWT authorities as OIDC clients read them, those that do not sign yet or any more among them."""
        found = self._bundle()
        return canonicaljson.dumps({"keys": [_for_oidc(item) for item in found.jwt_authorities]}), found.refresh_seconds

    def configuration(self) -> tuple[bytes, int]:
        """The discovery document (OpenID Connect Discovery §3).

        Raises NotFound LM1520 when no issuer is configured.
        """
        if self._issuer is None:
            raise NotFound("LM1520")
        issuer = self._issuer
        algorithms = sorted({str(_for_oidc(item)["alg"]) for item in self._bundle().jwt_authorities} | {"ES256"})
        document: Json = {
            "issuer": issuer,
            "jwks_uri": issuer.rstrip("/") + "/keys",
            "authorization_endpoint": "",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        }
        return canonicaljson.dumps(document), self._bundle().refresh_seconds


def check_issuer(url: str) -> str:
    """Read an OIDC issuer: an https URL that clients compare character by character.

    Raises Invalid LM1515.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as err:
        raise Invalid("LM1515", url=url[:300], reason="it cannot be read") from err
    if parts.scheme != "https" or not host or port == 0 or "@" in parts.netloc:
        raise Invalid("LM1515", url=url[:300], reason="it is https, with a host and no user name")
    if "?" in url or "#" in url or not url.isascii() or not url.isprintable() or " " in url:
        raise Invalid("LM1515", url=url[:300], reason="it has no query, fragment or space")
    return url


def wellknown_api(documents: Documents, worker: Executor, api: FastAPI | None = None) -> FastAPI:
    """Add the routes to an API, or make one that has nothing else."""
    if api is None:
        api = FastAPI(title="Limen", docs_url=None, redoc_url=None, openapi_url=None)
        problems.mount(api)

    known: dict[str, tuple[float, bytes, int, str]] = {}

    async def newest(path: str, work: Callable[[], tuple[bytes, int]]) -> tuple[bytes, int, str]:
        """The document, at most a second old: however many strangers ask, the worker is asked once a second."""
        loop = asyncio.get_running_loop()
        if path not in known or loop.time() >= known[path][0]:
            document, seconds = await loop.run_in_executor(worker, work)
            tag = f'"{hashlib.sha256(document).hexdigest()[:32]}"'
            known[path] = (loop.time() + FRESH_S, document, seconds, tag)
        return known[path][1:]

    async def answer(request: Request, work: Callable[[], tuple[bytes, int]]) -> Response:
        document, seconds, tag = await newest(request.url.path, work)
        headers = {"etag": tag, "cache-control": f"public, max-age={seconds}"}
        if tag in [item.strip().removeprefix("W/") for item in request.headers.get("if-none-match", "").split(",")]:
            return Response(status_code=304, headers=headers)
        # RFC 8259 §11: JSON is UTF-8 and has no charset parameter (F-9)
        return Response(document, media_type="application/json", headers=headers)

    @api.get(WELL_KNOWN)
    async def bundle(request: Request) -> Response:
        return await answer(request, documents.spiffe)

    @api.get("/.well-known/openid-configuration")
    async def configuration(request: Request) -> Response:
        return await answer(request, documents.configuration)

    @api.get("/keys")
    async def keys(request: Request) -> Response:
        return await answer(request, documents.keys)

    return api


def _for_oidc(jwk: bytes) -> dict[str, object]:
    found = json.loads(jwk)
    algorithm = found.get("alg") or _ALGORITHMS.get(str(found.get("crv")), "RS256")
    return {**found, "use": "sig", "alg": algorithm}
