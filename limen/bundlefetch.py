"""Fetches a bundle from another trust domain's bundle endpoint: bounded in size and time, and only from whom it should.

Nothing is asked before the endpoint has proved itself (§5.2.1 and §5.2.2): https_web by web PKI, https_spiffe by an
X.509-SVID of exactly the configured ID. Redirects are followed under the same checks and never remembered (F-10). No
client certificate is sent and no proxy is used. What a document may replace is decided in `ca.federation`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import Callable

import httptools

from ca import federation
from ca.federation import Profile, Relationship
from limen.tlsport import harden
from mesh.bundle import MAX_BUNDLE_BYTES, TrustBundle, parse_bundle
from mesh.problems import Forbidden, Invalid, Unavailable
from mesh.tls import peer_chain

TOTAL_S = 20.0
MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_HEAD = 65_536
_CHUNK = 65_536


async def fetch(
    relationship: Relationship, verifier: TrustBundle | None, now: Callable[[], dt.datetime], total_s: float = TOTAL_S
) -> TrustBundle:
    """Fetch the newest bundle of a relationship; ``verifier`` proves an https_spiffe endpoint.

    1. TLS 1.2 or newer; the endpoint proves itself before a byte is asked of it, at EVERY redirect again.
    2. At most five redirects, each to a URL that keeps the same rules.
    3. The document is at most 4 MiB, and all of this takes 20 s at most.
    4. It parses strictly.

    Raises Forbidden LM1510 and LM1518 for (1), Invalid LM1501 for (2), Unavailable LM1508 and LM1509, Invalid LM1001.
    """
    url = relationship.url
    try:
        async with asyncio.timeout(total_s):
            for _ in range(MAX_REDIRECTS + 1):
                answer = await _ask(url, relationship, verifier, now)
                if answer.status not in _REDIRECTS:
                    break
                # (2)
                url = federation.follow(url, answer.location)
            else:
                raise Unavailable("LM1509", url=relationship.url, reason=f"more than {MAX_REDIRECTS} redirects")
    except TimeoutError as err:
        raise Unavailable("LM1508", url=url, reason=f"nothing whole came within {total_s:g} s") from err
    if answer.status != 200:
        raise Unavailable("LM1509", url=url, reason=f"its status is {answer.status}")
    # (4)
    return parse_bundle(relationship.trust_domain, bytes(answer.body))


class _Answer:
    """One HTTP response as it arrives; httptools calls the `on_` methods."""

    def __init__(self) -> None:
        self.status, self.location = 0, ""
        self.body = bytearray()
        self.is_whole = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"location":
            self.location = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        # an interim answer (1xx) is not the one
        if self._parser.get_status_code() >= 200:
            self.status = self._parser.get_status_code()
            self.is_whole = True


async def _ask(
    url: str, relationship: Relationship, verifier: TrustBundle | None, now: Callable[[], dt.datetime]
) -> _Answer:
    host, port, target = federation.check_url(url)
    name = host if _is_name(host) else None
    is_web = relationship.profile is Profile.HTTPS_WEB
    context = _web_context(relationship) if is_web else _spiffe_context()
    try:
        # OpenSSL compares an address with the IP SANs; as a name it would be sent as SNI, which RFC 6066 forbids
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=host if is_web or name else "", limit=_CHUNK
        )
    except ssl.SSLCertVerificationError as err:
        raise Forbidden("LM1518", url=url, reason=err.verify_message or str(err)) from err
    except (OSError, ValueError) as err:
        reason = getattr(err, "reason", None) or getattr(err, "strerror", None) or str(err)
        raise Unavailable("LM1508", url=url, reason=str(reason)) from err
    try:
        # (1)
        if not is_web:
            if verifier is None:
                of = str(relationship.endpoint_id)
                raise Forbidden("LM1511", trust_domain=str(relationship.trust_domain), of=of)
            chain = peer_chain(writer.get_extra_info("ssl_object"))
            federation.check_endpoint(chain, relationship, verifier, now())
        shown = f"[{host}]" if ":" in host else host
        writer.write(
            f"GET {target} HTTP/1.1\r\nHost: {shown}:{port}\r\nAccept: application/json\r\n"
            "Accept-Encoding: identity\r\nUser-Agent: limen\r\nConnection: close\r\n\r\n".encode("ascii")
        )
        return await _read(reader, url)
    except OSError as err:
        raise Unavailable("LM1508", url=url, reason=err.strerror or str(err)) from err
    finally:
        # at once: an endpoint that does not say goodbye must not keep this open
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader, url: str) -> _Answer:
    answer, size = _Answer(), 0
    try:
        while not answer.is_whole:
            data = await reader.read(_CHUNK)
            if not data:
                raise Unavailable("LM1509", url=url, reason="it ends in the middle, or has no length")
            size += len(data)
            answer.feed(data)
            # (3)
            if size > MAX_BUNDLE_BYTES + _MAX_HEAD or len(answer.body) > MAX_BUNDLE_BYTES:
                raise Unavailable("LM1509", url=url, reason="it is larger than 4 MiB")
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as err:
        raise Unavailable("LM1509", url=url, reason="it is no HTTP/1.1") from err
    return answer


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _web_context(relationship: Relationship) -> ssl.SSLContext:
    """Web PKI: the configured roots alone, or the host's own; the name or address must stand in a SAN (F-6)."""
    try:
        context = ssl.create_default_context(cadata=relationship.web_roots or None)
    except ssl.SSLError as err:
        raise Invalid("LM1502", profile="https_web", reason="its roots cannot be loaded") from err
    context.hostname_checks_common_name = False
    harden(context)
    return context


def _spiffe_context() -> ssl.SSLContext:
    """OpenSSL sees that the peer has the key of what it shows; what it shows is verified before anything is asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    harden(context)
    return context
