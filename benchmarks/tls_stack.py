"""Stdlib `ssl` against pyOpenSSL for the native data plane: handshakes, resumption, bulk bytes, memory.

Both ends run in one process over memory BIOs, mutual TLS 1.3, P-256 leaves below a P-256 CA, interleaved
rounds, medians. Each stack is measured for memory in a process of its own. Prints a table; `--save` writes the
JSON beside it.

    python benchmarks/tls_stack.py --rounds 5 --save benchmarks/results/tls_stack.json
"""
# ruff: noqa: ANN401, D102, PLC0415, SLF001  two untyped libraries side by side, each imported only where it is measured

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import pathlib
import platform
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from mesh.clock import SystemClock

STACKS = ("ssl", "pyopenssl")
_PEM = serialization.Encoding.PEM


class Material:
    """A CA and two SVID-like leaves, PEM."""

    def __init__(self) -> None:
        now = SystemClock().now()
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "bench")])
        self.ca_certificate = self._sign(key, name, key, name, now, ca=True, uri="spiffe://bench.test")
        self.ca = self.ca_certificate.public_bytes(_PEM)
        self.leaves: dict[str, tuple[bytes, bytes]] = {}
        for label in ("client", "server"):
            leaf_key = ec.generate_private_key(ec.SECP256R1())
            leaf = self._sign(key, name, leaf_key, x509.Name([]), now, ca=False, uri=f"spiffe://bench.test/{label}")
            pem = leaf_key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            self.leaves[label] = (leaf.public_bytes(_PEM), pem)

    @staticmethod
    def _sign(
        issuer_key: ec.EllipticCurvePrivateKey,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        subject: x509.Name,
        now: dt.datetime,
        *,
        ca: bool,
        uri: str,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=12))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not ca,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=ca,
                    crl_sign=ca,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=not ca)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )
        if not ca:
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())


def _memfd(data: bytes) -> int:
    fd = os.memfd_create("key", os.MFD_CLOEXEC)
    os.write(fd, data)
    return fd


class StdlibPair:
    """Both ends with `ssl.MemoryBIO`."""

    def __init__(self, material: Material, *, resume: bool = False) -> None:
        self.server = self._context(ssl.PROTOCOL_TLS_SERVER, material, "server")
        self.client = self._context(ssl.PROTOCOL_TLS_CLIENT, material, "client")
        self.server.num_tickets = 1 if resume else 0
        self.session: ssl.SSLSession | None = None

    @staticmethod
    def _context(protocol: int, material: Material, label: str) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=material.ca.decode())
        certificate, key = material.leaves[label]
        fd = _memfd(certificate + key)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
        os.close(fd)
        return context

    def connect(self, *, keep_session: bool = False) -> tuple[Any, ...]:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = self.server.wrap_bio(to_server, to_client, server_side=True)
        client = self.client.wrap_bio(to_client, to_server, session=self.session)
        done = False
        while not done:
            done = True
            for end in (client, server):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    done = False
        chain = [certificate.public_bytes(2) for certificate in server._sslobj.get_unverified_chain() or ()]
        if keep_session:
            try:
                client.read(1)
            except ssl.SSLWantReadError:
                self.session = client.session
        return client, server, chain

    def bulk(self, total: int, chunk: bytes) -> None:
        client, server, _ = self.connect()
        sent = 0
        while sent < total:
            client.write(chunk)
            sent += len(chunk)
            got = 0
            while got < len(chunk):
                got += len(server.read(65536))

    def handshakes(self, count: int) -> None:
        for _ in range(count):
            self.connect()

    def resumptions(self, count: int) -> None:
        self.connect(keep_session=True)
        for _ in range(count):
            client, _, _ = self.connect(keep_session=True)
            assert client.session_reused


class PyOpenSslPair:
    """Both ends with `OpenSSL.SSL.Connection` over its own memory BIOs."""

    def __init__(self, material: Material, *, resume: bool = False) -> None:
        from OpenSSL import SSL

        self.ssl = SSL
        self.server = self._context(material, "server")
        self.client = self._context(material, "client")
        self.session: Any = None
        if resume:
            self.server.set_session_id(b"bench")
        else:
            self.server.set_options(SSL.OP_NO_TICKET)
            self.server.set_session_cache_mode(SSL.SESS_CACHE_OFF)

    def _context(self, material: Material, label: str) -> Any:
        SSL = self.ssl  # noqa: N806  the module's own name
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *found: bool(found[-1]))
        context.get_cert_store().add_cert(_pyopenssl_certificate(material.ca))
        certificate, key = material.leaves[label]
        context.use_certificate(x509.load_pem_x509_certificate(certificate))
        context.use_privatekey(serialization.load_pem_private_key(key, None))
        return context

    def connect(self, *, keep_session: bool = False) -> tuple[Any, ...]:
        SSL = self.ssl  # noqa: N806
        server, client = SSL.Connection(self.server), SSL.Connection(self.client)
        server.set_accept_state()
        client.set_connect_state()
        if self.session is not None:
            client.set_session(self.session)
        done = False
        while not done:
            done = True
            for end, peer in ((client, server), (server, client)):
                try:
                    end.do_handshake()
                except SSL.WantReadError:
                    done = False
                self._move(end, peer)
        chain = [
            certificate.public_bytes(serialization.Encoding.DER)
            for certificate in server.get_peer_cert_chain(as_cryptography=True) or ()
        ]
        if keep_session:
            try:
                client.recv(1)
            except SSL.WantReadError:
                self.session = client.get_session()
            for end in (client, server):  # a connection freed without a shutdown spoils its session
                end.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        return client, server, chain

    def _move(self, end: Any, peer: Any) -> None:
        try:
            while True:
                peer.bio_write(end.bio_read(65536))
        except self.ssl.WantReadError:
            return

    def bulk(self, total: int, chunk: bytes) -> None:
        client, server, _ = self.connect()
        sent = 0
        while sent < total:
            at = 0
            while at < len(chunk):
                at += client.send(chunk[at:])
            self._move(client, server)
            sent += len(chunk)
            got = 0
            while got < len(chunk):
                got += len(server.recv(65536))

    def handshakes(self, count: int) -> None:
        for _ in range(count):
            self.connect()

    def resumptions(self, count: int) -> None:
        self.connect(keep_session=True)
        for _ in range(count):
            _, _, chain = self.connect(keep_session=True)
            assert not chain, "a resumed handshake carries no certificates"


def _pyopenssl_certificate(pem: bytes) -> Any:
    from OpenSSL import crypto

    return crypto.X509.from_cryptography(x509.load_pem_x509_certificate(pem))


def pair(stack: str, material: Material, *, resume: bool = False) -> StdlibPair | PyOpenSslPair:
    return StdlibPair(material, resume=resume) if stack == "ssl" else PyOpenSslPair(material, resume=resume)


def cpu_us(work: Callable[[], None], units: float) -> float:
    """CPU microseconds per unit of work, from this process's own account."""
    before = time.process_time()
    work()
    return (time.process_time() - before) * 1e6 / units


def memory_kib() -> dict[str, int]:
    rows = pathlib.Path("/proc/self/smaps_rollup").read_text("ascii").splitlines()[1:]
    values = {row.split(":")[0]: int(row.split()[1]) for row in rows if row.endswith("kB")}
    return {"rss": values["Rss"], "private": values["Private_Clean"] + values["Private_Dirty"]}


def memory_of(stack: str) -> dict[str, int]:
    """A process that holds uvloop, the certificate library and 200 live pairs of this stack."""
    import uvloop  # noqa: F401  part of every sidecar

    found = pair(stack, Material())
    empty = memory_kib()
    live = [found.connect() for _ in range(200)]
    full = memory_kib()
    return {**empty, "per_connection_end": (full["private"] - empty["private"]) // (2 * len(live))}


def measure(rounds: int) -> dict[str, Any]:
    from OpenSSL import SSL

    material = Material()
    chunk = os.urandom(65536)
    rows: dict[str, dict[str, list[float]]] = {stack: {} for stack in STACKS}
    for _ in range(rounds):
        for stack in STACKS:
            full, again = pair(stack, material), pair(stack, material, resume=True)
            for name, value in (
                ("handshake_us_both_ends", cpu_us(lambda f=full: f.handshakes(150), 150)),
                ("resumed_us_both_ends", cpu_us(lambda a=again: a.resumptions(150), 150)),
                ("bulk_us_per_mb", cpu_us(lambda f=full: f.bulk(64 << 20, chunk), 64)),
                ("record_1k_us_both_ends", cpu_us(lambda f=full: f.bulk(20000 << 10, chunk[:1024]), 20000)),
            ):
                rows[stack].setdefault(name, []).append(value)
    out: dict[str, Any] = {
        "python": platform.python_version(),
        "ssl": ssl.OPENSSL_VERSION,
        "pyopenssl": SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode(),
        "rounds": rounds,
        "stacks": {},
    }
    for stack in STACKS:
        found = {name: round(statistics.median(values), 1) for name, values in rows[stack].items()}
        found["handshakes_per_s"] = round(1e6 / found["handshake_us_both_ends"])
        found["bulk_mb_per_s"] = round(1e6 / found["bulk_us_per_mb"])
        child = subprocess.run(
            [sys.executable, __file__, "--memory", stack], check=True, capture_output=True, text=True
        )
        found["memory_kib"] = json.loads(child.stdout)
        out["stacks"][stack] = found
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=pathlib.Path)
    parser.add_argument("--memory", choices=STACKS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory_of(options.memory)))
        return
    found = measure(options.rounds)
    print(f"{found['python']}, {found['ssl']} against {found['pyopenssl']}, median of {found['rounds']}")
    for name in next(iter(found["stacks"].values())):
        print(f"{name:26}", *(f"{stack}={found['stacks'][stack][name]}" for stack in STACKS), sep="  ")
    if options.save:
        options.save.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
