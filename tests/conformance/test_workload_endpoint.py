"""SPIFFE_Workload_Endpoint.md, statement by statement: each test carries the id of the one it shows (E-1 to E-14).

The server is the agent's own front and service at a real Unix socket. The clients are grpcio, and one of a few lines
that speaks HTTP/2 by itself and therefore shows what a workload has to bring: nothing. Our own client is the probe of
`limen spiffe-conformance`.
"""

import asyncio
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from limen.__main__ import run as limen
from limen.conformance import probe
from limen.conformance.probe import Probe, gather
from limen.endpoint import VARIABLE, target_of
from mesh.problems import Forbidden, Invalid, Unavailable
from mesh.proto import workload_pb2 as pb
from mesh.proto import workload_pb2_grpc
from tests.enforcer.test_workloadapi import HEADER, Served, code_of, run
from tests.limen.conformance.servers import NAME, Workloads, served

P = pytest.param
API = "/SpiffeWorkloadAPI/"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

# -- a client that is no library: HTTP/2 in clear, with the header that is demanded and nothing else

BARE = """
import socket, struct, sys
def frame(kind, flags, stream, body=b""):
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body
def literal(name, value):
    return b"\\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
head = b"".join(literal(name.encode(), value.encode()) for name, value in (
    (":method", "POST"), (":scheme", "http"), (":path", "/SpiffeWorkloadAPI/FetchX509SVID"), (":authority", "x"),
    ("te", "trailers"), ("content-type", "application/grpc"), ("workload.spiffe.io", "true")))
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(60)
sock.connect(sys.argv[1])
begin = b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n"
sock.sendall(begin + frame(4, 0, 0) + frame(1, 4, 1, head) + frame(0, 1, 1, b"\\0" * 5))
def read(size):
    found = b""
    while len(found) < size:
        part = sock.recv(size - len(found))
        if not part:
            sys.exit("the server hung up")
        found += part
    return found
kinds, data = [], b""
while len(data) < 5 or len(data) < 5 + struct.unpack(">I", data[1:5])[0]:
    size, kind, flags = struct.unpack(">I", b"\\0" + read(3))[0], *read(2)
    read(4)
    body = read(size)
    kinds.append(kind)
    if kind == 0:
        data += body
        sock.sendall(frame(8, 0, 0, struct.pack(">I", size or 1)))
print(kinds[0], data[0], data[5:].hex())
"""


@pytest.mark.parametrize("statement", ["E-1", "E-5", "E-6", "E-7"])
def test_a_program_without_any_library_key_or_secret_has_its_svid(statement: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", BARE, str(found.path), env={}, stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        first, compressed, data = out.decode().split()
        message = pb.X509SVIDResponse.FromString(bytes.fromhex(data))
        caller = found.provider.callers[0]
        assert {
            # HTTP/2 that begins with SETTINGS, and a message with gRPC's five bytes before it
            "E-1": (first, compressed, len(message.svids)) == ("4", "0", 1),
            # what was sent and read above is not encrypted
            "E-5": message.svids[0].x509_svid == found.provider.made["/ns/web/sa/front"].svid.chain_der[0],
            # no credential of any kind was sent: an empty environment, no header but the one that is demanded
            "E-6": message.svids[0].x509_svid_key != b"",
            # the process that called, found by the kernel's word; it did nothing but call
            "E-7": (caller.pid, caller.uid) == (process.pid, os.getuid()),
        }[statement]

    run(tmp_path, work)


def listening() -> set[str]:
    """The inodes of this process's sockets that listen on TCP."""
    own = set()
    for handle in os.listdir("/proc/self/fd"):
        try:
            own.add(os.readlink(f"/proc/self/fd/{handle}"))
        except OSError:
            continue
    files = ("tcp", "tcp6")
    rows = [
        row.split() for name in files for row in pathlib.Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
    ]
    return {row[9] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own}


@pytest.mark.parametrize("statement", [P("unix", id="E-2")])
def test_it_is_a_unix_socket_of_this_host_and_nothing_listens_on_tcp(statement: str, tmp_path: pathlib.Path) -> None:
    before = listening()

    async def work(found: Served, _: object) -> None:
        assert found.path.is_socket()
        assert listening() == before
        # the inner socket, where nobody is asked who he is, is behind a directory of the agent's own
        assert (tmp_path / "api").stat().st_mode & 0o777 == 0o700

    run(tmp_path, work)


# -- the security header


async def raw(found: Served, method: str, data: bytes, metadata: tuple[tuple[str, str], ...]) -> tuple[str, str, bytes]:
    async with grpc.aio.insecure_channel(f"unix:{found.path}") as channel:
        call = channel.stream_stream(method)(iter([data]), metadata=metadata)
        try:
            answer = await call.read()
            if answer is not grpc.aio.EOF:
                return "OK", "", answer
            return (await call.code()).name, await call.details(), b""
        except grpc.aio.AioRpcError as err:
            return err.code().name, err.details() or "", b""


@pytest.mark.parametrize(
    "metadata",
    [
        P((), id="E-4-missing"),
        P((("workload.spiffe.io", "True"),), id="E-3-case"),
        P((("workload.spiffe.io", "1"),), id="E-4-one"),
        P((("workload.spiffe.io", ""),), id="E-4-empty"),
        P((("workload.spiffe.io", "true"), ("workload.spiffe.io", "true")), id="E-4-twice"),
        P((("workload.spiffe.io", "true,true"),), id="E-4-list"),
    ],
)
@pytest.mark.parametrize(
    "method",
    [
        *(f"{API}{name}" for name in probe.ANSWERS),
        f"{API}FetchWITSVID",
        "/no.such.Service/Call",
        REFLECTION,
    ],
)
def test_without_the_security_header_nothing_is_served_whatever_the_call(
    method: str, metadata: tuple[tuple[str, str], ...], tmp_path: pathlib.Path
) -> None:
    async def work(found: Served, _: object) -> None:
        code, details, _data = await raw(found, method, b"", metadata)
        assert (code, "LM3501" in details) == ("INVALID_ARGUMENT", True)
        assert found.provider.callers == []

    run(tmp_path, work)


class Strict(Workloads):
    """Keeps what metadata came with every call; and refuses all of them, when it is told to."""

    def __init__(self, *, refuses: bool) -> None:
        super().__init__("")
        self.said: list[list[str]] = []
        self.refuses = refuses

    def check(self, context: Any) -> None:
        self.said.append([value for name, value in context.invocation_metadata() if name == "workload.spiffe.io"])
        if self.refuses:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "header")
        super().check(context)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "STAYS_S", 0.05)


@pytest.fixture
def listener(short: None) -> Iterator[Any]:
    """Serves a service on TCP on loopback."""
    with ThreadPoolExecutor(16) as threads:
        server = grpc.server(threads)
        port = server.add_insecure_port("127.0.0.1:0")

        def serve(service: Workloads) -> Probe:
            workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(service, server)  # type: ignore[no-untyped-call]
            server.start()
            return Probe(f"tcp://127.0.0.1:{port}")

        yield serve
        server.stop(0).wait()


@pytest.mark.parametrize("refuses", [P(False, id="E-3-client"), P(True, id="E-4-client")])
def test_our_client_says_the_header_with_every_call_and_does_not_retry_when_refused(
    listener: Any, *, refuses: bool
) -> None:
    service = Strict(refuses=refuses)
    asked = listener(service)
    found = gather(asked)
    asked.close()
    assert service.said == [["true"]] * 5
    wanted = "INVALID_ARGUMENT" if refuses else "OK"
    assert {item.code for item in found.outcomes} == {wanted}


# -- where it is


@pytest.mark.parametrize(
    ("given", "variable"),
    [P(False, True, id="E-8-variable"), P(True, True, id="E-8-configured"), P(False, False, id="E-8-neither")],
)
def test_our_client_falls_back_to_the_variable(
    given: bool,
    variable: bool,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    short: None,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    state = tmp_path / "state"
    with served(tmp_path) as address:
        if variable:
            monkeypatch.setenv(VARIABLE, "unix:///nowhere" if given else address)
        code = limen(
            ["--state", str(state), "spiffe-conformance", *(["--socket", address] if given else []), "-o", "json"]
        )
        out, err = capsys.readouterr()
    if given or variable:
        assert json.loads(out)["socket"] == address
    else:
        assert (code, f"unix://{state}/agent.sock" in err) == (3, True)


def is_address(text: str) -> bool:
    try:
        return bool(target_of(text))
    except Invalid:
        return False


@pytest.mark.parametrize(
    "text",
    [
        *(P(text, id=f"E-9-{text!r}") for text in ("", "\t", "blah", "/run/a.sock", "http://127.0.0.1:80", "file:///a")),
        *(P(text, id=f"E-9-{text}") for text in ("UNIX:///a", "npipe:spire", "vsock:1:2", "dns:///a")),
        *(
            P(text, id=f"E-10-{text!r}")
            for text in (
                "unix:", "unix:a.sock", "unix:./a", "unix://", "unix://foo", "unix://foo/path", "unix://127.0.0.1/a",
                "unix:///a?b", "unix:///a?", "unix:///a#b", "unix:///a#", "unix://john:doe@foo/path", "unix:////a",
                "unix:///", "unix:///a b", "unix:///a%", "unix:///a%zz", "unix:///a%00b", "unix:///a\\b", " unix:///a",
            )
        ),
        *(
            P(text, id=f"E-11-{text!r}")
            for text in (
                "tcp:opaque", "tcp:127.0.0.1:80", "tcp://", "tcp://foo", "tcp://foo:80", "tcp://localhost:80",
                "tcp://1.2.3.4", "tcp://1.2.3.4:", "tcp://1.2.3.4:0", "tcp://1.2.3.4:65536", "tcp://1.2.3.4:x",
                "tcp://1.2.3.4:5/", "tcp://1.2.3.4:5/path", "tcp://127.0.0.1:8000/foo", "tcp://1.2.3.4:5?whatever",
                "tcp://1.2.3.4:5#whatever", "tcp://john@1.2.3.4:5", "tcp://john:doe@1.2.3.4:5", "tcp://1.2.3:5",
                "tcp://::1:80", "tcp://[::1]", "tcp://[foo]:80", "tcp://[1.2.3.4]:80", "tcp://[fe80::1%eth0]:80",
                "tcp://1.2.3.4.5:80", "tcp://01.2.3.4:80", "tcp://:80",
            )
        ),
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    assert not is_address(text)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        P("unix:///run/a.sock", "unix:/run/a.sock", id="E-10"),
        P("unix:/run/a.sock", "unix:/run/a.sock", id="E-10-no-authority"),
        P("unix:///run/a%20b", "unix:/run/a%20b", id="E-10-encoded"),
        P("tcp://127.0.0.1:8000", "ipv4:127.0.0.1:8000", id="E-11"),
        P("tcp://1.2.3.4:5", "ipv4:1.2.3.4:5", id="E-11-shortest"),
        P("tcp://[::1]:8000", "ipv6:[::1]:8000", id="E-11-ipv6"),
    ],
)
def test_an_address_is_read(text: str, target: str) -> None:
    assert target_of(text) == target


@pytest.mark.parametrize("name", [P("plain", id="E-9-unix"), P("with space %41", id="E-10-percent-encoded")])
def test_our_client_reaches_a_unix_socket_by_its_address(name: str, tmp_path: pathlib.Path, short: None) -> None:
    from limen.endpoint import uri_of

    link = tmp_path / name
    with served(tmp_path) as address:
        link.symlink_to(address.removeprefix("unix://"))
        asked = Probe(uri_of(link))
        assert asked.call("FetchX509SVID", pb.X509SVIDRequest()).message.svids[0].spiffe_id == NAME
        asked.close()


@pytest.mark.parametrize("statement", [P("tcp", id="E-9-tcp"), P("tcp", id="E-11-reached")])
def test_our_client_reaches_a_tcp_socket(statement: str, listener: Any) -> None:
    asked = listener(Workloads(""))
    assert asked.call("FetchX509SVID", pb.X509SVIDRequest()).message.svids[0].spiffe_id == NAME
    asked.close()


# -- what it answers


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        P(Forbidden("LM1210", count=0), "PERMISSION_DENIED", id="E-12-no-identity"),
        P(Unavailable("LM3444", address="x", reason="y"), "UNAVAILABLE", id="E-12-not-ready"),
        P(Unavailable("LM3444", address="x", reason="y"), "UNAVAILABLE", id="E-14-exposed-before-it-is-ready"),
    ],
)
def test_refusals_carry_their_code(problem: Exception, code: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: object) -> None:
        found.provider.problem = problem
        got, details = await code_of(stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER))  # type: ignore[attr-defined]
        assert got == code
        assert "LM" in details

    run(tmp_path, work)


@pytest.mark.parametrize(
    "method",
    [
        P(f"{API}FetchWITSVID", id="W-1-FetchWITSVID"),
        P(f"{API}FetchWITBundles", id="W-1-FetchWITBundles"),
        P("/spiffe.broker.API/SubscribeToX509SVID", id="E-12-broker-SubscribeToX509SVID"),
        P("/spiffe.broker.API/SubscribeToX509Bundles", id="E-12-broker-SubscribeToX509Bundles"),
        P("/spiffe.broker.API/FetchJWTSVID", id="E-12-broker-FetchJWTSVID"),
        P("/spiffe.broker.API/SubscribeToJWTBundles", id="E-12-broker-SubscribeToJWTBundles"),
        P(f"{API}FetchNothing", id="E-13-no-further-method"),
        P(f"{API}fetchX509SVID", id="E-13-case"),
        P("/spiffe.workload.SpiffeWorkloadAPI/FetchX509SVID", id="E-13-no-package"),
        P("/no.such.Service/Call", id="E-12-unknown"),
    ],
)
def test_what_is_not_served_is_unimplemented(method: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        # a request that names a SPIFFE ID, as WITSVIDRequest may
        for data in (b"", b"\x0a\x10spiffe://x.test/"):
            assert (await raw(found, method, data, HEADER))[0] == "UNIMPLEMENTED"
        # as the broker's own clients ask
        assert (await raw(found, method, b"", (*HEADER, ("broker.spiffe.io", "true"))))[0] == "UNIMPLEMENTED"
        assert found.provider.callers == []

    run(tmp_path, work)


METHODS = {
    "FetchX509SVID": ("X509SVIDRequest", "stream X509SVIDResponse"),
    "FetchX509Bundles": ("X509BundlesRequest", "stream X509BundlesResponse"),
    "FetchJWTSVID": ("JWTSVIDRequest", "JWTSVIDResponse"),
    "FetchJWTBundles": ("JWTBundlesRequest", "stream JWTBundlesResponse"),
    "ValidateJWTSVID": ("ValidateJWTSVIDRequest", "ValidateJWTSVIDResponse"),
}


@pytest.mark.parametrize("statement", [P("methods", id="E-13-methods")])
def test_the_service_has_the_standards_methods_and_no_other(statement: str) -> None:
    service = pb.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"]
    assert service.full_name == "SpiffeWorkloadAPI"
    assert {
        item.name: (item.input_type.name, ("stream " if item.server_streaming else "") + item.output_type.name)
        for item in service.methods
    } == METHODS
    assert not any(item.client_streaming for item in service.methods)


@pytest.mark.parametrize("statement", [P("reflection", id="E-14-reflection")])
def test_reflection_names_the_service(statement: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        # list_services: field 7, empty string
        code, _details, data = await raw(found, REFLECTION, b"\x3a\x00", HEADER)
        assert code == "OK"
        assert b"SpiffeWorkloadAPI" in data

    run(tmp_path, work)
