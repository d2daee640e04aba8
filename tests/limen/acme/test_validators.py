import asyncio
import ipaddress

import pytest

from ca.acme.config import Config
from limen.acme.validators import Task, Validators
from mesh.problems import Problem

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def proven(answer: bytes, *, config: Config | None = None, kind: str = "http-01") -> str:
    """The code that comes of a proof by a server with this answer; empty when it holds."""

    async def work() -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        found = config or Config(addresses=LOOPBACK, http_port=port, tls_port=port)
        task = Task(id="1", type=kind, kind="ip", value="127.0.0.1", token="tok", expected="tok.print")
        try:
            await Validators(lambda: found).validate(task)
        except Problem as problem:
            return problem.code
        finally:
            server.close()
        return ""

    return asyncio.run(work())


def test_the_key_authorization_proves() -> None:
    assert proven(b"HTTP/1.1 200 OK\r\n\r\ntok.print\n") == ""
    assert proven(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ntok.print\r\n0\r\n\r\n") == ""


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n\r\ntok.other",
        b"HTTP/1.1 404 No\r\n\r\ntok.print",
        b"SSH-2.0\r\n",
        b"HTTP/1.1 302 F\r\nLocation: https://127.0.0.1/x\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:22/x\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: /again\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: http://[\r\n\r\n",
    ],
    ids=range(8),
)
def test_any_other_answer_is_a_wrong_proof(answer: bytes) -> None:
    assert proven(answer) == "LM1416"


def test_no_connection_is_made_to_where_validation_must_not_reach() -> None:
    assert proven(b"HTTP/1.1 200 OK\r\n\r\ntok.print", config=Config()) == "LM1406"


def test_a_redirect_to_a_forbidden_address_is_not_followed() -> None:
    answer = b"HTTP/1.1 302 F\r\nLocation: http://169.254.169.254/latest\r\n\r\n"
    assert proven(answer) == "LM1406"


def test_a_host_that_is_not_there_and_one_without_tls() -> None:
    assert proven(b"", config=Config(addresses=LOOPBACK, http_port=1)) == "LM1414"
    assert proven(b"", config=Config(addresses=LOOPBACK, tls_port=1), kind="tls-alpn-01") == "LM1414"
