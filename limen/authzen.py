"""The authorization API of the active policies (OpenID AuthZEN 1.0): who may ask, and whose snapshot answers.

A caller proves who it is by a JWT-SVID for the audience `limen-authzen`, as a bearer token; `limen server
--authzen-caller` names those who may ask, and without one nobody may. A caller vouches for what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import sqlalchemy as sa

from limen.bearers import Bearers, Codes
from mesh.bundle import TrustBundle
from mesh.clock import Clock
from mesh.database import transaction
from mesh.problems import Invalid
from policyengine import store
from policyengine.authzen import AuthzenError, Json, Pdp
from policyengine.authzensearch import Kind, search
from policyengine.model import PolicySet

AUDIENCE = "limen-authzen"


class Authzen:
    """The decision point of the active snapshot, made once for each; ``engine`` is asked for it every time.

    ``identities`` are those that were issued and hold now: what a search for workloads knows beside the policies.
    """

    def __init__(
        self,
        *,
        engine: sa.Engine,
        trust: Callable[[], TrustBundle],
        identities: Callable[[], Iterable[str]],
        clock: Clock,
    ) -> None:
        self._engine, self._identities, self._clock = engine, identities, clock
        self._callers = Bearers(AUDIENCE, Codes("LM2640", "LM2641", "LM2642"), trust, clock)
        self._pdp = Pdp(PolicySet(), "")

    def admit(self, callers: Iterable[str]) -> None:
        """Say who may ask.

        Raises Invalid LM2640 for text that is no SPIFFE ID or pattern.
        """
        self._callers.admit(callers)

    def enter(self, header: str | None) -> tuple[str, Pdp]:
        """Who asks, and the decision point that answers. Before the first activation it knows no service.

        Raises Unauthenticated LM2641, Forbidden LM2642.
        """
        caller = self._callers.authorize(header)
        # only the hash is looked at each time: to read a snapshot takes as long as it is large
        with transaction(self._engine) as connection:
            latest = store.latest_activation(connection)
            if latest is not None and self._pdp.snapshot != latest[0].snapshot:
                active = store.get_snapshot(connection, latest[0].snapshot)
                self._pdp = Pdp(active.policies, active.hash)
        return caller, self._pdp

    def known(self) -> list[str]:
        """The identities that were issued and hold now."""
        return sorted(set(self._identities()))

    def answer(self, path: str, pdp: Pdp, body: object, *, caller: str, known: list[str]) -> Json:
        """Answer a request at a path below `/access/v1`.

        Raises Invalid LM2643.
        """
        now = self._clock.now()
        try:
            match path:
                case "evaluation":
                    return pdp.evaluate(body, caller=caller, now=now)
                case "evaluations":
                    return pdp.evaluate_all(body, caller=caller, now=now)
                case _:
                    return search(pdp, _KINDS[path], body, caller=caller, now=now, known=lambda: known)
        except AuthzenError as err:
            raise Invalid("LM2643", reason=str(err)) from err


_KINDS: dict[str, Kind] = {"search/subject": "subject", "search/resource": "resource", "search/action": "action"}
PATHS = ("evaluation", "evaluations", *_KINDS)
