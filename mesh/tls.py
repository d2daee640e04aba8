"""TLS contexts for connections between workloads: version 1.3, both sides with a certificate.

A resumed handshake shows no certificate, so that nobody can tell from it alone who the peer is. A server gives out
tickets only when it says that it remembers the chain of everyone who got one (`leaf` tells which); a client resumes
only what it asks for by name. Without both there is no resumption.

OpenSSL checks what it always checks, against the roots of every bundle at once; who the peer *is* only
`mesh.x509svid.verify_x509_svid` says, from the chain that `peer_chain` returns, and whoever uses these contexts
calls it before an application byte moves. The private key reaches OpenSSL through a memory file and is never on
a disk. This module opens no connection. The choice of stack is docs/adr/0001-tls-stack.md.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Mapping
from typing import Protocol, cast

from mesh.bundle import TrustBundle
from mesh.problems import Invalid
from mesh.spiffe import TrustDomain
from mesh.x509svid import X509Svid

_LINE = 64


def server_context(
    svid: X509Svid, bundles: Mapping[TrustDomain, TrustBundle], *, tickets: bool = False
) -> ssl.SSLContext:
    """Build the context of the side that accepts connections; a client without a certificate is refused.

    With ``tickets`` a caller may resume: one ticket each, under keys that only this context has.

    Raises Invalid LM3010 when no bundle holds an authority, LM3011 when the SVID or an authority cannot be loaded.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, svid, bundles)
    context.num_tickets = 1 if tickets else 0
    if tickets:
        context.options &= ~ssl.OP_NO_TICKET
    return context


def client_context(svid: X509Svid, bundles: Mapping[TrustDomain, TrustBundle]) -> ssl.SSLContext:
    """Build the context of the side that connects. Names play no part: the caller compares the SPIFFE ID.

    Raises Invalid LM3010 when no bundle holds an authority, LM3011 when the SVID or an authority cannot be loaded.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, svid, bundles)
    context.options &= ~ssl.OP_NO_TICKET
    return context


def leaf(tls: ssl.SSLObject) -> bytes | None:
    """The peer's own certificate, DER; a resumed handshake has no more of its chain than this."""
    return tls.getpeercert(binary_form=True)


def peer_chain(tls: ssl.SSLObject | ssl.SSLSocket) -> tuple[bytes, ...]:
    """The certificates that the peer presented, DER, leaf first; empty when it presented none.

    Nothing in the result is verified by this function.
    """
    inner = getattr(tls, "_sslobj", None)
    found = inner.get_unverified_chain() if inner is not None else None
    return tuple(
        certificate if isinstance(certificate, bytes) else certificate.public_bytes(_DER) for certificate in found or ()
    )


class Records(Protocol):
    """A connection's records, without the layer of Python that `ssl.SSLObject` puts around each call."""

    def read(self, size: int, /) -> bytes:
        """Decrypt up to so many bytes."""
        ...

    def write(self, data: bytes, /) -> int:
        """Encrypt bytes."""
        ...

    def pending(self) -> int:
        """How many decrypted bytes wait."""
        ...


def records(tls: ssl.SSLObject) -> Records:
    """Read and write a connection's records: every byte of every workload comes by here."""
    return cast("Records", getattr(tls, "_sslobj", tls))


_DER = 2  # _ssl.ENCODING_DER; `public_bytes` without it is PEM


def _context(side: int, svid: X509Svid, bundles: Mapping[TrustDomain, TrustBundle]) -> ssl.SSLContext:
    """Build what both sides share.

    1. TLS 1.3 and nothing older.
    2. The peer presents a certificate that chains to an authority of some bundle; there is at least one.
    3. No tickets, unless whoever asks for the context says otherwise.
    4. Our own chain and key, through memory alone.
    """
    context = ssl.SSLContext(side)
    # (1)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    # (2)
    authorities = [der for bundle in bundles.values() for der in bundle.x509_authorities]
    if not authorities:
        raise Invalid("LM3010")
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # (3)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    try:
        context.load_verify_locations(cadata=b"".join(authorities))
        # (4)
        _load_svid(context, svid)
    except (ssl.SSLError, ValueError) as err:
        raise Invalid("LM3011", spiffe_id=svid.spiffe_id) from err
    return context


def _load_svid(context: ssl.SSLContext, svid: X509Svid) -> None:
    file = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(file), "wb") as out:
            out.writelines(_pem("CERTIFICATE", der) for der in svid.chain_der)
            out.write(_pem("PRIVATE KEY", svid.key_pkcs8_der))
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def _pem(label: str, der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return b"\n".join([f"-----BEGIN {label}-----".encode(), *lines, f"-----END {label}-----".encode(), b""])
