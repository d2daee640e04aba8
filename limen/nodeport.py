"""The node API's port: gRPC with mutual TLS at a private socket, and before it who counts strangers' connections.

Wires `limen.nodefront`, `limen.nodedoor` and the two services of that port together and decides nothing.
"""

from __future__ import annotations

import pathlib
from concurrent.futures import Executor

import grpc

from limen.app import App
from limen.downstreamapi import DownstreamService
from limen.listener import CountingListener
from limen.nodeapi import NodeService
from limen.nodedoor import NodeDoor
from limen.nodefront import PROVES_WITHIN_S, NodeFront
from mesh.grpcmessages import WellFormed
from mesh.proto import node_pb2_grpc

# a stranger who begins a handshake and does not end it is let go after so long
HANDSHAKE_MS = 10_000


class NodePort:
    """The node API of one server."""

    def __init__(self, app: App, worker: Executor, private: pathlib.Path, *, within_s: float = PROVES_WITHIN_S) -> None:
        self._front = NodeFront(private, within_s=within_s)
        self._fence = _Fence(app)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", 32 << 20),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
            ],
            interceptors=[WellFormed()],
            maximum_concurrent_rpcs=2048,
        )
        door = NodeDoor(app, worker, self._front)
        node_pb2_grpc.add_NodeServicer_to_server(NodeService(door), self._server)  # type: ignore[no-untyped-call]  # generated
        node_pb2_grpc.add_DownstreamServicer_to_server(DownstreamService(door), self._server)  # type: ignore[no-untyped-call]  # generated

    async def start(self, listener: CountingListener) -> None:
        """Serve who connects to this listener.

        Raises Invalid LM5001 when the private socket's path is too long.
        """
        credentials = grpc.dynamic_ssl_server_credentials(
            self._fence.configuration(), self._fence.changed, require_client_authentication=True
        )
        self._server.add_secure_port(self._front.prepare(), credentials)
        await self._server.start()
        self._front.start(listener)

    async def stop(self, grace: float) -> None:
        """Let what is under way end within so many seconds, then end it, and close the listener."""
        await self._server.stop(grace)
        await self._front.close()


class _Fence:
    """The node API's outer fence: the roots of now, asked for at every handshake, on gRPC's own threads."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._pair = app.server_pem()
        self._roots = self._given = app.roots_pem()
        app.on_change(self._look)

    def _look(self) -> None:
        # on the worker's thread: nothing else may ask the authority
        self._roots = self._app.roots_pem()

    def configuration(self) -> object:
        """The server's key and the roots."""
        self._given = self._roots
        return grpc.ssl_server_certificate_configuration([self._pair], root_certificates=self._given)

    def changed(self) -> object | None:
        """The same if the roots changed since it was last asked for, None otherwise."""
        return self.configuration() if self._roots != self._given else None
