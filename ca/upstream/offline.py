"""An upstream that people carry requests to: an offline root, on a machine without a network, or in a safe.

The server writes its request beside its state and goes on with what it has; a person has it signed, and imports the
chain. The request stays the same until then. What is imported is checked twice: here, so that the person sees the
mistake, and when it is used, with the key.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import pathlib
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.upstream.chain import Upstreamed, UpstreamPending, check, ders, read_csr, spki_of
from ca.upstream.local import read_certificates
from mesh.problems import Invalid, NotFound
from mesh.spiffe import TrustDomain

_REQUEST, _ANSWER = ".csr.pem", ".chain.pem"


class OfflineUpstream:
    """Requests and answers as files of one directory."""

    name = "offline"

    def __init__(self, folder: pathlib.Path, trust_domain: TrustDomain) -> None:
        self._folder, self._trust_domain = folder, trust_domain

    def mint(self, csr: bytes, now: dt.datetime) -> Upstreamed:
        """What people imported for this request. Raises UpstreamPending LM1615 until they did, Invalid LM1616."""
        del now
        public_key = read_csr(csr)
        stem = _stem(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        answer, request = self._folder / (stem + _ANSWER), self._folder / (stem + _REQUEST)
        if answer.exists():
            return split(read_certificates(answer))
        if not request.exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(request, x509.load_der_x509_csr(csr).public_bytes(Encoding.PEM))
        raise UpstreamPending("LM1615", request=str(request))

    def pending(self) -> list[pathlib.Path]:
        """The requests that wait for people, oldest first."""
        found = [path for path in self._folder.glob(f"upstream-*{_REQUEST}") if not self._answer(path).exists()]
        return sorted(found, key=lambda path: (path.stat().st_mtime, path.name))

    def put(self, path: pathlib.Path, now: dt.datetime) -> pathlib.Path:
        """Import a signed chain, PEM: the issuing certificate first, the root last. Return the request that it answers.

        1. It is for the key of a request of this server; an answer that turned out wrong may be replaced.
        2. `check` finds nothing wrong with it.
        3. It is on the disk when this returns.

        Raises NotFound LM1618 for (1), Invalid LM1611 and LM1616 for the rest.
        """
        answer = split(read_certificates(path))
        # (1)
        first = x509.load_der_x509_certificate(answer.chain[0]) if answer.chain else None
        request = self._folder / ((_stem(spki_of(first)) if first else "") + _REQUEST)
        if not request.exists():
            waiting = ", ".join(str(found) for found in self.pending())
            raise NotFound("LM1618", path=str(path), waiting=waiting or "none")
        # (2)
        found = check(answer, read_csr(_read_request(request)), self._trust_domain, now, upstream=str(path))
        # (3)
        _write(self._answer(request), b"".join(_pem(der) for der in (*found.chain, *found.roots)))
        return request

    def _answer(self, request: pathlib.Path) -> pathlib.Path:
        return request.with_name(request.name.removesuffix(_REQUEST) + _ANSWER)


def split(certificates: list[x509.Certificate]) -> Upstreamed:
    """Take a list apart: what signed itself is a root, the rest is the chain in its order."""
    roots = [found for found in certificates if found.subject == found.issuer]
    return Upstreamed(
        chain=ders([found for found in certificates if found not in roots]),
        roots=ders(roots),
    )


def _stem(spki: bytes) -> str:
    return f"upstream-{hashlib.sha256(spki).hexdigest()[:16]}"


def _read_request(path: pathlib.Path) -> bytes:
    try:
        return x509.load_pem_x509_csr(path.read_bytes()).public_bytes(Encoding.DER)
    except (OSError, ValueError) as err:
        raise Invalid("LM1616", path=str(path), reason="it holds no request any more") from err


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def _write(path: pathlib.Path, data: bytes) -> None:
    """Write a file whole and durably, or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".upstream-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        pathlib.Path(name).replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            pathlib.Path(name).unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
