"""Proofs of a name: http-01 and dns-01 (RFC 8555 §8), tls-alpn-01 (RFC 8737), over addresses (RFC 8738).

Each is bounded in time and bytes. Names are resolved once, every address is held against the operator's policy, and
the connection goes to that very address: nothing is resolved a second time, so no answer can change in between.
Redirects are followed over http alone, at the configured port, each hop under the same policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import hmac
import ipaddress
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Callable

from cryptography import x509

from ca.acme.config import Address, Config
from ca.acme.jws import encode
from ca.acme.names import dns_name
from limen.acme.dns import Resolver
from mesh.crl import UNREADABLE
from mesh.problems import Forbidden, Invalid, Problem

TIMEOUT_S = 10.0
MAX_BYTES, MAX_REDIRECTS, MAX_ADDRESSES = 16_384, 5, 4
_REDIRECTS = {301, 302, 303, 307, 308}
_PROTOCOL = "acme-tls/1"
_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One proof to look for. ``expected`` is the key authorization (RFC 8555 §8.1)."""

    id: str
    type: str
    kind: str
    value: str
    token: str
    expected: str


class Validators:
    """Looks for proofs, under the configuration of the moment."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self.resolver = Resolver(lambda: config().resolver)

    async def validate(self, task: Task) -> None:
        """Look for a proof once.

        Raises the Problem of its failure: LM1414 to LM1417, LM1403, LM1406.
        """
        work = {"http-01": self._http, "dns-01": self._dns, "tls-alpn-01": self._tls}[task.type]
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await work(task)
        except TimeoutError as err:
            raise Invalid("LM1414", name=task.value, reason="it took too long") from err

    async def _dns(self, task: Task) -> None:
        name = f"_acme-challenge.{task.value.removeprefix('*.')}"
        wanted = encode(hashlib.sha256(task.expected.encode()).digest())
        found = await self.resolver.txt(name)
        if not any(hmac.compare_digest(item.encode(), wanted.encode()) for item in found):
            raise Forbidden("LM1416", name=name, reason=f"none of its {len(found)} TXT records is the expected one")

    async def _http(self, task: Task) -> None:
        host, path = task.value, f"/.well-known/acme-challenge/{task.token}"
        for hop in range(MAX_REDIRECTS + 1):
            status, headers, body = await self._get(host, path, redirected=hop > 0)
            if status not in _REDIRECTS:
                break
            host, path = self._redirected(headers.get("location", ""), host, path)
        else:
            raise Forbidden("LM1416", name=task.value, reason=f"more than {MAX_REDIRECTS} redirects")
        if status != 200:
            raise Forbidden("LM1416", name=task.value, reason=f"the answer has status {status}")
        if not hmac.compare_digest(body.rstrip(), task.expected.encode()):
            raise Forbidden("LM1416", name=task.value, reason="the answer is not the key authorization")

    def _redirected(self, location: str, host: str, path: str) -> tuple[str, str]:
        base = f"[{host}]" if ":" in host else host
        try:
            parts = urllib.parse.urlsplit(urllib.parse.urljoin(f"http://{base}{path}", location))
            port = parts.port or 80
        except ValueError as err:
            raise Forbidden("LM1416", name=host, reason="it redirects to what is no URL") from err
        if parts.scheme != "http" or port not in {80, self._config().http_port} or not parts.hostname:
            raise Forbidden("LM1416", name=host, reason="it redirects away from http at the validated port")
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        if not location.isascii() or not location.isprintable() or " " in location:
            raise Forbidden("LM1416", name=host, reason="it redirects to what is no URL")
        return parts.hostname, target or "/"

    async def _get(self, host: str, path: str, *, redirected: bool) -> tuple[int, dict[str, str], bytes]:
        name = f"[{host}]" if ":" in host else host
        port = self._config().http_port
        shown = name if port == 80 else f"{name}:{port}"
        async with self._connected(host, port, redirected=redirected) as (reader, writer):
            asked = f"GET {path} HTTP/1.0\r\nHost: {shown}\r\nUser-Agent: limen-acme\r\nConnection: close\r\n\r\n"
            writer.write(asked.encode("ascii"))
            data = b""
            while len(data) < MAX_BYTES and (more := await reader.read(MAX_BYTES - len(data))):
                data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise Forbidden("LM1416", name=host, reason="the answer is no HTTP/1")
        pairs = [line.partition(":") for line in lines[1:]]
        headers = {key.strip().lower(): value.strip() for key, _, value in pairs}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = _unchunked(body)
        return int(words[1]), headers, body

    async def _tls(self, task: Task) -> None:
        # RFC 8737 §3: the name, or for an address its reverse name (RFC 8738 §6), is asked for by SNI
        shown = ipaddress.ip_address(task.value).reverse_pointer if task.kind == "ip" else task.value
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([_PROTOCOL])
        async with self._connected(task.value, self._config().tls_port, tls=context, shown=shown) as (_, writer):
            found: ssl.SSLObject = writer.get_extra_info("ssl_object")
            der, protocol = found.getpeercert(binary_form=True), found.selected_alpn_protocol()
        if protocol != _PROTOCOL or der is None:
            raise Forbidden("LM1416", name=task.value, reason=f"the server does not speak {_PROTOCOL}")
        _check_alpn(der, task)

    @contextlib.asynccontextmanager
    async def _connected(
        self,
        host: str,
        port: int,
        *,
        redirected: bool = False,
        tls: ssl.SSLContext | None = None,
        shown: str | None = None,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reason = "it has no address"
        for address in (await self._addresses(host, redirected=redirected))[:MAX_ADDRESSES]:
            try:
                reader, writer = await asyncio.open_connection(str(address), port, ssl=tls, server_hostname=shown)
            except ssl.SSLError as err:
                raise Invalid("LM1417", name=host, reason=err.reason or "the handshake failed") from err
            except OSError as err:
                reason = f"{address} port {port}: {err.strerror or err}"
                continue
            try:
                yield reader, writer
            except OSError as err:
                raise Invalid("LM1414", name=host, reason=str(err)) from err
            finally:
                writer.close()
            return
        raise Invalid("LM1414", name=host, reason=reason)

    async def _addresses(self, host: str, *, redirected: bool) -> list[Address]:
        try:
            found: list[Address] = [ipaddress.ip_address(host)]
        except ValueError:
            found = await self.resolver.addresses(dns_name(host))
        config = self._config()
        # ALL of them: a name that leads anywhere it must not is not asked at all
        for address in found:
            if not config.may_reach(address, redirected=redirected):
                raise Forbidden("LM1406", name=host, reason="it leads to an address that validation does not reach")
        return found


def _check_alpn(der: bytes, task: Task) -> None:
    """Hold a certificate against RFC 8737 §3: exactly the one name, and the critical hash of the key authorization."""
    try:
        found = x509.load_der_x509_certificate(der)
        names = list(found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        extension = found.extensions.get_extension_for_oid(_IDENTIFIER)
        assert isinstance(extension.value, x509.UnrecognizedExtension)
        value = extension.value.value
    except (*UNREADABLE, x509.ExtensionNotFound) as err:
        raise Forbidden("LM1416", name=task.value, reason="the certificate has no proof in it") from err
    wanted = b"\x04\x20" + hashlib.sha256(task.expected.encode()).digest()
    shown = [str(item.value).lower() for item in names]
    if shown != [task.value] or not extension.critical or not hmac.compare_digest(value, wanted):
        raise Forbidden("LM1416", name=task.value, reason="the certificate's proof is another one")


def _unchunked(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        try:
            length = int(size.partition(b";")[0], 16)
        except ValueError:
            return b""
        if not length:
            break
        found, body = found + body[:length], body[length + 2 :]
    return found


def is_worth_a_retry(problem: Problem) -> bool:
    """Whether what failed may be well in a moment: nobody answered yet, or the record is not there yet."""
    return problem.code in {"LM1414", "LM1415"}
