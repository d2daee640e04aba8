"""The server process: wires `limen.app.App` to its doors and runs them until a signal.

Doors: `server.sock` (HTTP, this host, peer credentials), one TLS port (joining; the standards' public documents), one
more that shows an X.509-SVID (the bundle, for https_spiffe), and the node API (gRPC, mutual TLS). All work on `App`
runs on one thread; this module decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import structlog
import uvicorn
from fastapi import FastAPI

from ca.federation import WELL_KNOWN
from limen import lifecycle, tlsport
from limen.acme.port import AcmePort
from limen.acme.work import keep_validating
from limen.api.local import local_api
from limen.api.peer import PeerProtocol
from limen.api.public import public_api
from limen.api.strangers import StrangerProtocol
from limen.api.wellknown import Documents, check_issuer, wellknown_api
from limen.app import App
from limen.cosigning import POLICY, Cosigning, keep_cosigned
from limen.exports import keep_exporting
from limen.federations import keep_polling
from limen.filewatch import FileWatch
from limen.follower import keep_following
from limen.learned import keep_learning
from limen.limits import PeerLimits
from limen.listener import MOST, CountingListener
from limen.nodeport import NodePort
from limen.opening import open_app
from limen.signers import usual_count
from limen.values import Public
from limen.webcert import WebCertificate
from mesh import telemetry
from mesh.problems import Invalid
from mesh.settings import check_socket_path, prepare_state

_GRACE_S = 3.0
# a stranger who begins a handshake and does not end it is let go after so long, and one who does not say goodbye
_HANDSHAKE_S = 10.0
_GOODBYE_S = 5.0
_BACKLOG = 512


class _Server(uvicorn.Server):
    """uvicorn, without its own signal handlers: this process has one place for those; a handshake has its time."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen at these sockets. uvicorn cannot say how long a handshake may take, and asyncio gives it 60 s."""
        await super().startup(sockets=[])
        config = self.config

        def protocol() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]  # as in uvicorn
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )

        for found in sockets or ():
            listening = await asyncio.get_running_loop().create_server(
                protocol,
                sock=found,
                ssl=config.ssl,
                backlog=_BACKLOG,
                # there is nothing to wait for without TLS, and asyncio takes no time for it
                ssl_handshake_timeout=_HANDSHAKE_S if config.ssl else None,
                ssl_shutdown_timeout=_GOODBYE_S if config.ssl else None,
            )
            self.servers.append(listening)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def run(
    state: pathlib.Path,
    *,
    trust_domain: str,
    listen: str,
    database: str | None,
    reviewers: pathlib.Path | None,
    upstream: str = "own",
    key_source: str = "database",
    key_algorithm: str = "p256",
    public: Public | None = None,
    signers: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; without a number of ``signers`` there are as many as is usual here.

    Raises Conflict when another server runs on this state, Invalid for an address that cannot be listened on, LM1515
    for an issuer and LM1516 for a certificate that cannot be used.
    """
    lifecycle.open_many_files()
    with lifecycle.only_one(state, "server"):
        lifecycle.die_with_parent()
        telemetry.configure()
        prepare_state(state)
        public = public or Public()
        web = None if public.web is None else WebCertificate(*public.web)
        if public.jwt_issuer is not None:
            check_issuer(public.jwt_issuer)
        app = open_app(
            state,
            trust_domain=trust_domain,
            database=database,
            reviewers=reviewers,
            upstream=upstream,
            key_source=key_source,
            key_algorithm=key_algorithm,
            signers=usual_count() if signers is None else signers,
            is_serving=True,
        )
        try:
            asyncio.run(_serve(app, state, listen, public, web))
        finally:
            app.close()


async def _serve(app: App, state: pathlib.Path, listen: str, public: Public, web: WebCertificate | None) -> None:
    stop = lifecycle.stop_event(asyncio.get_running_loop())
    host, port = _split(listen)
    federation_host, federation_asked = _split(public.federation or host)
    path = state / "server.sock"
    check_socket_path(path)
    with ThreadPoolExecutor(1, "app") as worker:
        # agents remember where they joined: a server that comes back comes back at the same ports
        known = _known_ports(state)
        tls_socket, node_socket, federation_socket = (
            _listen_again(
                *asked, known.get(name, 0), name, PeerLimits(rate=public.connect_rate, burst=public.connect_burst)
            )
            for name, asked in {
                "tls": (host, port),
                "node": (host, 0),
                "federation": (federation_host, federation_asked),
            }.items()
        )
        node_port = node_socket.getsockname()[1]
        federation_port = federation_socket.getsockname()[1]
        _remember_ports(state, {"tls": tls_socket.getsockname()[1], "node": node_port, "federation": federation_port})
        nodes = NodePort(app, worker, state / "run" / "node")
        await nodes.start(node_socket)
        address = f"https://{host}:{tls_socket.getsockname()[1]}"
        app.locate(url=address, node_api=f"{host}:{node_port}")
        tls = tlsport.TlsPort(tlsport.context_of(*app.server_pem()))
        if web is not None:
            tls.serve_default(web.context)
            app.authorities.web_life = lambda: web.life
        own = AcmePort(app.acme, tls, host, is_default=web is None)
        own.renew()
        app.policy_bundles.admit(public.opa_readers)
        app.authzen.admit(public.authzen_callers)
        if public.jwt_issuer is not None:
            app.use_jwt_issuer(public.jwt_issuer)
        app.svid.renew()
        if app.authorities.is_beyond_agents():
            structlog.get_logger().warning("no agent can connect to this server", code="LM1318")
        documents = Documents(app.bundle, public.jwt_issuer)
        local_socket = _listen_unix(path)
        metrics = telemetry.serve_metrics()
        doors = [
            (_uvicorn(local_api(app, worker), protocol=PeerProtocol), local_socket),
            (_for_strangers(wellknown_api(documents, worker, public_api(app, worker)), tls.context), tls_socket),
            (_for_strangers(wellknown_api(documents, worker), app.svid.context), federation_socket),
        ]
        async with asyncio.TaskGroup() as group:
            for door, found in doors:
                group.create_task(door.serve(sockets=[found]))
            group.create_task(_keep(app, worker, stop, tls, web, state))
            group.create_task(keep_polling(app.federations, worker, stop))
            group.create_task(keep_validating(app.acme, worker, stop))
            group.create_task(own.keep(worker, stop))
            group.create_task(keep_cosigned(Cosigning(state / "audit", state / POLICY), stop))
            group.create_task(keep_exporting(app.exports, state, worker, stop))
            group.create_task(keep_learning(app.learned, public.learn_days, worker, stop))
            if app.follower is not None:
                group.create_task(keep_following(app, app.follower, worker, stop))
            lifecycle.keep_what_is_loaded()
            lifecycle.announce(
                state,
                "server",
                {
                    "tls": address,
                    "federation": f"https://{federation_host}:{federation_port}{WELL_KNOWN}",
                    "node": f"{host}:{node_port}",
                    "socket": str(path),
                    "metrics": f"http://127.0.0.1:{metrics}/metrics",
                },
            )
            await stop.wait()
            await nodes.stop(_GRACE_S)
            for door, _ in doors:
                door.should_exit = True
        path.unlink(missing_ok=True)
        lifecycle.retire(state, "server")


async def _keep(
    app: App,
    worker: Executor,
    stop: asyncio.Event,
    tls: tlsport.TlsPort,
    web: WebCertificate | None,
    state: pathlib.Path,
) -> None:
    """Once a second: see changed files, renew and end what is due. Changed rules and attestors are seen at once."""
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    files = ("identities.yaml", "attestors.yaml", "exports.yaml")
    watch = FileWatch([state / name for name in files], woken.set)
    try:
        while not stop.is_set():
            # before the files are looked at: a change in between must not be missed
            woken.clear()
            await loop.run_in_executor(worker, app.tick)
            if web is not None and (renewed := web.refresh()) is not None:
                tls.serve_default(renewed)
            waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(woken.wait())]
            try:
                await asyncio.wait(waits, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for found in waits:
                    found.cancel()
    finally:
        watch.close()


def _for_strangers(api: FastAPI, context: ssl.SSLContext) -> _Server:
    """A server for callers that nobody knows; its listener counts their connections (`limen.listener`)."""
    return _uvicorn(api, protocol=StrangerProtocol, context=context, most=MOST)


def _uvicorn(
    api: FastAPI,
    *,
    protocol: type[asyncio.Protocol] | None = None,
    context: ssl.SSLContext | None = None,
    most: int | None = None,
) -> _Server:
    config = uvicorn.Config(
        api,
        log_config=None,
        lifespan="off",
        ws="none",
        http=protocol or "httptools",
        server_header=False,
        date_header=False,
        # no proxy stands before these doors: an address is the peer's own, whatever its headers say
        proxy_headers=False,
        h11_max_incomplete_event_size=65536,
        timeout_graceful_shutdown=int(_GRACE_S),
        limit_concurrency=most,
    )
    config.load()
    config.ssl = context
    return _Server(config)


def _known_ports(state: pathlib.Path) -> dict[str, int]:
    """The ports of the last start; none for a first one or a file that cannot be read."""
    try:
        found = json.loads((state / "server" / "ports.json").read_text("utf-8"))
        return {name: port for name, port in found.items() if type(port) is int and 0 < port < 65536}
    except (OSError, ValueError, AttributeError):
        return {}


def _remember_ports(state: pathlib.Path, ports: dict[str, int]) -> None:
    draft = state / "server" / ".ports.json"
    draft.write_text(json.dumps(ports), "utf-8")
    draft.replace(state / "server" / "ports.json")


def _split(listen: str) -> tuple[str, int]:
    """Read ADDRESS or ADDRESS:PORT; without a port, 0.

    Raises Invalid LM5212 for a port that is none.
    """
    host, _, port = listen.partition(":")
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise Invalid("LM5212", address=listen, reason="its port is no number below 65536")
    return host, int(port or 0)


def _listen_again(host: str, asked: int, known: int, name: str, often: PeerLimits) -> CountingListener:
    """Listen at the port that was asked for, else at the known one if it is free, else at any.

    ``name`` is what metrics call it, ``often`` how often one address may connect.

    Raises Invalid LM5212 when the address, or the port that was asked for, cannot be had.
    """
    if not asked and known:
        with contextlib.suppress(Invalid):
            return _listen(host, known, name, often)
    return _listen(host, asked, name, often)


def _listen(host: str, port: int, name: str = "", often: PeerLimits | None = None) -> CountingListener:
    found = CountingListener(socket.AF_INET6 if ":" in host else socket.AF_INET, often=often, port=name)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as err:
        found.close()
        raise Invalid("LM5212", address=f"{host}:{port}", reason=err.strerror or str(err)) from err
    found.listen(_BACKLOG)
    return found


def _listen_unix(path: pathlib.Path) -> socket.socket:
    path.unlink(missing_ok=True)
    found = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        found.bind(str(path))
    finally:
        os.umask(before)
    found.listen(128)
    return found
