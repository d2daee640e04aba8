"""uvicorn behind mutual TLS: its connections' peers, verified, handed to the middleware.

uvicorn tells an application nothing about TLS. A connection is known by its two addresses, which uvicorn reads from
the very transport; so headers in which callers say where they come from are not believed here.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from enforcer.sdk.asgi import App, Middleware, Scope
from enforcer.sdk.context import Chain, CheckedObject
from enforcer.sdk.runtime import Limen
from mesh.problems import Invalid

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
    peers = Peers()

    class Protocol(HttpToolsProtocol):
        """uvicorn's, which also remembers who is at the other end."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            peers.add(transport)
            super().connection_made(cast("asyncio.Transport", transport))

    return uvicorn.Config(
        cast("Any", Middleware(app, limen, chain_of=peers.chain_of)),
        http=Protocol,
        ssl_context_factory=lambda _, __: limen.server_context(),
        proxy_headers=False,
        **options,
    )


def serve(app: App, limen: Limen, **options: Any) -> None:  # noqa: ANN401  uvicorn's own options
    """Serve an application until a signal ends it, in this process."""
    uvicorn.Server(config(app, limen, **options)).run()
