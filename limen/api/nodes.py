"""The routes of nodes: on the TLS port to join, attest and come back; on `server.sock` to list, ban and allow.

What strangers send is bounded before it is read, and counted by their address before anything is computed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, Request

from limen.api.schemas import AttestBody, BanBody, ChallengeBody, JoinBody, ReadmitBody
from limen.app import App
from limen.attestation import Evidence
from limen.limits import PeerLimits
from mesh.problems import Invalid, Unavailable

T = TypeVar("T")
Json = Any
MAX_BODY_BYTES = 65_536
# a rack behind one address may start at once; whoever asks more waits a little
_RATE, _BURST = 20.0, 200.0
_MAX_FETCHES = 32


def mount_public(api: FastAPI, app: App, worker: Executor) -> None:
    """Mount what agents use before they have an SVID."""

    async def run(work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(worker, work)

    @api.post("/v1/node/join")
    async def join(body: JoinBody) -> Json:
        spki = decoded(body.spki)
        return await run(lambda: app.join(body.token, spki))

    @api.post("/v1/node/nonce")
    async def nonce() -> Json:
        # no state and no database: not worth a turn of the worker
        return app.nodes.nonce()

    @api.post("/v1/node/readmit")
    async def readmit(body: ReadmitBody) -> Json:
        spki, key, signature = decoded(body.spki), decoded(body.key), decoded(body.signature)
        return await run(
            lambda: app.nodes.readmit(body.node, nonce=body.nonce, spki=spki, key=key, signature=signature)
        )

    # issuers that hang hold up nothing but each other
    fetching = ThreadPoolExecutor(2, "jwks")
    turns = asyncio.Semaphore(_MAX_FETCHES)

    @api.post("/v1/node/challenge")
    async def challenge(body: ChallengeBody) -> Json:
        ek, ak, certificate = decoded(body.ek), decoded(body.ak), decoded(body.certificate)
        return await run(lambda: app.attestation.challenge(body.attestor, ek=ek, ak=ak, certificate=certificate))

    @api.post("/v1/node/attest")
    async def attest(body: AttestBody) -> Json:
        evidence = _evidence(body)
        if turns.locked():
            raise Unavailable("LM1241")
        async with turns:
            keys = await asyncio.get_running_loop().run_in_executor(
                fetching, lambda: app.attestation.keys_for(evidence)
            )
        return await run(lambda: app.attestation.attest(evidence, keys))


def _evidence(body: AttestBody) -> Evidence:
    proof = body.proof
    names = ("signature", "ek", "ak", "certificate", "secret", "quote")
    return Evidence(
        attestor=body.attestor,
        nonce=body.nonce,
        spki=decoded(body.spki),
        is_fresh=body.fresh,
        token=proof.token,
        chain=tuple(decoded(item) for item in proof.chain),
        parts={name: decoded(getattr(proof, name)) for name in names},
    )


def mount_local(api: FastAPI, app: App, run: Callable[[Callable[[], Json]], Any]) -> None:
    """Mount what people on the server's host use."""

    @api.get("/v1/nodes")
    async def nodes() -> Json:
        return await run(app.nodes.list)

    @api.get("/v1/attestors")
    async def attestors() -> Json:
        return await run(app.attestation.list)

    @api.get("/v1/pins")
    async def pins() -> Json:
        return await run(app.pins)

    @api.post("/v1/nodes/{node:path}/ban")
    async def ban(node: str, body: BanBody, request: Request) -> Json:
        actor = str(request.state.peer)
        return await run(lambda: app.ban_node(node, reason=body.reason, actor=actor))

    @api.post("/v1/nodes/{node:path}/allow")
    async def allow(node: str, request: Request) -> Json:
        actor = str(request.state.peer)
        return await run(lambda: app.nodes.allow(node, actor=actor))


def decoded(text: str) -> bytes:
    """Read base64.

    Raises Invalid LM5213.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise Invalid("LM5213") from err


def admits() -> Callable[[str], bool]:
    """Who is let through to these routes: so many requests from one address."""
    limits = PeerLimits(rate=_RATE, burst=_BURST)
    return lambda peer: limits.take(peer, time.monotonic())
