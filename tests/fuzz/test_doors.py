"""What strangers and nodes send to the real doors, malformed: each gets its code, and no row and no record is left."""

import asyncio
import base64
import json
import pathlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from enforcer.identity import new_ask
from enforcer.join import join
from enforcer.node import Node
from limen.listener import MOST_OF_ONE
from mesh.problems import catalogue
from mesh.proto import workload_pb2 as pb
from tests.acmeclient import Client, csr
from tests.doors import Doors
from tests.enforcer.test_workloadapi import HEADER, Served, run
from tests.examples import examples
from tests.fuzz.mutation import mutant, mutants
from tests.fuzz.parsers import OCSP
from tests.fuzz.rows import kept
from tests.limen.api.test_nodes import attestors
from tests.world import World

Json = Any
pytestmark = pytest.mark.slow
JSON, JOSE = b"application/json", b"application/jose+json"


async def ask(doors: Doors, sent: bytes, source: str = "127.0.0.1") -> tuple[int, bytes]:
    """One request over TLS, from an address of loopback: each has tries of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = doors.url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=context, server_hostname="limen-server", local_addr=(source, 0)
    )
    try:
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        size = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return int(head[9:12]), await reader.readexactly(size[0] if size else 0)
    finally:
        writer.transport.abort()


async def count(doors: Doors) -> dict[str, int]:
    """What the server keeps, counted where all its work is done."""
    return await asyncio.get_running_loop().run_in_executor(doors.worker, kept, doors.world)


def request(path: str, body: bytes, kind: bytes = JSON, *more: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1".encode(), b"host: limen.test", b"content-type: " + kind, *more]
    return b"\r\n".join([*lines, b"content-length: " + str(len(body)).encode(), b"connection: close", b"", body])


def code_of(body: bytes) -> str:
    found = json.loads(body)
    return str(found["problem"]["code"] if "problem" in found else found["detail"][:6])


def at_doors(world: World, work: Callable[[Doors], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Doors(world) as doors, asyncio.timeout(400):
            await work(doors)

    asyncio.run(run())


def bodies(world: World) -> dict[str, bytes]:
    """A good body of each route, but for what makes it good: the token, the nonce, the key behind it."""
    spki = base64.b64encode(world.spki()).decode()
    proof = {"token": "a.b.c", "chain": ["AA=="], "signature": "AA==", "ek": "AA==", "ak": "AA==", "quote": "AA=="}
    nonce = world.app.nodes.nonce()["nonce"]
    rows: dict[str, Json] = {
        "join": {"token": "a.b.c", "spki": spki},
        "readmit": {"node": "n", "nonce": nonce, "spki": spki, "key": spki, "signature": "AA=="},
        "challenge": {"attestor": "b", "ek": "AA==", "ak": "AA==", "certificate": ""},
        "attest": {"attestor": "c", "nonce": nonce, "spki": spki, "fresh": True, "proof": proof},
    }
    return {name: json.dumps(row).encode() for name, row in rows.items()}


def test_a_malformed_body_of_any_node_route_gets_its_code_and_leaves_nothing(world_now: World) -> None:
    attestors(world_now)

    async def work(doors: Doors) -> None:
        before, good = await count(doors), bodies(world_now)
        for name, seed in good.items():
            for number, body in enumerate(mutants([seed], range(examples(25)))):
                status, answer = await ask(doors, request(f"/v1/node/{name}", body), f"127.0.0.{2 + number % 200}")
                assert status in {403, 404, 413, 422, 503}, (name, body, answer)
                assert code_of(answer) in catalogue(), (name, body, answer)
        assert await count(doors) == before

    at_doors(world_now, work)


@pytest.mark.parametrize(
    "body",
    [b'{"token": "a", "spki": "b", "\\ud800": 1}', b'{"token": "\\ud800", "spki": ""}', b"[" * 5000, b"", b"\xff"],
    ids=["half-a-pair-as-name", "half-a-pair", "deep", "nothing", "no-text"],
)
def test_what_no_json_reader_likes_gets_its_code(world_now: World, body: bytes) -> None:
    async def work(doors: Doors) -> None:
        status, answer = await ask(doors, request("/v1/node/join", body))
        assert (status, code_of(answer)) == (422, "LM1256")

    at_doors(world_now, work)


def test_a_malformed_head_gets_an_answer_or_the_line_is_cut(world_now: World) -> None:
    seed = request(
        "/v1/node/join", b'{"token": "a.b.c", "spki": "AA=="}', JSON, b"accept: */*", b"expect: 100-continue"
    )
    head = seed[: seed.index(b"\r\n\r\n") + 4]

    async def work(doors: Doors) -> None:
        before = await count(doors)
        for number in range(examples(100)):
            # a head that does not end would be waited for
            sent = mutant([head], number) + b"\r\n\r\n\r\n\r\n" + b" " * 400
            try:
                async with asyncio.timeout(60):
                    status, _ = await ask(doors, sent, f"127.0.0.{2 + number % 200}")
                assert status in {100, 200, 400, 403, 404, 405, 413, 422, 503}, sent
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
        assert await count(doors) == before
        # and the door still works
        assert (await ask(doors, request("/v1/node/nonce", b"")))[0] == 200

    at_doors(world_now, work)


def test_a_malformed_question_of_ocsp_costs_no_row_and_a_large_one_is_not_read(world_now: World) -> None:
    async def work(doors: Doors) -> None:
        before = await count(doors)
        for body in mutants([OCSP], range(examples(40))):
            status, _ = await ask(doors, request("/ocsp", body, b"application/ocsp-request"))
            assert status in {200, 413}
        endless = b"POST /ocsp HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n" + bytes(100_000)
        status, answer = await ask(doors, endless)
        assert (status, code_of(answer)) == (413, "LM1258")
        answers = {(await ask(doors, b"GET /crl/x.crl HTTP/1.1\r\nhost: x\r\n\r\n"))[0] for _ in range(3)}
        assert answers == {404}
        assert await count(doors) == before

    at_doors(world_now, work)


def test_a_message_of_acme_that_is_malformed_before_or_behind_its_signature_leaves_nothing(world_now: World) -> None:
    """Signed by a valid account with a fresh nonce: what is wrong stands in the payload, or in the header."""
    (world_now.state / "acme.yaml").write_text("binding: optional\nnames: [test]\naddresses: [127.0.0.0/8]\n")
    acme = world_now.app.acme
    acme.tick()
    client, base = Client(acme), "https://limen.test"
    client.register()
    _, order = client.order("a.test")
    payloads: dict[str, Json] = {
        "/acme/new-order": {"identifiers": [{"type": "dns", "value": "*.b.test"}], "replaces": "AA.AA"},
        order["finalize"].removeprefix(base): {"csr": base64.urlsafe_b64encode(csr("a.test")).rstrip(b"=").decode()},
        order["authorizations"][0].removeprefix(base): {"status": "x"},
        client.kid.removeprefix(base): {"contact": "x"},
        "/acme/revoke-cert": {"certificate": "AAAA", "reason": 1},
        "/acme/key-change": {"protected": "e30", "payload": "e30", "signature": "AA"},
        "/acme/nothing": {},
    }

    async def work(doors: Doors) -> None:
        number = 0
        for path, payload in payloads.items():
            for _ in range(examples(12)):
                number += 1
                before = await count(doors)
                whole = client.body(path, payload)
                inner = json.loads(whole)
                part = mutant([json.dumps(payload).encode()], number)
                sent = [
                    mutant([whole], number),
                    client.raw(path, part),
                    json.dumps({**inner, "signature": inner["payload"]}).encode(),
                ]
                for body in sent:
                    status, answer = await ask(doors, request(path, body, JOSE), f"127.0.0.{2 + number % 200}")
                    if status < 300:
                        # some changes are none, and some are a good request: then it is not malformed
                        before = await count(doors)
                        continue
                    assert status < 500 or status == 503, (path, body, answer)
                    assert code_of(answer) in catalogue(), (path, body, answer)
                assert await count(doors) == before, (path, number)

    at_doors(world_now, work)


def test_no_message_to_the_node_api_is_a_bug_or_leaves_a_row(world_now: World) -> None:
    ask_, _ = new_ask("1", [("unix:uid", "1000")])
    methods = {
        "Renew": b"\x0a\x02AA",
        "BatchNewX509Svid": b"\x0a" + bytes([ask_.ByteSize() & 0x7F]) + ask_.SerializeToString(),
        "BatchNewJwtSvid": b"\x0a\x05\x0a\x01\x31\x1a\x00",
        "ReportEndpoints": b"\x0a\x10\x0a\x07spiffe:\x12\x01x\x18\x50",
        "PushRecords": b"\x08\x01\x12\x02{}\x1a\x02AA\x22\x02AA",
        "PushFlows": b"\x0a\x02{}",
    }

    async def work(doors: Doors) -> None:
        state = await asyncio.to_thread(join, doors.url, doors.token())
        node = Node(state)
        await node.report_endpoints([])
        before = await count(doors)
        for name, seed in methods.items():
            call = node._channel.unary_unary(f"/limen.node.v1.Node/{name}")  # type: ignore[attr-defined]
            for body in mutants([seed], range(examples(15))):
                try:
                    await call(body, timeout=60)
                except grpc.aio.AioRpcError as err:
                    details = err.details() or ""
                    assert err.code() is not grpc.StatusCode.UNKNOWN, (name, body, details)
                    assert any(code in details for code in catalogue()), (name, body, err.code(), details)
        after = await count(doors)
        assert {name: (before[name], after[name]) for name in after if after[name] != before[name]} == {}
        await node.close()

    at_doors(world_now, work)


def test_one_address_holds_no_more_than_its_share_of_connections_and_others_are_served(world_now: World) -> None:
    async def work(doors: Doors) -> None:
        host, port = doors.url.removeprefix("https://").split(":")

        def hold(count: int) -> list[socket.socket]:
            """Connections that say nothing, not even a handshake."""
            return [socket.create_connection((host, int(port)), 20, ("127.0.0.9", 0)) for _ in range(count)]

        held = await asyncio.to_thread(hold, MOST_OF_ONE)
        over = await asyncio.to_thread(hold, 40)
        assert [await asyncio.to_thread(item.recv, 1) for item in over] == [b""] * 40
        assert (await ask(doors, request("/v1/node/nonce", b""), "127.0.0.10"))[0] == 200
        for item in (*held, *over):
            item.close()

    at_doors(world_now, work)


def test_no_bytes_at_agent_sock_are_a_bug_and_it_serves_on(tmp_path: pathlib.Path) -> None:
    """Malformed messages get LM5215 or the method's own code; bytes that are no HTTP/2 are hung up on."""
    seeds = {
        "/SpiffeWorkloadAPI/FetchJWTSVID": pb.JWTSVIDRequest(audience=["a"], spiffe_id="spiffe://corp.test/x"),
        "/SpiffeWorkloadAPI/ValidateJWTSVID": pb.ValidateJWTSVIDRequest(audience="a", svid="a.b.c"),
        "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets": discovery_pb2.DiscoveryRequest(
            resource_names=["default", "nobody"], type_url="x"
        ),
    }

    async def work(found: Served, _: object) -> None:
        async with grpc.aio.insecure_channel(f"unix:{found.path}") as channel:
            for method, seed in seeds.items():
                call = channel.unary_unary(method)
                for number in range(examples(60)):
                    try:
                        await call(mutant([seed.SerializeToString()], number), metadata=HEADER, timeout=60)
                    except grpc.aio.AioRpcError as err:
                        assert err.code() is not grpc.StatusCode.UNKNOWN, (method, number, err.details())
                        assert any(code in str(err.details()) for code in catalogue()), (method, number, err.details())
        for number in range(examples(20)):
            reader, writer = await asyncio.open_unix_connection(str(found.path))
            writer.write(mutant([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), b"GET / HTTP/1.1\r\n\r\n"], number))
            writer.write_eof()
            await reader.read()
            writer.close()
        async with grpc.aio.insecure_channel(f"unix:{found.path}") as channel:
            answers = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID")(b"", metadata=HEADER, timeout=60)
            assert pb.X509SVIDResponse.FromString(await anext(aiter(answers))).svids

    run(tmp_path, work)
