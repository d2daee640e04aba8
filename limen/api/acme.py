"""The routes of ACME on the TLS port (RFC 8555 §7.1), its CRL, and what people on this host ask of it.

Every answer has a nonce, every refusal is a problem document with ACME's type; callers are counted by address before
a byte of theirs is read. Nonces and the directory cost no turn of the worker.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Annotated, Any

import structlog
from fastapi import Body, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from ca.acme import errors
from limen.acme.operators import Operators
from limen.acme.service import Acme
from limen.acme.shapes import retry_after
from limen.limits import PeerLimits
from mesh.problems import Invalid, Problem, Unavailable

MAX_BODY_BYTES = 65_536
_RATE, _BURST = 20.0, 400.0
_NEW_RATE, _NEW_BURST = 0.2, 60.0
_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,270}\Z")
Json = Any


class _Door:
    def __init__(self, acme: Acme, worker: Executor) -> None:
        self._acme, self._worker = acme, worker
        self._limits = PeerLimits(rate=_RATE, burst=_BURST)
        self._newcomers = PeerLimits(rate=_NEW_RATE, burst=_NEW_BURST)

    def admit(self, request: Request) -> None:
        """Count a caller by its address."""
        peer, moment = (request.client.host if request.client else ""), time.monotonic()
        is_new = request.url.path == "/acme/new-account"
        if not self._limits.take(peer, moment) or (is_new and not self._newcomers.take(peer, moment)):
            raise Unavailable("LM1409", what="requests from this address", seconds=10)

    def base(self, request: Request) -> str:
        """The URL that the caller knows this server by."""
        host = request.headers.get("host", "")
        if not _HOST.match(host):
            raise Invalid("LM1400", reason="the Host header is no host")
        return f"https://{host}"

    async def answer(self, request: Request, work: Callable[[str], Any]) -> Response:
        """Do the work and answer with a nonce, whatever comes of it."""
        try:
            self.admit(request)
            base = self.base(request)
            made: Response = await work(base)
        except Problem as problem:
            if problem.code not in errors.TYPES:
                structlog.get_logger().error("acme request failed", path=request.url.path, reason=str(problem))
            found, status = errors.document(problem)
            made = JSONResponse(found, status, retry_after(problem), "application/problem+json")
            base = ""
        except Exception as bug:  # noqa: BLE001  a bug answers as ACME does, with a report id and nothing else
            report = secrets.token_hex(6)
            structlog.get_logger().error("acme request failed", report=report, exc_info=bug)
            found, status = errors.document(Unavailable("LM0002", report=report))
            made = JSONResponse({**found, "detail": f"report {report}"}, status, None, "application/problem+json")
            base = ""
        made.headers["Replay-Nonce"] = self._acme.nonce()
        made.headers["Cache-Control"] = "no-store"
        if base and request.url.path != "/acme/directory":
            made.headers.append("Link", f'<{base}/acme/directory>;rel="index"')
        return made

    async def post(self, request: Request, base: str) -> Response:
        """One signed message."""
        if request.headers.get("content-type") != "application/jose+json":
            raise Invalid("LM1422")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise Invalid("LM1423", limit=MAX_BODY_BYTES)
        loop, path = asyncio.get_running_loop(), request.url.path
        status, headers, found = await loop.run_in_executor(self._worker, self._acme.call, bytes(body), base, path)
        if isinstance(found, bytes):
            return Response(found, status, headers, "application/pem-certificate-chain")
        return Response(b"", status, headers) if found is None else JSONResponse(found, status, headers)

    async def crl(self) -> Response:
        """The CRL."""
        found = await asyncio.get_running_loop().run_in_executor(self._worker, self._acme.crl)
        return Response(found, media_type="application/pkix-crl")

    async def renewal(self, name: str) -> Response:
        """When to renew."""
        headers, found = await asyncio.get_running_loop().run_in_executor(self._worker, self._acme.renewal, name)
        return JSONResponse(found, 200, headers)


def mount_public(api: FastAPI, acme: Acme, worker: Executor) -> None:
    """Mount what ACME clients use."""
    door = _Door(acme, worker)

    @api.get("/acme/directory")
    async def directory(request: Request) -> Response:
        async def work(base: str) -> Response:
            names = {
                "newNonce": "new-nonce",
                "newAccount": "new-account",
                "newOrder": "new-order",
                "revokeCert": "revoke-cert",
                "keyChange": "key-change",
                "renewalInfo": "renewal-info",
            }
            found: Json = {name: f"{base}/acme/{path}" for name, path in names.items()}
            return JSONResponse({**found, "meta": {"externalAccountRequired": acme.config.binding}})

        return await door.answer(request, work)

    @api.api_route("/acme/new-nonce", methods=["GET", "HEAD"])
    async def nonce(request: Request) -> Response:
        async def work(base: str) -> Response:
            del base
            return Response(status_code=200 if request.method == "HEAD" else 204)

        return await door.answer(request, work)

    @api.get("/acme/renewal-info/{name}")
    async def renewal(name: str, request: Request) -> Response:
        return await door.answer(request, lambda _: door.renewal(name))

    @api.get("/crl/acme.crl")
    async def crl(request: Request) -> Response:
        return await door.answer(request, lambda _: door.crl())

    @api.post("/acme/{rest:path}")
    async def post(rest: str, request: Request) -> Response:
        del rest
        return await door.answer(request, lambda base: door.post(request, base))


def mount_local(api: FastAPI, acme: Acme, operators: Operators, run: Callable[[Callable[[], Json]], Any]) -> None:
    """Mount what people on the server's host use."""

    @api.get("/v1/acme/status")
    async def status() -> Json:
        return await run(operators.status)

    @api.get("/v1/acme/accounts")
    async def accounts() -> Json:
        return await run(operators.list_accounts)

    @api.get("/v1/acme/orders")
    async def orders() -> Json:
        return await run(operators.list_orders)

    @api.get("/v1/acme/root")
    async def root() -> Json:
        return await run(operators.root)

    @api.post("/v1/acme/bindings")
    async def bindings(request: Request, label: Annotated[str, Body(embed=True, max_length=200)] = "") -> Json:
        return await run(lambda: operators.create_binding(label, actor=str(request.state.peer)))

    @api.post("/v1/acme/certificates/{serial:path}/revoke")
    async def revoke(serial: str, request: Request, reason: Annotated[int, Body(embed=True)] = 0) -> Json:
        return await run(lambda: acme.revoke(serial, reason=reason, actor=str(request.state.peer)))
