"""Callers of the public port that prove themselves by a JWT-SVID for one audience, of whom named ones are let in.

Without a name nobody is. This module knows no routes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from limen.logins import Logins
from mesh.bundle import TrustBundle
from mesh.clock import Clock
from mesh.jwtsvid import JwtSvidError, verify_jwt_svid
from mesh.problems import Forbidden, Invalid
from mesh.spiffe import SpiffePattern


class Unauthenticated(Forbidden):
    """The caller did not prove who it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Codes:
    """What is said: of a text that names nobody, of a caller without proof, of one that is not named."""

    pattern: str
    proof: str
    name: str


class Bearers:
    """Who may come in with a token; ``trust`` is asked every time."""

    def __init__(
        self,
        audience: str,
        codes: Codes,
        trust: Callable[[], TrustBundle],
        clock: Clock,
        logins: Logins | None = None,
    ) -> None:
        self._logins = logins
        self._audience, self._codes, self._trust, self._clock = audience, codes, trust, clock
        self._named: tuple[SpiffePattern, ...] = ()

    def admit(self, names: Iterable[str]) -> None:
        """Say who may come in.

        Raises Invalid for text that is no SPIFFE ID or pattern.
        """
        found = []
        for text in names:
            try:
                found.append(SpiffePattern.parse(text))
            except ValueError as err:
                raise Invalid(self._codes.pattern, value=text[:200], reason=str(err)) from err
        self._named = tuple(found)

    def authorize(self, header: str | None) -> str:
        """Whose bearer token it is, if that one may come in.

        Who came is recorded, and that somebody did not.

        Raises Unauthenticated for no token or one that does not verify, Forbidden for another's.
        """
        try:
            found = self._authorized(header)
        except Forbidden as problem:
            if self._logins is not None:
                self._logins.refused(self._audience, problem.code)
            raise
        if self._logins is not None:
            self._logins.came(self._audience, found)
        return found

    def _authorized(self, header: str | None) -> str:
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated(self._codes.proof, reason="there is none")
        bundle = self._trust()
        try:
            found = verify_jwt_svid(token.strip(), self._audience, {bundle.trust_domain: bundle}, self._clock.now())
        except JwtSvidError as err:
            raise Unauthenticated(self._codes.proof, reason=err.message) from err
        if not any(pattern.matches(found.spiffe_id) for pattern in self._named):
            raise Forbidden(self._codes.name, spiffe_id=str(found.spiffe_id))
        return str(found.spiffe_id)
