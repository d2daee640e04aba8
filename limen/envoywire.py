"""Requests to a real Envoy as bytes: PROXY line, mutual TLS as any caller, HTTP/1.1 or HTTP/2, and what came back.

Nothing is corrected on the way: targets, hosts and headers are sent as they stand, so that Envoy decides about what a
caller could send. The HTTP/2 side writes one request of literals that are not indexed (RFC 7541 §6.2.2) and reads
frames; it decodes no headers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import os
import re
import socket
import ssl
import struct
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

TIMEOUT_S = 60.0
MARK = b"x-limen-rule"
_LIFE = dt.timedelta(hours=24)
_MOST = 1 << 16
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_FRAME = 16_384  # a frame's first limit (RFC 9113 §4.2)
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY, _CONTINUATION = 0, 1, 3, 4, 7, 9
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_STATUS_200 = b"\x88"  # RFC 7541 appendix A: index 8
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back: a status (0: the connection was closed instead), and the name of the rule where it says one."""

    status: int
    rule: str = ""


class Authority:
    """A throw-away CA: its key lives in this process alone and signs a leaf for each caller, all with one key."""

    def __init__(self, now: dt.datetime) -> None:
        self._now = now
        self._key, self._leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "limen eval")])
        usage = _usage(key_cert_sign=True)
        builder = self._builder(x509.Name(self._name), self._key).add_extension(usage, critical=True)
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate = builder.add_extension(basic, critical=True).sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> str:
        """The CA's certificate."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def leaf(self, *uris: str) -> tuple[str, str]:
        """Certificate and key of whoever has these URI SANs, which are ASCII, PEM."""
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        extended = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            self._builder(x509.Name([]), self._leaf_key)
            .add_extension(names, critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(extended, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        key = self._leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.PEM).decode(), key.decode()

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _LIFE)
            .not_valid_after(self._now + _LIFE)
        )


def _usage(**given: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})


class Caller:
    """Whoever connects: contexts by the URI SANs of their certificates; no SAN is no certificate."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._context = functools.lru_cache(maxsize=256)(self._new_context)

    @contextlib.contextmanager
    def connected(
        self, port: int, uris: tuple[str, ...], peer: str | None, number: int, protocol: str
    ) -> Iterator[ssl.SSLSocket]:
        """A connection that seems to come from an address and a port; None: one that says nothing about it.

        Raises OSError, ssl.SSLError when the certificate, or its absence, is refused.
        """
        context = self._context(uris, protocol)
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if peer is not None:
                family, here = ("TCP6", "::1") if ":" in peer else ("TCP4", "127.0.0.1")
                plain.sendall(f"PROXY {family} {peer} {here} {number} {port}\r\n".encode("ascii"))
            with context.wrap_socket(plain) as found:
                yield found

    def _new_context(self, uris: tuple[str, ...], protocol: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # it is our own Envoy, and the CA is known to nobody else
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self._authority.pem)
        if protocol != "tcp":
            context.set_alpn_protocols(["h2" if protocol == "grpc" else "http/1.1"])
        if uris:
            with in_memory("".join(self._authority.leaf(*uris))) as path:
                context.load_cert_chain(path)
        return context


@contextlib.contextmanager
def in_memory(text: str) -> Iterator[str]:
    """A path that holds a text and is on no disk."""
    number = os.memfd_create("limen")
    try:
        with os.fdopen(number, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


# ---------------------------------------------------------------------- HTTP/1.1


def ask_http1(connection: ssl.SSLSocket, raw: bytes) -> Reply:
    """Send the bytes of a request and read the head of the answer."""
    connection.sendall(raw)
    head = b""
    while True:
        if head.startswith(_CONTINUE):
            head = head.partition(b"\r\n\r\n")[2]
        if b"\r\n\r\n" in head or len(head) >= _MOST:
            break
        try:
            more = connection.recv(_MOST)
        except ConnectionError:
            more = b""
        if not more:
            return Reply(status=0)
        head += more
    status, *lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    found = re.fullmatch(rb"HTTP/1\.1 ([0-9]{3})(?: .*)?", status)
    rule = next((line.partition(b":")[2].strip() for line in lines if line.lower().startswith(MARK + b":")), b"")
    return Reply(status=int(found[1]) if found else 0, rule=rule.decode("ascii", "replace"))


# ---------------------------------------------------------------------- HTTP/2


def ask_http2(connection: ssl.SSLSocket, fields: list[tuple[bytes, bytes]]) -> Reply:
    """Send one request without a body, and read frames until it is answered. The body's first words are the answer."""
    block = b"".join(_literal(name, value) for name, value in fields)
    parts = [block[at : at + _FRAME] for at in range(0, len(block), _FRAME)]
    frames = [_PREFACE, _frame(_SETTINGS, 0, 0, b"")]
    for place, part in enumerate(parts):
        kind, flags = (_HEADERS, _END_STREAM) if place == 0 else (_CONTINUATION, 0)
        frames.append(_frame(kind, flags | (_END_HEADERS if place == len(parts) - 1 else 0), 1, part))
    connection.sendall(b"".join(frames))
    status, body = 0, b""
    for kind, flags, stream, payload in _frames(connection):
        if kind == _SETTINGS and not flags & _ACK:
            connection.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        if kind == _GOAWAY or (kind == _RST_STREAM and stream == 1):
            break
        if kind == _HEADERS and stream == 1:
            status = 200 if payload[:1] == _STATUS_200 else 1
        if kind == _DATA and stream == 1:
            body += payload
        if kind in {_DATA, _HEADERS} and stream == 1 and flags & _END_STREAM:
            break
    words = body.decode("ascii", "replace").split(" ")
    is_ours = len(words) == 2 and words[0].isdigit()
    return Reply(status=int(words[0]), rule=words[1]) if is_ours else Reply(status=status)


def _frames(connection: ssl.SSLSocket) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, stream and payload of each frame, until the connection ends (RFC 9113 §4.1)."""
    held = b""
    while True:
        size = int.from_bytes(held[:3], "big")
        if len(held) >= 9 + size and len(held) >= 9:
            stream = int.from_bytes(held[5:9], "big") & 0x7FFFFFFF
            yield held[3], held[4], stream, held[9 : 9 + size]
            held = held[9 + size :]
            continue
        try:
            more = connection.recv(_MOST)
        except ConnectionError:
            more = b""
        if not more:
            return
        held += more


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _text(name) + _text(value)


def _text(value: bytes) -> bytes:
    """A text without Huffman coding, after its length as an integer of a 7-bit prefix (RFC 7541 §5.1, §5.2)."""
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    found, size = b"\x7f", size - 127
    while size >= 128:
        found += bytes((size % 128 + 128,))
        size //= 128
    return found + bytes((size,)) + value
