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

from enforcer.budget import MAX_STREAMS
from enforcer.identity import Identity
from enforcer.jwtsvids import HeldJwt
from enforcer.workloadapi import WorkloadApi
from enforcer.workloadfront import MAX_CONNECTIONS_PER_USER, Caller
from mesh.bundle import TrustBundle
from mesh.problems import Forbidden, Unavailable
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
async def served(folder: pathlib.Path) -> AsyncIterator[Served]:
    provider = Provider()
    path = folder / "agent.sock"
    api = WorkloadApi(provider, path, folder / "api")
    await api.start()
    try:
        yield Served(provider, api, path)
    finally:
        await api.stop()
        assert not path.exists()


@contextlib.asynccontextmanager
async def client(path: pathlib.Path) -> AsyncIterator[workload_pb2_grpc.SpiffeWorkloadAPIStub]:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        yield workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)  # type: ignore[no-untyped-call]


def run(folder: pathlib.Path, work: Callable[[Served, object], object]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), served(folder) as found, client(found.path) as stub:
            await work(found, stub)  # type: ignore[misc]

    asyncio.run(main())


async def code_of(call: object) -> tuple[str, str]:
    try:
        await anext(aiter(call))  # type: ignore[call-overload]
    except grpc.aio.AioRpcError as err:
        return err.code().name, err.details() or ""
    return "OK", ""


def test_the_first_message_is_whole_and_comes_at_once(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: object) -> None:
        found.provider.paths, found.provider.hints = ["/a", "/b", "/c"], ["x", "x", "y"]
        call = stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER)  # type: ignore[attr-defined]
        message = await anext(aiter(call))
        assert [item.spiffe_id for item in message.svids] == [f"spiffe://corp.test/{name}" for name in "abc"]  # W-7
        assert [item.hint for item in message.svids] == ["x", "", "y"]  # W-11
        first = message.svids[0]
        assert first.x509_svid == found.provider.made["/a"].svid.chain_der[0]  # W-8
        assert first.x509_svid_key == found.provider.made["/a"].svid.key_pkcs8_der  # W-9
        assert first.bundle == found.provider.root.der  # W-10
        assert list(message.federated_bundles) == ["spiffe://other.test"]  # W-10
        assert found.provider.callers[0].pid == os.getpid()
        assert found.provider.callers[0].uid == os.getuid()
        call.cancel()

    run(tmp_path, work)


def test_a_change_sends_the_full_state_again_and_no_change_sends_nothing(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: object) -> None:
        call = stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER)  # type: ignore[attr-defined]
        stream = aiter(call)
        first = await anext(stream)
        asked = len(found.provider.callers)
        await found.provider.change()
        while len(found.provider.callers) == asked:
            await asyncio.sleep(0)
        found.provider.made.clear()
        await found.provider.change()
        second = await anext(stream)
        assert second.svids[0].x509_svid != first.svids[0].x509_svid  # W-3, W-4
        found.provider.problem = Forbidden("LM1210", count=0)
        await found.provider.change()
        assert (await code_of(call))[0] == "PERMISSION_DENIED"  # W-12
        found.provider.problem = None

    run(tmp_path, work)


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param((), id="E-4-missing"),
        pytest.param((("workload.spiffe.io", "True"),), id="E-3-case"),
        pytest.param((("workload.spiffe.io", "1"),), id="E-4-one"),
        pytest.param((("workload.spiffe.io", "true"), ("workload.spiffe.io", "true")), id="E-4-twice"),
    ],
)
def test_without_the_security_header_nothing_is_served(
    metadata: tuple[tuple[str, str], ...], tmp_path: pathlib.Path
) -> None:
    async def work(found: Served, stub: object) -> None:
        for method, request in (
            ("FetchX509SVID", pb.X509SVIDRequest()),
            ("FetchX509Bundles", pb.X509BundlesRequest()),
        ):
            code, _ = await code_of(getattr(stub, method)(request, metadata=metadata))
            assert code == "INVALID_ARGUMENT"
        assert found.provider.callers == []

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        pytest.param(Forbidden("LM1210", count=0), "PERMISSION_DENIED", id="E-12-no-identity"),
        pytest.param(Unavailable("LM3444", address="x", reason="y"), "UNAVAILABLE", id="E-12-not-ready"),
    ],
)
def test_refusals_carry_their_code(problem: Exception, code: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: object) -> None:
        found.provider.problem = problem
        got, details = await code_of(stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER))  # type: ignore[attr-defined]
        assert got == code
        assert "LM" in details

    run(tmp_path, work)


def test_W_13_bundles_hold_the_own_trust_domain(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: object) -> None:
        call = stub.FetchX509Bundles(pb.X509BundlesRequest(), metadata=HEADER)  # type: ignore[attr-defined]
        message = await anext(aiter(call))
        assert message.bundles["spiffe://corp.test"] == found.provider.root.der
        call.cancel()

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("request_", "audiences"),
    [
        pytest.param(pb.JWTSVIDRequest(audience=["a", "b"]), ["a", "b"], id="W-16-all"),
        pytest.param(
            pb.JWTSVIDRequest(audience=["a"], spiffe_id="spiffe://corp.test/ns/web/sa/front"), ["a"], id="W-16-named"
        ),
    ],
)
def test_tokens_are_given_for_every_identity_or_the_one_that_is_named(
    tmp_path: pathlib.Path, request_: pb.JWTSVIDRequest, audiences: list[str]
) -> None:
    async def work(served: Served, stub: object) -> None:
        served.provider.paths, served.provider.hints = ["/ns/web/sa/front", "/ns/web/sa/back"], ["web", "web"]
        found = await stub.FetchJWTSVID(request_, metadata=HEADER)  # type: ignore[attr-defined]
        names = [str(item.spiffe_id) for item in found.svids]
        every = ["spiffe://corp.test/ns/web/sa/front", "spiffe://corp.test/ns/web/sa/back"]
        assert names == (every[:1] if request_.spiffe_id else every)
        assert served.provider.tokens == [(name, audiences) for name in names]
        # a hint stands once (W-11)
        assert [item.hint for item in found.svids].count("web") == 1

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("request_", "problem", "code"),
    [
        pytest.param(pb.JWTSVIDRequest(), None, "INVALID_ARGUMENT", id="W-6-no-audience"),
        pytest.param(pb.JWTSVIDRequest(audience=["a", ""]), None, "INVALID_ARGUMENT", id="W-6-empty-audience"),
        pytest.param(
            pb.JWTSVIDRequest(audience=["a"], spiffe_id="spiffe://corp.test/other"),
            None,
            "PERMISSION_DENIED",
            id="W-16-not-its-own",
        ),
        pytest.param(
            pb.JWTSVIDRequest(audience=["a"]),
            Unavailable("LM3444", address="x", reason="away"),
            "UNAVAILABLE",
            id="E-12-server-away",
        ),
        pytest.param(
            pb.JWTSVIDRequest(audience=["a"]), Forbidden("LM1210", count="0"), "PERMISSION_DENIED", id="W-12-no-rule"
        ),
    ],
)
def test_tokens_are_refused_as_the_standard_says(
    tmp_path: pathlib.Path, request_: pb.JWTSVIDRequest, problem: Exception | None, code: str
) -> None:
    async def work(served: Served, stub: object) -> None:
        served.provider.no_token = problem
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.FetchJWTSVID(request_, metadata=HEADER)  # type: ignore[attr-defined]
        assert caught.value.code().name == code

    run(tmp_path, work)


def test_one_user_cannot_hold_streams_without_end(tmp_path: pathlib.Path) -> None:
    async def work(_: Served, stub: object) -> None:
        def ask() -> object:
            return stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER)  # type: ignore[attr-defined]

        held = [ask() for _ in range(MAX_STREAMS)]
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


def test_one_user_cannot_hold_connections_without_end(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        before = descriptors()
        held = [await asyncio.open_unix_connection(found.path) for _ in range(MAX_CONNECTIONS_PER_USER + 10)]
        # HTTP/2: a server that took the connection speaks first
        said = await asyncio.gather(*(reader.read(1) for reader, _ in held))
        assert (said.count(b""), len(said) - said.count(b"")) == (10, MAX_CONNECTIONS_PER_USER)
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
        assert (code, "LM3401" in details) == ("PERMISSION_DENIED", True)
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
        async with asyncio.timeout(30), served(folder) as found:
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
print(source.svid.spiffe_id, source.svid.leaf.serial_number, len(source.bundles), flush=True)
serial = source.svid.leaf.serial_number
for line in sys.stdin:
    while source.svid.leaf.serial_number == serial:
        news.acquire()
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
