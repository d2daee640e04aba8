"""Transports for httpx and httpx2 that call services over mutual TLS: a URL's host names a service, not a machine.

Where the service is, the agent's list says; who answers has to be of that service before a byte of the request leaves.
Connections are kept alive as the library keeps them, and given up while they are idle when the SVID, the bundles or the
rules about the called service have changed: no request fails because of it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpcore2
import httpx2

from enforcer.native.endpoints import Endpoint
from enforcer.sdk.context import CheckedObject, CheckedSocket, RenewingContext
from enforcer.sdk.runtime import Limen
from mesh.problems import Invalid

_DEFAULT_PORTS = frozenset((80, 443))


def transport(
    limen: Limen,
    services: Mapping[str, str] | None = None,
    *,
    library: str = "httpx2",
    **limits: Any,  # noqa: ANN401
) -> httpx2.HTTPTransport:
    """The transport of a `Client`; see `async_transport`."""
    http, core = _libraries(library)
    found = http.HTTPTransport(verify=limen.client_context(""))
    found._pool = core.ConnectionPool(network_backend=_Backend(limen, services or {}, core), **limits)  # noqa: SLF001
    return found  # type: ignore[no-any-return]  # the same class in both libraries


def async_transport(
    limen: Limen,
    services: Mapping[str, str] | None = None,
    *,
    library: str = "httpx2",
    **limits: Any,  # noqa: ANN401
) -> httpx2.AsyncHTTPTransport:
    """The transport of an `AsyncClient`.

    The host of a URL is the service's name in the policies, and its port one that they name (without one, any). What
    is called otherwise stands in ``services``: a host, and the service's name or SPIFFE ID, with `:PORT` behind a name
    if need be. ``limits`` are those of the library's pool. The request says `Host` as the URL does.
    """
    http, core = _libraries(library)
    found = http.AsyncHTTPTransport(verify=limen.client_context(""))
    backend = _AsyncBackend(limen, services or {}, core)
    found._pool = core.AsyncConnectionPool(network_backend=backend, **limits)  # noqa: SLF001  it has no door for this
    return found  # type: ignore[no-any-return]  # the same class in both libraries


def _libraries(name: str) -> tuple[Any, Any]:
    if name not in {"httpx", "httpx2"}:
        raise ValueError(f"httpx or httpx2, not {name}")
    return importlib.import_module(name), importlib.import_module(name.replace("httpx", "httpcore"))


class _Services:
    """Which service a host stands for, where it is, and by which door it is reached."""

    def __init__(self, limen: Limen, services: Mapping[str, str], core: Any) -> None:  # noqa: ANN401  a module
        self.limen, self._services, self._core = limen, dict(services), core
        self._contexts: dict[str, RenewingContext] = {}

    def named(self, host: str, port: int) -> tuple[str, int | None]:
        """The service and the port that policies name, None for any."""
        service, named = self._services.get(host, host), None if port in _DEFAULT_PORTS else port
        name, colon, number = service.rpartition(":")
        if colon and number.isdigit() and not service.startswith("spiffe://"):
            return name, int(number)
        return service, named

    def places(self, service: str, port: int | None) -> tuple[Endpoint, ...]:
        """Where it is. Raises the library's ConnectError when that is nowhere."""
        found = self.limen.places(service, port, time.monotonic())
        if not found:
            raise self._core.ConnectError(str(Invalid("LM3221", service=service)))
        return found

    def context(self, service: str) -> RenewingContext:
        """The door to a service."""
        if service not in self._contexts:
            self._contexts[service] = self.limen.client_context(service)
        return self._contexts[service]

    def failed(self, place: Endpoint) -> None:
        """Let a place rest."""
        self.limen.failed(place, time.monotonic())


class _Secure:
    """A connection that is secure already, and knows when it is to be given up."""

    _tls: tuple[str, type[CheckedSocket | CheckedObject]]
    """By what name the library tells what checked the peer, and what that is."""

    def __init__(self, inner: Any, is_stale: Callable[..., bool]) -> None:  # noqa: ANN401  a stream of either library
        self._inner, self._is_stale = inner, is_stale

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401  as the base has it
        if info == "is_readable":
            name, kind = self._tls
            tls = self._inner.get_extra_info(name)
            return self._is_stale(tls if isinstance(tls, kind) else None) or self._inner.get_extra_info(info)
        return None if info == "ssl_object" else self._inner.get_extra_info(info)


class _Stream(_Secure, httpcore2.NetworkStream):
    """One that is read and written in turn."""

    _tls = "socket", CheckedSocket

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, timeout)  # type: ignore[no-any-return]

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *_: Any, **__: Any) -> _Stream:  # noqa: ANN401  it has been started
        return self


class _AsyncStream(_Secure, httpcore2.AsyncNetworkStream):
    """The same, awaited."""

    _tls = "ssl_object", CheckedObject

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  the base's
        return await self._inner.read(max_bytes, timeout)  # type: ignore[no-any-return]

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  the base's
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(self, *_: Any, **__: Any) -> _AsyncStream:  # noqa: ANN401  it has been started
        return self


class _Backend(_Services, httpcore2.NetworkBackend):
    """Connects to services."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        """Connect to a place of the service, the next one if that fails: nothing was sent to the last one."""
        service, named = self.named(host, port)
        plain, problem = self._core.SyncBackend(), self._core.ConnectError(service)
        for place in self.places(service, named):
            is_stale = self.limen.staleness(service)
            try:
                found = plain.connect_tcp(place.address, place.port, timeout, local_address, socket_options or ())
                return _Stream(found.start_tls(self.context(service), None, timeout), is_stale)
            except (self._core.ConnectError, self._core.ConnectTimeout) as err:
                problem = err
            except Invalid as err:
                problem = self._core.ConnectError(str(err))
            self.failed(place)
        raise problem


class _AsyncBackend(_Services, httpcore2.AsyncNetworkBackend):
    """The same, awaited."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the base's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _AsyncStream:
        """Connect to a place of the service, the next one if that fails: nothing was sent to the last one."""
        service, named = self.named(host, port)
        plain, problem = self._core.AnyIOBackend(), self._core.ConnectError(service)
        for place in self.places(service, named):
            is_stale = self.limen.staleness(service)
            try:
                found = await plain.connect_tcp(place.address, place.port, timeout, local_address, socket_options or ())
                return _AsyncStream(await found.start_tls(self.context(service), None, timeout), is_stale)
            except (self._core.ConnectError, self._core.ConnectTimeout) as err:
                problem = err
            except Invalid as err:
                problem = self._core.ConnectError(str(err))
            self.failed(place)
        raise problem

    async def sleep(self, seconds: float) -> None:
        await self._core.AnyIOBackend().sleep(seconds)
