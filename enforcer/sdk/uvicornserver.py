"""uvicorn behind mutual TLS: its connections' peers, verified, handed to the middleware.

uvicorn tells an application nothing about TLS. A connection is known by its two addresses, which uvicorn reads from
the very transport; so headers in which callers say where they come from are not believed here.

A server that is told to end loses no request: uvicorn closes a connection that waits for one, and forgets those whose
handshake is not over, though the caller's bytes may be under way. Here both get one more answer, which says that it is
the last; a connection on which nothing comes is closed after five seconds. And it hands over what it has to tell before
uvicorn raises once more the signal that ended it, which ends the process there and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import weakref
from collections.abc import Collection, Iterator
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import HANDLED_SIGNALS

from enforcer.sdk.asgi import App, Middleware, Scope
from enforcer.sdk.context import Chain, CheckedObject
from enforcer.sdk.runtime import Limen
from mesh.problems import Invalid

LAST_REQUEST_S = 5.0
_LOOK_S = 0.1
_Ends = tuple[object, object]


class Peers:
    """The open connections, by both of their addresses."""

    def __init__(self) -> None:
        self._found: weakref.WeakValueDictionary[_Ends, CheckedObject] = weakref.WeakValueDictionary()

    def add(self, transport: asyncio.BaseTransport) -> None:
        """Know a connection whose handshake is complete."""
        tls = transport.get_extra_info("ssl_object")
        if isinstance(tls, CheckedObject):
            self._found[_ends(transport.get_extra_info("peername"), transport.get_extra_info("sockname"))] = tls

    def chain_of(self, scope: Scope) -> Chain:
        """The chain that the peer of a request's connection showed; empty for one that has none."""
        found = self._found.get(_ends(scope.get("client"), scope.get("server")))
        return () if found is None else found.chain


def _ends(client: Any, server: Any) -> _Ends:  # noqa: ANN401  addresses as sockets have them
    return tuple(client[:2]) if client else None, tuple(server[:2]) if server else None


class Protocol(HttpToolsProtocol):
    """uvicorn's, which also remembers who is at the other end, and ends between two requests."""

    peers: Peers
    beginning: weakref.WeakSet[Protocol]
    """Those whose handshake is not over; one that fails is forgotten with its transport."""
    is_ending = False
    """Whether every answer from now on is the last one of its connection."""

    def __init__(self, *arguments: Any, **more: Any) -> None:  # noqa: ANN401  as uvicorn has it
        super().__init__(*arguments, **more)
        self.beginning.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is complete; asyncio calls this."""
        self.beginning.discard(self)
        self.peers.add(transport)
        super().connection_made(cast("asyncio.Transport", transport))

    def on_headers_complete(self) -> None:
        """A request came; httptools calls this.

        The head is what has come by now: uvicorn adds trailers to the same list, whenever the program has not run yet.
        """
        self.scope["headers"] = [*self.headers]
        super().on_headers_complete()
        cycle = self._latest()
        if self.is_ending and cycle is not None:
            cycle.keep_alive = False

    def shutdown(self) -> None:
        """Answer what is under way, and close; uvicorn calls this when it ends."""
        if not self._is_idle():
            super().shutdown()
            return
        self.loop.call_later(LAST_REQUEST_S, self._leave)

    def _leave(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()

    def _is_idle(self) -> bool:
        cycle = self._latest()
        return cycle is None or cycle.response_complete

    def _latest(self) -> RequestResponseCycle | None:
        """The last request that came, if any did."""
        return self.cycle


class Server(uvicorn.Server):
    """uvicorn's, which lets handshakes come to their end before it asks its connections to close."""

    def __init__(self, config: uvicorn.Config, limen: Limen) -> None:
        super().__init__(config)
        self._limen = limen

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Catch signals while there is something to serve, and raise them once more afterwards; uvicorn calls this.

        Where the program handles one by nothing of its own, nothing runs after that: what is left is told before.
        """
        fatal = {found for found in HANDLED_SIGNALS if signal.getsignal(found) is signal.SIG_DFL}
        with super().capture_signals():
            try:
                yield
            finally:
                if fatal.intersection(self._captured_signals):
                    self._limen.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new, and end."""
        for server in self.servers:
            server.close()
        protocol = self.config.http_protocol_class
        assert issubclass(protocol, Protocol)
        protocol.is_ending, beginning = True, protocol.beginning
        end = asyncio.get_running_loop().time() + LAST_REQUEST_S
        # no event tells of a handshake that failed: what is left of it is garbage, in a circle
        while not self.force_exit and _are_alive(beginning) and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        await super().shutdown(sockets)


def _are_alive(found: Collection[object]) -> bool:
    """Whether any of them is more than garbage."""
    if len(found):
        gc.collect()
    return len(found) > 0


def guarded(app: App, limen: Limen) -> dict[str, Any]:
    """What uvicorn's configuration says of an application behind the middleware, over our TLS."""
    peers = Peers()
    protocol = type("Protocol", (Protocol,), {"peers": peers, "beginning": weakref.WeakSet()})
    return {
        "app": Middleware(app, limen, chain_of=peers.chain_of),
        "http": protocol,
        "ssl_context_factory": lambda _, __: limen.server_context(),
        "proxy_headers": False,
    }


def config(app: App, limen: Limen, **options: Any) -> uvicorn.Config:  # noqa: ANN401  uvicorn's own options
    """Uvicorn's configuration for an application behind the middleware, over our TLS.

    Host and port are those of `limen run --sdk --inbound`, unless they are given. What would bring in another
    certificate, or believe callers, is not for the options to say.
    Raises Invalid LM5240 when no port, or more than one, was asked for and none is given.
    """
    serves = limen.serves
    if "port" not in options:
        if len(serves) != 1:
            raise Invalid("LM5240", given=f"{len(serves)} ports", form="--inbound [ADDR:]PORT")
        options.setdefault("host", serves[0][0])
        options["port"] = serves[0][1]
    return uvicorn.Config(**guarded(app, limen), **options)


def serve(app: App, limen: Limen, **options: Any) -> None:  # noqa: ANN401  uvicorn's own options
    """Serve an application until a signal ends it, in this process."""
    Server(config(app, limen, **options), limen).run()
