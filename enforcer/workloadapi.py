"""`agent.sock`: the SPIFFE Workload API (SPIFFE_Workload_API.md, SPIFFE_Workload_Endpoint.md).

grpcio hides who is behind a Unix socket, so the connection is accepted here, the kernel's word about the peer is
taken (SO_PEERCRED, SO_PEERPIDFD), and the bytes are spliced to a private grpcio socket from a socket bound to a name
of its own: by that name an RPC finds its caller again. Who gets what is decided by the identity rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import pathlib
import select
import socket
import struct
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator
from typing import Protocol

import grpc

from enforcer.federated import given_to
from enforcer.identity import Identity
from enforcer.process import read_stat
from mesh.bundle import TrustBundle
from mesh.problems import Forbidden, Problem, Unavailable
from mesh.proto import workload_pb2 as pb
from mesh.proto import workload_pb2_grpc
from mesh.settings import check_socket_path

_SO_PEERPIDFD = 77
_UCRED = struct.Struct("3i")
MAX_STREAMS_PER_USER = 256
MAX_CONNECTIONS_PER_USER = 256
_CHUNK = 65536


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The process that connected. ``pidfd`` cannot come to mean another process; ``start`` is in clock ticks."""

    pid: int
    uid: int
    gid: int
    start: int
    pidfd: int

    @property
    def is_alive(self) -> bool:
        """Whether the very process that connected still runs."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)


class Identities(Protocol):
    """What the API needs of the agent."""

    async def identities_of(self, caller: Caller) -> list[Identity]:
        """The identities of a caller.

        Raises Forbidden when there is none, Unavailable when that cannot be found out now.
        """
        ...

    def bundles(self) -> dict[str, TrustBundle]:
        """All bundles by trust domain name; the own one is among them."""
        ...

    @property
    def version(self) -> int:
        """Grows whenever an identity, a bundle or a rule may have changed."""
        ...

    async def changed(self, since: int) -> None:
        """Wait until the version is another than the one that was seen."""
        ...


class WorkloadApi(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """The service, and the front that knows its callers."""

    def __init__(self, identities: Identities, path: pathlib.Path, private: pathlib.Path) -> None:
        check_socket_path(path)
        self._identities = identities
        self._path, self._private = path, private
        self._numbers = itertools.count()
        self._callers: dict[str, Caller] = {}
        self._streams: Counter[int] = Counter()
        self._connections: Counter[int] = Counter()
        self._server: grpc.aio.Server | None = None
        self._front: asyncio.Server | None = None

    # -- the front

    async def start(self) -> None:
        """Listen; every user may connect."""
        self._private.mkdir(mode=0o700, exist_ok=True)
        for left in self._private.iterdir():
            left.unlink()
        backend = self._private / "api"
        check_socket_path(self._private / "c00000000")
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 1 << 20)])
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]  # generated
        # a gRPC address is a URI: what a path may hold and a URI may not is escaped, here and in a peer's name
        self._server.add_insecure_port(f"unix:{urllib.parse.quote(str(backend))}")
        await self._server.start()
        self._path.unlink(missing_ok=True)
        self._front = await asyncio.start_unix_server(self._accept, str(self._path), limit=_CHUNK)
        self._path.chmod(0o777)

    async def stop(self) -> None:
        """Stop listening and end every stream."""
        if self._front is not None:
            self._front.close()
        if self._server is not None:
            await self._server.stop(0.5)
        self._path.unlink(missing_ok=True)
        for left in self._private.iterdir():
            left.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Splice one connection to the private socket, under a name that stands for its caller.

        A user who holds too many connections is hung up on: they take this process's descriptors.
        """
        found: socket.socket = writer.get_extra_info("socket")
        try:
            caller = _caller(found)
        except (OSError, Problem):
            # gone before it could be looked at
            writer.close()
            return
        if self._connections[caller.uid] >= MAX_CONNECTIONS_PER_USER:
            os.close(caller.pidfd)
            writer.close()
            return
        self._connections[caller.uid] += 1
        name = str(self._private / f"c{next(self._numbers)}")
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.bind(name)
            inner.setblocking(False)
            await asyncio.get_running_loop().sock_connect(inner, str(self._private / "api"))
            self._callers[name] = caller
            back_reader, back_writer = await asyncio.open_unix_connection(sock=inner)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, back_writer))
                tasks.create_task(_pump(back_reader, writer))
        except OSError:
            inner.close()
        finally:
            writer.close()
            self._connections[caller.uid] -= 1
            self._callers.pop(name, None)
            os.close(caller.pidfd)
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108  one system call

    # -- the service

    async def FetchX509SVID(
        self, request: pb.X509SVIDRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.X509SVIDResponse]:
        """Send all X.509-SVIDs of the caller at once, and again after every change (Workload API §5.2.1)."""
        del request
        caller = await self._admit(context)
        last = b""
        try:
            while True:
                # before the state is read: a change in between must not be missed
                seen = self._identities.version
                identities = await self._entitled(caller, context)
                message = self._x509_message(identities)
                data = message.SerializeToString(deterministic=True)
                if data != last:
                    last = data
                    yield message
                await self._identities.changed(seen)
        finally:
            self._streams[caller.uid] -= 1

    async def FetchX509Bundles(
        self, request: pb.X509BundlesRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.X509BundlesResponse]:
        """Send all bundles at once, and again after every change (Workload API §5.2.2)."""
        del request
        caller = await self._admit(context)
        last = b""
        try:
            while True:
                seen = self._identities.version
                identities = await self._entitled(caller, context)
                bundles = given_to(identities, self._identities.bundles())
                message = pb.X509BundlesResponse(
                    bundles={f"spiffe://{name}": b"".join(found.x509_authorities) for name, found in bundles.items()}
                )
                data = message.SerializeToString(deterministic=True)
                if data != last:
                    last = data
                    yield message
                await self._identities.changed(seen)
        finally:
            self._streams[caller.uid] -= 1

    async def _admit(self, context: grpc.aio.ServicerContext) -> Caller:
        """Let a caller in.

        1. The metadata says `workload.spiffe.io: true`, exactly once (Workload Endpoint §4; E-3, E-4).
        2. The connection is one that this front accepted; its process still runs.
        3. Its user's budget of streams is not used up (E-12: shedding load is Unavailable).
        """
        # (1)
        said = [value for name, value in context.invocation_metadata() or () if name == "workload.spiffe.io"]
        if said != ["true"]:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing: LM3501")
        # (2)
        caller = self._callers.get(urllib.parse.unquote(context.peer().removeprefix("unix:")))
        if caller is None or not caller.is_alive:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the caller is gone: LM3401")
            raise AssertionError("abort raises")
        # (3)
        if self._streams[caller.uid] >= MAX_STREAMS_PER_USER:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "too many streams of one user: LM3502")
        self._streams[caller.uid] += 1
        return caller

    async def _entitled(self, caller: Caller, context: grpc.aio.ServicerContext) -> list[Identity]:
        if not caller.is_alive:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the caller is gone: LM3401")
        try:
            return await self._identities.identities_of(caller)
        except Unavailable as problem:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(problem))
        except Problem as problem:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(problem))
        raise AssertionError("abort raises")

    def _x509_message(self, identities: list[Identity]) -> pb.X509SVIDResponse:
        bundles = given_to(identities, self._identities.bundles())
        svids = []
        hints: set[str] = set()
        for found in identities:
            own = bundles[found.svid.spiffe_id.trust_domain.name]
            # a hint stands once in a response (W-11)
            hint = found.hint if found.hint not in hints else ""
            hints.add(found.hint)
            svids.append(
                pb.X509SVID(
                    spiffe_id=str(found.svid.spiffe_id),
                    x509_svid=b"".join(found.svid.chain_der),
                    x509_svid_key=found.svid.key_pkcs8_der,
                    bundle=b"".join(own.x509_authorities),
                    hint=hint,
                )
            )
        own_domains = {found.svid.spiffe_id.trust_domain.name for found in identities}
        return pb.X509SVIDResponse(
            svids=svids,
            federated_bundles={
                f"spiffe://{name}": b"".join(found.x509_authorities)
                for name, found in bundles.items()
                if name not in own_domains
            },
        )


def _caller(sock: socket.socket) -> Caller:
    """Who connected: SO_PEERPIDFD where the kernel has it, else pidfd_open with the start time read twice."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        pidfd, before = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD), None
    except OSError:
        before = read_stat(pid).start
        pidfd = os.pidfd_open(pid)
    try:
        os.set_inheritable(pidfd, False)
        start = read_stat(pid).start
        if before not in {None, start}:
            raise Forbidden("LM3401", pid=pid)
    except (OSError, Problem):
        os.close(pidfd)
        raise
    return Caller(pid=pid, uid=uid, gid=gid, start=start, pidfd=pidfd)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()
            writer.close()
