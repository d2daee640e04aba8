"""The server's own X.509-SVID, `spiffe://TRUST_DOMAIN/limen/server`: with it the https_spiffe endpoint proves itself.

Renewed before half its life by the wall clock, and at once when the authority above it or the bundle changed, so that
what is shown is always what the served bundle vouches for. Its key is made here and never leaves the process. Works on
the server's one worker thread, but for the choice of the certificate, which OpenSSL asks for on the loop's.
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Callable

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.authority import Authority
from ca.trustmaking import fingerprint
from limen.tlsport import context_of, server_side
from mesh.clock import Clock, format_time
from mesh.problems import Invalid, Problem
from mesh.spiffe import SpiffeId
from mesh.x509svid import verify_x509_svid

LIFE = dt.timedelta(hours=1)
_SHARE = 0.4


class ServerSvid:
    """The server's SVID, as a TLS context that always shows the newest. ``context`` is given to a listener once."""

    def __init__(self, *, authority: Authority, clock: Clock, record: Callable[..., None]) -> None:
        self._authority, self._clock, self._record = authority, clock, record
        self.spiffe_id = SpiffeId.from_segments(authority.trust_domain, "limen", "server")
        self._shown: ssl.SSLContext | None = None
        self._chain: tuple[bytes, ...] = ()
        self._renew_at = clock.now()
        self.context = server_side()
        self.context.sni_callback = self._choose

    def renew(self) -> bool:
        """Renew the SVID if it is time; return whether it was. What cannot be renewed is shown as long as it lasts."""
        now = self._clock.now()
        if self._chain and now < self._renew_at and self._is_vouched_for(now):
            return False
        try:
            self._issue(now)
        except Problem as problem:
            structlog.get_logger().error("the server's own identity is not renewed", reason=str(problem))
            return False
        return True

    def _issue(self, now: dt.datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        chain = self._authority.sign(self.spiffe_id, key.public_key(), now=now, life=LIFE, node="server")
        verified = verify_x509_svid(chain, {self._authority.trust_domain: self._authority.bundle}, now)
        self._record(
            "issuance",
            "server",
            spiffe_id=str(self.spiffe_id),
            serial=f"{verified.serial:x}",
            sha256=fingerprint(chain[0]),
            not_after=format_time(verified.not_after),
        )
        self._chain, self._renew_at = chain, now + (verified.not_after - now) * _SHARE
        pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)
        try:
            self._shown = context_of(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), pem)
        except ssl.SSLError as err:
            # an ML-DSA authority signed it, which OpenSSL below 3.5 does not know: everything else goes on without it
            self._shown = None
            raise Invalid("LM1317", reason=err.reason or type(err).__name__) from err

    def _is_vouched_for(self, now: dt.datetime) -> bool:
        """Whether the present authority stands above the SVID, and the present bundle vouches for it."""
        if self._chain[1:] != tuple(self._authority.intermediates):
            return False
        try:
            verify_x509_svid(self._chain, {self._authority.trust_domain: self._authority.bundle}, now)
        except Problem:
            return False
        return True

    def _choose(self, tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        del name, context
        if self._shown is not None:
            tls.context = self._shown
