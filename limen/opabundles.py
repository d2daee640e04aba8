"""The active policies as a signed bundle, for the OPAs that may fetch them (OPA's bundle service API).

An OPA proves who it is by a JWT-SVID for the audience `limen-bundles`, as a bearer token: `limen server --opa-reader`
names the identities that may read; without one, nobody may. The signing key is one of its own, so that what an OPA
trusts for policies can sign nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from limen.bearers import Bearers, Codes
from limen.logins import Logins
from mesh.bundle import TrustBundle
from mesh.clock import Clock
from mesh.problems import NotFound
from policyengine.compile.opabundle import write_bundle
from policyengine.compile.rego import compile_rego
from policyengine.snapshot import Snapshot

AUDIENCE = "limen-bundles"
KEY_ID = "limen"


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyBundle:
    """A signed bundle; ``tag`` is its entity tag: the snapshot's hash, quoted."""

    data: bytes
    tag: str


class PolicyBundles:
    """The bundle of the active snapshot, made once for each; ``active`` and ``trust`` are asked every time."""

    def __init__(
        self,
        *,
        key: ec.EllipticCurvePrivateKey,
        active: Callable[[], Snapshot | None],
        trust: Callable[[], TrustBundle],
        clock: Clock,
        logins: Logins | None = None,
    ) -> None:
        self._key, self._active = key, active
        self._readers = Bearers(AUDIENCE, Codes("LM2620", "LM2621", "LM2622"), trust, clock, logins)
        self._made: PolicyBundle | None = None

    @property
    def public_pem(self) -> str:
        """The key that verifies bundles."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()

    def admit(self, readers: tuple[str, ...]) -> None:
        """Say who may fetch.

        Raises Invalid LM2620 for text that is no SPIFFE ID or pattern.
        """
        self._readers.admit(readers)

    def authorize(self, header: str | None) -> str:
        """Whose bearer token it is, if that one may fetch.

        Raises Unauthenticated LM2621 for no token or one that does not verify, Forbidden LM2622 for another's.
        """
        return self._readers.authorize(header)

    def bundle(self) -> PolicyBundle:
        """The active snapshot's bundle.

        Raises NotFound LM2623 before the first activation.
        """
        active = self._active()
        if active is None:
            raise NotFound("LM2623")
        tag = f'"{active.hash}"'
        if self._made is None or self._made.tag != tag:
            program = compile_rego(active.policies, active.hash)
            self._made = PolicyBundle(write_bundle(program, self._sign), tag)
        return self._made

    def _sign(self, claims: Mapping[str, object]) -> str:
        return jwt.encode(dict(claims), self._key, algorithm="ES256", headers={"kid": KEY_ID})
