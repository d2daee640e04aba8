"""One table of attacks: the demo tries them, the tests assert them, `limen check` says which this host can guard.

An attack acts on a `Target` (a running shop) and reports what it got back. Whether it was denied, and with which
code, is read from the answer or from the audit record that names the refusal; nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import os
import pathlib
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

ANSWER_WITHIN_S = 10.0
_LOOT = "all orders of everybody"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What an attacker got: ``answer`` is every byte that came back; ``code`` is what an answer named itself."""

    denied: bool
    code: str = ""
    answer: str = ""


class Target(Protocol):
    """What attacks need of a running installation."""

    state: pathlib.Path
    trust_domain: str

    @property
    def now(self) -> dt.datetime:
        """The present moment."""
        ...

    def inbound(self, service: str) -> tuple[str, int]:
        """Where a service's sidecar listens for mutual TLS."""
        ...

    def application(self, service: str) -> tuple[str, int]:
        """Where the program itself listens on loopback."""
        ...

    def outbound(self, workload: str, service: str) -> int:
        """The loopback port that leads from a workload to a service."""
        ...

    def script(self, service: str) -> pathlib.Path:
        """The genuine program of a service."""
        ...

    def environment(self, service: str) -> dict[str, str]:
        """The genuine program's environment."""
        ...

    async def send_as(self, workload: str, service: str, data: str) -> str:
        """Have a launched workload send bytes to a service; return all bytes that came back."""
        ...

    def issuing(self) -> tuple[list[x509.Certificate], ec.EllipticCurvePrivateKey]:
        """The mesh's issuing chain and key, as somebody who stole them would have them."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack. ``codes`` are the refusals that count; ``guard`` names what the host must offer, if anything."""

    name: str
    story: str
    codes: frozenset[str]
    run: Callable[[Target], Awaitable[Observation]]
    guard: str = ""
    # whose refusal: the called service's sidecar, the caller's own, or the kernel (which writes no record)
    refused_by: str = "sidecar"


def _http(method: str, path: str, host: str) -> str:
    return f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"


def read_answer(answer: str) -> Observation:
    """Judge an HTTP answer: denied unless a 2xx came back; the code is in the JSON body of a refusal."""
    head, _, body = answer.partition("\r\n\r\n")
    status = head.split(" ", 2)[1] if head.startswith("HTTP/1.1 ") else ""
    code = ""
    if "{" in body:
        try:
            found = json.loads(body[body.index("{") : body.rindex("}") + 1])
            code = str(found.get("code", "")) if isinstance(found, dict) else ""
        except ValueError:
            code = ""
    return Observation(denied=not status.startswith("2") and _LOOT not in answer, code=code, answer=answer)


async def _no_rule(target: Target) -> Observation:
    data = _http("PUT", "/payments/6f1c0d7a-8c5e-4c8e-9d5a-0d6a1b7a9c11", "payments.shop")
    return read_answer(await target.send_as("reporter", "payments", data))


def _path(path: str) -> Callable[[Target], Awaitable[Observation]]:
    async def run(target: Target) -> Observation:
        return read_answer(await target.send_as("shopper", "orders", _http("GET", path, "orders.shop")))

    return run


async def _exchange(target: Target, service: str, context: ssl.SSLContext | None, data: str) -> str:
    """Send bytes to a service's sidecar and return what comes back before the end or the time limit."""
    host, port = target.inbound(service)
    answer = b""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname="" if context else None
            )
            try:
                writer.write(data.encode("latin-1"))
                await writer.drain()
                while piece := await reader.read(65536):
                    answer += piece
            finally:
                writer.close()
    except (OSError, TimeoutError, ssl.SSLError):
        pass
    return answer.decode("latin-1")


async def _plaintext(target: Target) -> Observation:
    answer = await _exchange(target, "payments", None, _http("GET", "/", "payments.shop"))
    return read_answer(answer)


async def _foreign_domain(target: Target) -> Observation:
    key, chain = _authority("evil.test", target.now)
    leaf_key, leaf = _leaf(["spiffe://demo.limen.test/ns/shop/sa/orders"], chain[0], key, target.now)
    context = _client_context(leaf_key, [leaf, *chain])
    data = _http("PUT", "/payments/6f1c0d7a-8c5e-4c8e-9d5a-0d6a1b7a9c11", "payments.shop")
    return read_answer(await _exchange(target, "payments", context, data))


async def _foreign_identity(target: Target) -> Observation:
    key, chain = _authority("evil.test", target.now)
    leaf_key, leaf = _leaf(["spiffe://evil.test/ns/shop/sa/orders"], chain[0], key, target.now)
    context = _client_context(leaf_key, [leaf, *chain])
    data = _http("PUT", "/payments/6f1c0d7a-8c5e-4c8e-9d5a-0d6a1b7a9c11", "payments.shop")
    return read_answer(await _exchange(target, "payments", context, data))


async def _two_uri_sans(target: Target) -> Observation:
    chain, key = target.issuing()
    domain = target.trust_domain
    ids = [f"spiffe://{domain}/ns/shop/sa/orders", f"spiffe://{domain}/ns/shop/sa/reporter"]
    leaf_key, leaf = _leaf(ids, chain[0], key, target.now)
    context = _client_context(leaf_key, [leaf, *chain])
    data = _http("PUT", "/payments/6f1c0d7a-8c5e-4c8e-9d5a-0d6a1b7a9c11", "payments.shop")
    return read_answer(await _exchange(target, "payments", context, data))


async def _second_program(target: Target) -> Observation:
    program = (
        "import socket, sys\n"
        "c = socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=10)\n"
        "c.sendall(sys.argv[2].encode())\n"
        "out = b''\n"
        "while piece := c.recv(65536):\n    out += piece\n"
        "sys.stdout.write(out.decode('latin-1'))\n"
    )
    port = target.outbound("cart", "orders")
    answer = await _run(sys.executable, "-c", program, str(port), _http("GET", "/orders/1000", "orders.shop"))
    return read_answer(answer)


async def _workload_api(target: Target) -> Observation:
    answer = await _run(sys.executable, "-m", "limen.attacker", str(target.state / "agent.sock"))
    found = json.loads(answer) if answer.startswith("{") else {}
    ids = found.get("ids", [])
    return Observation(denied=not ids and bool(found), code=str(found.get("code", "")), answer=answer)


async def _connect_then_exec(target: Target) -> Observation:
    program = (
        "import os, socket, sys\n"
        "c = socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=10)\n"
        "c.set_inheritable(True)\n"
        "c.sendall(sys.argv[2].encode())\n"
        "os.dup2(c.fileno(), 0)\n"
        "os.execv(sys.executable, [sys.executable, sys.argv[3]])\n"
    )
    port = target.outbound("cart", "orders")
    environment = {**os.environ, **target.environment("cart")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        str(port),
        _http("GET", "/orders/1000", "orders.shop"),
        str(target.script("cart")),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    # the genuine program does not read the stolen connection: the refusal stands in the audit log
    return Observation(denied=True)


async def _past_the_sidecar(target: Target) -> Observation:
    host, port = target.application("payments")
    answer = b""
    try:
        async with asyncio.timeout(3.0):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(_http("GET", "/payments/x", "payments.shop").encode())
            answer = await reader.read(65536)
            writer.close()
    except (OSError, TimeoutError):
        return Observation(denied=True, code=GUARD_CODE)
    return Observation(denied=not answer, answer=answer.decode("latin-1"))


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S * 2):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        out, _ = await process.communicate()
    return out.decode("latin-1")


def _authority(trust_domain: str, now: dt.datetime) -> tuple[ec.EllipticCurvePrivateKey, list[x509.Certificate]]:
    """A root of somebody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return key, [builder.sign(key, hashes.SHA256())]


def _leaf(
    ids: list[str], issuer: x509.Certificate, issuer_key: ec.EllipticCurvePrivateKey, now: dt.datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(seconds=10))
        .not_valid_after(now + dt.timedelta(minutes=10))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(found) for found in ids]), critical=True
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return key, builder.sign(issuer_key, hashes.SHA256())


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _client_context(key: ec.EllipticCurvePrivateKey, chain: list[x509.Certificate]) -> ssl.SSLContext:
    """TLS as an attacker speaks it: the server's certificate is not looked at."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + b"".join(found.public_bytes(serialization.Encoding.PEM) for found in chain)
    handle = os.memfd_create("attacker", os.MFD_CLOEXEC)
    try:
        os.write(handle, pem)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
    return context


GUARD_CODE = "LM3701"
DEFAULT_DENY = frozenset({"LM2302"})
NOT_THE_WORKLOAD = frozenset({"LM3421", "LM3422", "LM3423", "LM3424", "LM3426"})
TABLE: tuple[Attack, ...] = (
    Attack(
        name="no-rule",
        story="a taken-over job with a valid identity calls payments, which no rule allows it to",
        codes=DEFAULT_DENY,
        run=_no_rule,
    ),
    Attack(
        name="path-dot-segments",
        story="a caller that may read /orders/** asks for /orders/../admin",
        codes=DEFAULT_DENY,
        run=_path("/orders/../admin"),
    ),
    Attack(
        name="path-encoded-dots",
        story="the same with %2e%2e",
        codes=DEFAULT_DENY,
        run=_path("/orders/%2e%2e/admin"),
    ),
    Attack(
        name="path-parameter",
        story="the same with ;, which servers read differently",
        codes=frozenset({"LM2304"}),
        run=_path("/orders;x=1/1000"),
    ),
    Attack(
        name="foreign-authority",
        story="a certificate that names orders, signed by another trust domain's authority",
        codes=frozenset({"LM3020", "LM1019"}),
        run=_foreign_domain,
    ),
    Attack(
        name="foreign-trust-domain",
        story="a valid certificate of another trust domain",
        codes=frozenset({"LM3020", "LM1018"}),
        run=_foreign_identity,
    ),
    Attack(
        name="two-uri-sans",
        story="a certificate with two identities, signed by the genuine authority",
        codes=frozenset({"LM1011"}),
        run=_two_uri_sans,
    ),
    Attack(
        name="plaintext",
        story="plain HTTP to the mutual TLS port",
        codes=frozenset({"LM3020"}),
        run=_plaintext,
    ),
    Attack(
        name="second-program",
        story="another program of the same user uses cart's way out",
        codes=NOT_THE_WORKLOAD,
        run=_second_program,
        refused_by="agent",
    ),
    Attack(
        name="workload-api",
        story="another program asks agent.sock for cart's identity",
        codes=frozenset({"LM1210", "LM3503"}),
        run=_workload_api,
        refused_by="agent",
    ),
    Attack(
        name="connect-then-exec",
        story="a program connects first and then executes cart's own script",
        codes=NOT_THE_WORKLOAD,
        run=_connect_then_exec,
        guard="root",
        refused_by="agent",
    ),
    Attack(
        name="past-the-sidecar",
        story="a direct connection to payments' own port",
        codes=frozenset({GUARD_CODE}),
        run=_past_the_sidecar,
        guard="nft",
        refused_by="kernel",
    ),
)
