"""SVIDs that a person asks the server for, without an agent: for what has none, such as a job or a test.

Whoever may speak to `server.sock` may have any identity of the trust domain but Limen's own; each is recorded with
who asked. Works on the server's one worker thread.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca import issuance
from ca.authority import Authority
from ca.registration import is_host_name, is_reserved
from mesh.clock import Clock, format_time
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, SpiffeIdError

Json = Any


class ByHand:
    """Issues what people ask for."""

    def __init__(self, *, authority: Authority, clock: Clock, record: Callable[..., None]) -> None:
        self._authority, self._clock, self._record = authority, clock, record

    def issue(self, spiffe_id: str, spki: bytes, *, ttl_s: int, dns_names: Sequence[str], actor: str) -> Json:
        """An X.509-SVID for a public key. Raises Invalid LM1315, LM1203 and LM1204."""
        named = self._named(spiffe_id)
        if not all(is_host_name(name) for name in dns_names):
            raise Invalid("LM1224", field="dns_names", reason="lower-case host names")
        issued = issuance.issue_by_hand(
            self._authority,
            spiffe_id=named,
            spki=spki,
            life=dt.timedelta(seconds=ttl_s),
            dns_names=tuple(dns_names),
            now=self._clock.now(),
        )
        self._record(
            "issuance",
            actor,
            spiffe_id=str(named),
            serial=f"{issued.serial:x}",
            sha256=issued.sha256,
            rule="by hand",
            not_after=format_time(issued.not_after),
        )
        chain = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode() for der in issued.chain]
        return {
            "spiffe_id": str(named),
            "serial": f"{issued.serial:x}",
            "not_after": format_time(issued.not_after),
            "chain": "".join(chain),
        }

    def issue_jwt(self, spiffe_id: str, audiences: Sequence[str], *, ttl_s: int, actor: str) -> Json:
        """A JWT-SVID. Raises Invalid LM1315, LM1270 and LM1204."""
        named = self._named(spiffe_id)
        made = self._authority.sign_jwt(
            named,
            audiences,
            now=self._clock.now(),
            life=dt.timedelta(seconds=ttl_s),
            node="",
            rule="by hand",
        )
        self._record(
            "issuance",
            actor,
            spiffe_id=str(named),
            jti=made.jti,
            sha256=hashlib.sha256(made.token.encode()).hexdigest(),
            audience=list(audiences),
            rule="by hand",
            not_after=format_time(made.not_after),
        )
        return {
            "spiffe_id": str(named),
            "token": made.token,
            "jti": made.jti,
            "not_after": format_time(made.not_after),
        }

    def _named(self, text: str) -> SpiffeId:
        domain = self._authority.trust_domain
        try:
            found = SpiffeId.parse(text)
        except SpiffeIdError as err:
            raise Invalid("LM1315", given=text[:200], trust_domain=domain) from err
        if found.trust_domain != domain or not found.path or is_reserved(found.path):
            raise Invalid("LM1315", given=text[:200], trust_domain=domain)
        return found
