import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enforcer import workloadfront
from enforcer.budget import MAX_STREAMS, SHARE
from enforcer.identity import Identity
from enforcer.jwtsvids import HeldJwt
from enforcer.order import Order
from enforcer.workloadapi import WorkloadApi
from enforcer.workloadfront import Caller
from mesh.bundle import TrustBundle
from mesh.proto import workload_pb2 as pb
from mesh.proto import workload_pb2_grpc
from mesh.spiffe import SpiffeId
from mesh.x509svid import X509Svid
from tests.pki import Pki

HEADER = (("workload.spiffe.io", "true"),)


class Provider:
    """Identities that the test decides on: an `Identities` of its own, with real certificates."""

    def __init__(self) -> None:
        self.pki = Pki()
        now = dt.datetime.now(dt.UTC)  # noqa: TID251  py-spiffe looks at the real clock
        self.window = {"begin": now - dt.timedelta(minutes=1), "end": now + dt.timedelta(hours=1)}
        self.root = self.pki.signer(subject="root", **self.window)
        self.paths = ["/ns/web/sa/front"]
        self.hints = ["web"]
        self.problem: Exception | None = None
        self.callers: list[Caller] = []
        self.other = Pki("other.test").bundle()
        self.version = 0
        self.news = asyncio.Condition()
        self.made: dict[str, Identity] = {}
        self.tokens: list[tuple[str, list[str]]] = []
        self.no_token: Exception | None = None

    async def jwt_svid(self, identity: Identity, audiences: Sequence[str]) -> HeldJwt:
        if self.no_token is not None:
            raise self.no_token
        self.tokens.append((str(identity.svid.spiffe_id), list(audiences)))
        return HeldJwt(token="t", kid="k", not_after=self.now(), renew_at=self.now(), hint=identity.hint)

    def identity(self, path: str, hint: str) -> Identity:
        leaf = self.pki.leaf(path, issuer=self.root, **self.window)
        svid = X509Svid(
            spiffe_id=SpiffeId.parse(f"spiffe://corp.test{path}"),
            chain_der=(leaf.der,),
            key_pkcs8_der=leaf.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            not_after=leaf.certificate.not_valid_after_utc,
        )
        return Identity(
            svid=svid, rule="r", hint=hint, direct=True, renew_at=svid.not_after, federates_with=("other.test",)
        )

    async def identities_of(self, caller: Caller) -> list[Identity]:
        self.callers.append(caller)
        if self.problem is not None:
            raise self.problem
        for path, hint in zip(self.paths, self.hints, strict=True):
            self.made.setdefault(path, self.identity(path, hint))
        return [self.made[path] for path in self.paths]

    def now(self) -> dt.datetime:
        return self.window["begin"] + dt.timedelta(minutes=1)

    def bundles(self) -> dict[str, TrustBundle]:
        return {"corp.test": self.pki.bundle(self.root), "other.test": self.other}

    async def changed(self, since: int) -> None:
        async with self.news:
            await self.news.wait_for(lambda: self.version != since)

    async def change(self) -> None:
        async with self.news:
            self.version += 1
            self.news.notify_all()


@dataclasses.dataclass
class Served:
    provider: Provider
    api: WorkloadApi
    path: pathlib.Path


@contextlib.asynccontextmanager
async def served(folder: pathlib.Path, provider: Provider | None = None) -> AsyncIterator[Served]:
    provider = provider or Provider()
    path = folder / "agent.sock"
    found = Served(provider, WorkloadApi(provider, path, folder / "api", Order(None)), path)
    await found.api.start()
    try:
        yield found
    finally:
        await found.api.stop()
        assert not path.exists()


@contextlib.asynccontextmanager
async def client(path: pathlib.Path) -> AsyncIterator[workload_pb2_grpc.SpiffeWorkloadAPIStub]:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        yield workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)  # type: ignore[no-untyped-call]


def run(folder: pathlib.Path, work: Callable[[Served, object], object], provider: Provider | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(100), served(folder, provider) as found, client(found.path) as stub:
            await work(found, stub)  # type: ignore[misc]

    asyncio.run(main())


async def code_of(call: object) -> tuple[str, str]:
    try:
        await anext(aiter(call))  # type: ignore[call-overload]
    except grpc.aio.AioRpcError as err:
        return err.code().name, err.details() or ""
    return "OK", ""


def test_one_caller_cannot_hold_streams_without_end(tmp_path: pathlib.Path) -> None:
    async def work(_: Served, stub: object) -> None:
        def ask() -> object:
            return stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER)  # type: ignore[attr-defined]

        held = [ask() for _ in range(int(MAX_STREAMS * SHARE))]
        for call in held:
            await anext(aiter(call))  # type: ignore[call-overload]
        code, details = await code_of(ask())
        assert (code, "LM3502" in details) == ("UNAVAILABLE", True)
        for call in held:
            call.cancel()  # type: ignore[attr-defined]
        # given back: who asks again is served as soon as the streams have ended
        while (await code_of(ask()))[0] != "OK":
            continue

    run(tmp_path, work)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("limit", ["MAX_CONNECTIONS_PER_USER", "MAX_CONNECTIONS_PER_PROCESS"])
def test_one_caller_cannot_hold_connections_without_end(
    limit: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = getattr(workloadfront, limit)
    if limit == "MAX_CONNECTIONS_PER_USER":
        monkeypatch.setattr(workloadfront, "MAX_CONNECTIONS_PER_PROCESS", 2 * count)

    async def work(found: Served, _: object) -> None:
        before = descriptors()
        held = [await asyncio.open_unix_connection(found.path) for _ in range(count + 10)]
        # HTTP/2: a server that took the connection speaks first
        said = await asyncio.gather(*(reader.read(1) for reader, _ in held))
        assert (said.count(b""), len(said) - said.count(b"")) == (10, count)
        for _, writer in held:
            writer.close()
        while descriptors() > before:
            await asyncio.sleep(0)
        reader, writer = await asyncio.open_unix_connection(found.path)
        assert await reader.read(1) != b""
        writer.close()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"so many connections take more than the {hard} descriptors that are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    try:
        run(tmp_path, work)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


GONE_AT_ONCE = "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); os._exit(0)"


def test_callers_that_are_gone_at_once_leave_nothing_behind(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        before = descriptors()
        for _ in range(10):
            process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", GONE_AT_ONCE, str(found.path))
            await process.wait()
        while descriptors() > before or found.api._front.callers:
            await asyncio.sleep(0)
        assert found.provider.callers == []

    run(tmp_path, work)


# connects, passes the connection to another process and ends
PASSER = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
u = socket.socket(socket.AF_UNIX); u.connect(sys.argv[2])
socket.send_fds(u, [b"x"], [s.fileno()])
"""


def test_a_connection_of_a_process_that_ended_is_worth_nothing_to_its_heir(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        path = str(tmp_path / "pass")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", PASSER, found.path, path)
            peer, _ = await asyncio.to_thread(listener.accept)
            with peer:
                _, handles, _, _ = socket.recv_fds(peer, 1, 1)
            await process.wait()
        # gRPC opens sockets by path alone: the heir offers a path of its own, with the inherited connection behind it
        async with bridge(tmp_path / "heir", handles[0]), client(tmp_path / "heir") as stub:
            code, details = await code_of(stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER))
        # nearly always it is told why; once gRPC had closed the connection before it could be
        assert code == "UNAVAILABLE" or (code, "LM3401" in details) == ("PERMISSION_DENIED", True), details
        assert found.provider.callers == []

    run(tmp_path, work)


@contextlib.asynccontextmanager
async def bridge(path: pathlib.Path, handle: int) -> AsyncIterator[None]:
    """Serve one connection at a path from an open descriptor."""
    inner_reader, inner_writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=handle))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.wait(
            [asyncio.ensure_future(copy(reader, inner_writer)), asyncio.ensure_future(copy(inner_reader, writer))]
        )
        writer.close()

    server = await asyncio.start_unix_server(accept, path)
    try:
        yield
    finally:
        inner_writer.close()
        server.close()


@pytest.mark.parametrize("name", ["a b", "näh", "50%", "a%41"])
def test_a_state_directory_may_have_any_name(name: str, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / name
    folder.mkdir()

    async def main() -> None:
        async with asyncio.timeout(100), served(folder) as found:
            plain = tmp_path / "s"
            plain.symlink_to(found.path)
            async with client(plain) as stub:
                assert await code_of(stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER)) == ("OK", "")

    asyncio.run(main())


PY_SPIFFE = """
import json, sys
from spiffe import WorkloadApiClient
with WorkloadApiClient(socket_path=sys.argv[1]) as client:
    svid = client.fetch_x509_svid()
    bundles = client.fetch_x509_bundles()
    print(json.dumps({"id": str(svid.spiffe_id), "chain": len(svid.cert_chain)}))
"""


@pytest.mark.peer
def test_py_spiffe_is_served_unchanged_and_known_by_its_pid(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PY_SPIFFE, f"unix://{found.path}", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        assert json.loads(out) == {"id": "spiffe://corp.test/ns/web/sa/front", "chain": 1}
        assert {caller.pid for caller in found.provider.callers} == {process.pid}
        assert not found.provider.callers[0].is_alive

    run(tmp_path, work)


PY_SPIFFE_SOURCE = """
import sys, threading
from spiffe import WorkloadApiClient, X509Source
source = X509Source(socket_path=sys.argv[1])
news = threading.Semaphore(0)
source.subscribe_for_updates(news.release)
# read once: the next one may be there before this one is printed
serial = source.svid.leaf.serial_number
print(source.svid.spiffe_id, serial, len(source.bundles), flush=True)
for line in sys.stdin:
    while source.svid.leaf.serial_number == serial:
        # a source that failed tells no subscriber, but says so when it is asked again
        news.acquire(timeout=1)
    serial = source.svid.leaf.serial_number
    print(source.svid.spiffe_id, serial, len(source.bundles), flush=True)
source.close()
"""


@pytest.mark.peer
def test_py_spiffe_takes_every_rotation(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PY_SPIFFE_SOURCE, f"unix://{found.path}",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        serials = set()
        for number in range(4):
            if number:
                found.provider.made.clear()
                await found.provider.change()
                process.stdin.write(b"\n")
            words = (await process.stdout.readline()).decode().split()
            assert words, (await process.communicate())[1].decode()
            assert (words[0], words[2]) == ("spiffe://corp.test/ns/web/sa/front", "2")
            serials.add(words[1])
        assert len(serials) == 4
        process.stdin.close()
        await process.wait()

    run(tmp_path, work)
