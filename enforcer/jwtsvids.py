"""JWT-SVIDs of workloads: asked for when they are wanted, kept until half their life, served while the server is away.

A token that is kept is given only to the identity and for the audiences that it was asked for, never when it has
ended, and never when its key has left the bundle.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Awaitable, Callable, Sequence

import jwt

from enforcer.identity import Identity, half_life, refusal
from mesh.bundle import TrustBundle
from mesh.clock import Clock, parse_time
from mesh.problems import Forbidden, Unavailable
from mesh.proto import node_pb2 as pb

CACHE_SIZE = 4096
Key = tuple[str, str, tuple[str, ...], tuple[tuple[str, str], ...]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldJwt:
    """A token, when it ends, and when another one is asked for."""

    token: str = dataclasses.field(repr=False)
    kid: str
    not_after: dt.datetime
    renew_at: dt.datetime
    hint: str


class JwtSvids:
    """The tokens of a host. ``issue`` asks the server, ``bundle`` is the own trust domain's."""

    def __init__(
        self,
        issue: Callable[[list[pb.JwtAsk]], Awaitable[list[pb.IssuedJwt]]],
        bundle: Callable[[], TrustBundle],
        clock: Clock,
    ) -> None:
        self._issue, self._bundle, self._clock = issue, bundle, clock
        self._held: dict[Key, HeldJwt] = {}

    def forget(self) -> None:
        """Ask for every token again: rules or authorities are others than they were."""
        self._held.clear()

    async def fetch(self, identity: Identity, audiences: Sequence[str]) -> HeldJwt:
        """A token of an identity.

        1. One that is held, has half its life left, and whose key the bundle still has.
        2. Else a new one, for the facts that gave the identity.
        3. Without an answer, one that is held and has not ended.

        Raises Forbidden with the server's code, Unavailable when neither (2) nor (3) gives one (LM3453 when the
        answer cannot be read).
        """
        now = self._clock.now()
        key = (str(identity.svid.spiffe_id), identity.rule, tuple(dict.fromkeys(audiences)), identity.facts)
        held = self._held.get(key)
        if held is not None and (now >= held.not_after or held.kid not in self._kids()):
            del self._held[key]
            held = None
        # (1)
        if held is not None and now < held.renew_at:
            return held
        ask = pb.JwtAsk(
            ref="1",
            facts=[pb.Fact(key=name, value=value) for name, value in identity.facts],
            audiences=key[2],
            spiffe_id=key[0],
        )
        try:
            # (2)
            made = read_issued_jwt(await self._issue([ask]), now)
        except Forbidden:
            self._held.pop(key, None)
            raise
        except Unavailable:
            # (3)
            if held is None:
                raise
            return held
        return self._keep(key, made)

    def _keep(self, key: Key, made: HeldJwt) -> HeldJwt:
        while len(self._held) >= CACHE_SIZE:
            self._held.pop(next(iter(self._held)))
        self._held[key] = made
        return made

    def _kids(self) -> set[str]:
        return {str(json.loads(jwk)["kid"]) for jwk in self._bundle().jwt_authorities}


def read_issued_jwt(answers: Sequence[pb.IssuedJwt], now: dt.datetime) -> HeldJwt:
    """Read the answer to one ask.

    Raises Forbidden with the server's code when nothing was issued, Unavailable LM3453 when it cannot be read.
    """
    if len(answers) != 1:
        raise Unavailable("LM3453", reason=f"one token was asked for, and {len(answers)} came")
    answer = answers[0]
    if answer.code:
        raise refusal(answer.code, answer.facts)
    try:
        kid = str(jwt.get_unverified_header(answer.token).get("kid", ""))
        not_after = parse_time(answer.not_after)
    except (jwt.InvalidTokenError, ValueError) as err:
        raise Unavailable("LM3453", reason="the token or its end cannot be read") from err
    return HeldJwt(
        token=answer.token, kid=kid, not_after=not_after, renew_at=half_life(now, not_after), hint=answer.hint
    )
