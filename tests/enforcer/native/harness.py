"""A trust domain that signs anything, an application that remembers what it got, and an agent's end of a sidecar."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import pathlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from enforcer.native import wire
from enforcer.trusted import for_sidecar
from mesh.bundle import TrustBundle
from mesh.clock import SystemClock, format_time
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.tls import client_context, server_context
from mesh.x509svid import X509Svid

ROOT = pathlib.Path(__file__).parents[3]
PATIENCE_S = 200.0
WEB = "spiffe://corp.test/ns/shop/sa/web"
DB = "spiffe://corp.test/ns/shop/sa/db"
OPS = "spiffe://corp.test/ns/ops/sa/admin"


def _builder(subject: x509.Name, issuer: x509.Name, key: Any, now: dt.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
    )


def _usage(*, ca: bool, signs: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=ca or signs, crl_sign=ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


class Realm:
    """A trust domain whose authority signs whatever a test asks for."""

    def __init__(self, name: str, now: dt.datetime) -> None:
        self.trust_domain, self.now = TrustDomain.parse(name), now
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        root_name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, f"{name} root")])
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, f"{name} issuing")])
        self.root = self._authority(root_name, root_name, self._root_key, self._root_key)
        self._issuing = self._authority(self._name, root_name, self._key, self._root_key)
        self.bundle = TrustBundle(trust_domain=self.trust_domain, x509_authorities=(_der(self.root),))

    def _authority(self, subject: x509.Name, issuer: x509.Name, key: Any, issuer_key: Any) -> x509.Certificate:
        uri = x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}")
        return (
            _builder(subject, issuer, key, self.now)
            .not_valid_after(self.now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )

    def svid(
        self, spiffe_id: str, *more: x509.GeneralName, ttl: dt.timedelta = dt.timedelta(days=1), ca: bool = False
    ) -> X509Svid:
        """An SVID, or something that only looks like one: more names, expired, an authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        end = self.now + ttl
        names = [x509.UniformResourceIdentifier(spiffe_id), *more]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        leaf = (
            _builder(x509.Name([]), self._name, key, self.now)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_usage(ca=ca), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pkcs8 = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return X509Svid(
            spiffe_id=SpiffeId.parse(spiffe_id),
            chain_der=(_der(leaf), _der(self._issuing)),
            key_pkcs8_der=pkcs8,
            not_after=end,
        )

    def forged(
        self,
        *names: x509.GeneralName,
        common_name: str = "",
        purposes: tuple[x509.ObjectIdentifier, ...] = (
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        ),
        signs: bool = False,
        begins_in: dt.timedelta = dt.timedelta(),
    ) -> X509Svid:
        """A leaf that this authority signed and that is no SVID in some respect; it is presented as web's."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else [])
        begin = self.now - dt.timedelta(minutes=5) + begins_in
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False, signs=signs), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        pkcs8 = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return X509Svid(
            spiffe_id=SpiffeId.parse(WEB),
            chain_der=(_der(builder.sign(self._key, hashes.SHA256())), _der(self._issuing)),
            key_pkcs8_der=pkcs8,
            not_after=begin + dt.timedelta(days=1),
        )

    def revoking(self, svid: X509Svid) -> TrustBundle:
        """The bundle with a list in which an SVID's certificate stands."""
        serial = x509.load_der_x509_certificate(svid.chain_der[0]).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.now)
        made = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(self.now - dt.timedelta(minutes=5))
            .next_update(self.now + dt.timedelta(days=1))
            .add_revoked_certificate(entry.build())
            .sign(self._key, hashes.SHA256())
        )
        return dataclasses.replace(self.bundle, crls=(made.public_bytes(serialization.Encoding.DER),))


def identity_message(svid: X509Svid, *bundles: TrustBundle) -> wire.Message:
    return {
        "type": "identity",
        "spiffe_id": str(svid.spiffe_id),
        "chain": [wire.bytes_to_text(der) for der in svid.chain_der],
        "key": wire.bytes_to_text(svid.key_pkcs8_der),
        "bundles": {str(bundle.trust_domain): for_sidecar(bundle, wire.bytes_to_text) for bundle in bundles},
        "trust": 1,
        "not_after": format_time(svid.not_after),
    }


class App:
    """A TCP server that answers each connection by a function and remembers the bytes it got."""

    def __init__(self, answer: Callable[[socket.socket, App], None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.requests: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            self._answer(sock, self)

    def close(self) -> None:
        self._listener.close()


class TlsApp(App):
    """Such a server behind mutual TLS, in a sidecar's place; it gives out tickets and tells who resumed."""

    def __init__(
        self, answer: Callable[[socket.socket, App], None], svid: X509Svid, *bundles: TrustBundle, tickets: bool = True
    ) -> None:
        self._context = server_context(svid, {bundle.trust_domain: bundle for bundle in bundles}, tickets=tickets)
        self.resumed: list[bool] = []
        super().__init__(answer)

    def _one(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what was sent has been sent
        try:
            secure = self._context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)
        except OSError:
            sock.close()
            return
        self.resumed.append(secure.session_reused is True)
        super()._one(secure)


def read_request(sock: socket.socket, buffer: bytes) -> tuple[bytes, bytes]:
    """One request with a body of a known length or in chunks, as bytes, and what came after it; nothing, cut short."""
    while b"\r\n\r\n" not in buffer:
        data = sock.recv(65536)
        if not data:
            return b"", b""
        buffer += data
    head, _, rest = buffer.partition(b"\r\n\r\n")
    lowered = head.lower()
    chunked = b"transfer-encoding: chunked" in lowered
    _, _, tail = lowered.partition(b"content-length: ")
    length = int(tail.split(b"\r\n")[0]) if tail else 0
    while b"0\r\n\r\n" not in rest if chunked else len(rest) < length:
        data = sock.recv(65536)
        if not data:
            return b"", b""
        rest += data
    end = rest.index(b"0\r\n\r\n") + 5 if chunked else length
    return head + b"\r\n\r\n" + rest[:end], rest[end:]


def http_answer(sock: socket.socket, app: App) -> None:
    """An HTTP/1.1 application that keeps its connections."""
    rest = b""
    while True:
        request, rest = read_request(sock, rest)
        if not request:
            return
        app.requests.append(request)
        body = b"hello"
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def echo_answer(sock: socket.socket, app: App) -> None:
    """A TCP application that says what it hears, and says goodbye when the other side has ended."""
    while data := sock.recv(65536):
        app.requests.append(data)
        sock.sendall(data)
    sock.sendall(b"bye")


def banner_answer(sock: socket.socket, app: App) -> None:
    """A TCP application that speaks first."""
    sock.sendall(b"220 secret banner\r\n")
    sock.recv(1)


@dataclasses.dataclass
class Agent:
    """The agent's end of a sidecar; the test is the agent."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    attest: Callable[[wire.Message], dict[str, object]]
    acknowledges: bool = True
    has_ended: bool = False
    heard: list[wire.Message] = dataclasses.field(default_factory=list)
    changed: threading.Condition = dataclasses.field(default_factory=threading.Condition)
    # a long message goes out in parts: an acknowledgement of the listening thread may not come between them
    sending: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def listen(self) -> None:
        with contextlib.suppress(OSError):
            while (message := wire.receive(self.sock)) is not None:
                with self.changed:
                    self.heard.append(message)
                    self.changed.notify_all()
                if message["type"] == "attest":
                    self.send({"type": "attested", "conn": message["conn"], **self.attest(message)})
                if message["type"] == "records" and self.acknowledges:
                    self.send({"type": "ack", "sequence": message["sequence"]})
        with self.changed:
            self.has_ended = True
            self.changed.notify_all()

    def send(self, message: wire.Message) -> None:
        with contextlib.suppress(OSError), self.sending:
            wire.send(self.sock, message)

    def wait(self, kind: str, matches: Callable[[wire.Message], bool] = lambda _: True) -> wire.Message:
        """The first message of a kind that matches."""
        with self.changed:
            self.changed.wait_for(lambda: self.has_ended or any(True for _ in self._found(kind, matches)), PATIENCE_S)
            found = next(self._found(kind, matches), None)
            assert found is not None, f"no {kind}; heard {self.heard}"
            return found

    def _found(self, kind: str, matches: Callable[[wire.Message], bool]) -> Iterator[wire.Message]:
        return (message for message in self.heard if message["type"] == kind and matches(message))

    def records(self, **fields: object) -> list[dict[str, Any]]:
        """All decision records with these fields that have been heard."""
        with self.changed:
            batches = [message["records"] for message in self.heard if message["type"] == "records"]
        rows = [row for batch in batches for row in batch]  # type: ignore[attr-defined]  # a list of records
        return [row for row in rows if all(row.get(name) == value for name, value in fields.items())]

    def record(self, **fields: object) -> dict[str, Any]:
        """The first decision record with these fields."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.records(**fields), PATIENCE_S), f"no {fields}; {self.heard}"
        return self.records(**fields)[0]

    def flow(self, count: int) -> dict[str, Any]:
        """The first flow that was told, with the connections of all: what is told every second may be a half."""

        def flows() -> list[dict[str, Any]]:
            return [row for message in self._found("flows", lambda _: True) for row in message["flows"]]  # type: ignore[attr-defined]  # a list of flows

        with self.changed:
            assert self.changed.wait_for(lambda: sum(row["connections"] for row in flows()) >= count, PATIENCE_S), (
                f"no {count} connections; {self.heard}"
            )
            return {**flows()[0], "connections": sum(row["connections"] for row in flows())}

    def policy(self, policies: dict[str, object] | None, *, epoch: int = 1, candidate: object = None) -> None:
        """Activate policies and wait until they hold."""
        active = None if policies is None else {"hash": f"sha256:{epoch}", "policies": policies}
        self.send({"type": "policy", "epoch": epoch, "active": active, "candidate": candidate})
        self.wait("applied", lambda found: found["epoch"] == epoch)

    def stop(self) -> None:
        self.send({"type": "stop"})
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()
            self.sock.close()


def inbound_port(agent: Agent) -> int:
    return int(agent.wait("ready")["inbound"][0]["port"])  # type: ignore[index]


def outbound_port(agent: Agent) -> int:
    return int(agent.wait("ready")["outbound"][0]["local_port"])  # type: ignore[index]


def connect(port: int, svid: X509Svid, *bundles: TrustBundle) -> ssl.SSLSocket:
    """A caller's TLS connection."""
    context = client_context(svid, {bundle.trust_domain: bundle for bundle in bundles})
    raw = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    try:
        return context.wrap_socket(raw)
    except OSError:
        raw.close()
        raise


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side ends or cuts the connection; silence is neither."""
    data = b""
    try:
        while part := sock.recv(65536):
            data += part
    except TimeoutError:
        raise
    except OSError:
        pass
    return data


def read_response(sock: socket.socket) -> tuple[int, bytes]:
    """Status and body of one response of a known length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        if not part:
            return 0, data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        part = sock.recv(65536)
        if not part:
            return 0, data
        body += part
    return int(head.split()[1]), body


def eventually(claim: Callable[[], bool]) -> bool:
    """Whether a claim comes true before patience ends."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if claim():
            return True
        threading.Event().wait(0.01)
    return False


def policies(
    *rules: dict[str, object], mode: str = "enforce", protocol: str = "http", port: int = 8080, tier: str = "app"
) -> dict[str, object]:
    """A policy set with one service, `db`, and rules about it."""
    service: dict[str, object] = {
        "name": "db",
        "owner": "team-db",
        "identities": [DB],
        "ports": [{"port": port, "protocol": protocol}],
        "mode": mode,
    }
    if mode == "observe":
        service["until"] = format_time(SystemClock().now() + dt.timedelta(hours=1))
    policy = {"name": "shop-db", "owner": "team-db", "service": "db", "tier": tier, "rules": list(rules)}
    return {
        "schema": 1,
        "services": [service],
        "policies": [policy] if rules else [],
        "groups": [],
        "invariants": [],
        "exceptions": [],
    }


ALLOW_WEB: dict[str, object] = {
    "id": "orders",
    "effect": "allow",
    "from": [WEB],
    "to": [{"methods": ["GET", "POST"], "paths": ["/orders", "/orders/**"], "hosts": ["db.corp.test"]}],
}
ALLOW_WEB_TCP: dict[str, object] = {"id": "tcp", "effect": "allow", "from": [WEB]}
HOST = b"Host: db.corp.test\r\n"
REQUEST = b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n"


class Pair:
    """web's sidecar in front of db's; the test attests."""

    def __init__(
        self, sidecars: Callable[..., Any], corp: Realm, app: App, *, protocol: str, server: X509Svid | None = None
    ) -> None:
        self.word: dict[str, object] = {"ok": True, "code": "", "facts": {}}
        self.asked: list[wire.Message] = []
        self.server: Agent = sidecars(
            server or corp.svid(DB),
            corp.bundle,
            inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},),
        )
        self.port = inbound_port(self.server)
        self.client: Agent = sidecars(
            corp.svid(WEB),
            corp.bundle,
            outbound=({"local_port": 0, "service": "db", "port": None},),
            attest=self._attest,
        )
        self.local = outbound_port(self.client)
        rule = ALLOW_WEB if protocol == "http" else ALLOW_WEB_TCP
        self.rules = policies(rule, protocol=protocol, port=self.port)
        for agent in (self.server, self.client):
            agent.policy(self.rules)
        self.register(DB, self.port)

    def _attest(self, message: wire.Message) -> dict[str, object]:
        self.asked.append(message)
        return self.word

    def register(self, *found: object) -> None:
        rows = [
            {"spiffe_id": found[at], "address": "127.0.0.1", "port": found[at + 1]} for at in range(0, len(found), 2)
        ]
        self.client.send({"type": "endpoints", "endpoints": rows})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.local), PATIENCE_S)

    def ask(self, raw: bytes = REQUEST) -> tuple[int, bytes]:
        with self.connect() as sock:
            sock.sendall(raw)
            return read_response(sock)
