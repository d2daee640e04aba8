"""The authorization API of the active policies (OpenID AuthZEN 1.0): who may ask, and whose snapshot answers.

A caller proves who it is by a JWT-SVID for the audience `limen-authzen`, as a bearer token; `limen server
--authzen-caller` names those who may ask, and without one nobody may. A caller vouches for what it says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from audit.masking import mask
from limen.bearers import Bearers, Codes
from limen.decisions import decision_to_json
from limen.logins import Logins
from mesh.bundle import TrustBundle
from mesh.clock import Clock
from mesh.database import transaction
from mesh.problems import Invalid
from policyengine import store
from policyengine.authzen import SERVICE, WORKLOAD, Answered, AuthzenError, Json, Pdp
from policyengine.authzensearch import Kind, Searched, search
from policyengine.model import PolicySet

AUDIENCE = "limen-authzen"
_MAX_PATH = 2048
Row = Mapping[str, object]
Kept = tuple[str, Sequence[Row]]
"""What the audit log keeps of a request: the kind of its records, and they."""


class Authzen:
    """The decision point of the active snapshot, made once for each; ``engine`` is asked for it every time.

    ``identities`` are those that were issued and hold now: what a search for workloads knows beside the policies.
    ``record`` puts rows of a kind into the audit log; ``mask_key`` hides the people in them.
    """

    def __init__(
        self,
        *,
        engine: sa.Engine,
        trust: Callable[[], TrustBundle],
        identities: Callable[[], Iterable[str]],
        clock: Clock,
        record: Callable[[str, str, Sequence[Row]], None],
        mask_key: bytes,
        logins: Logins | None = None,
    ) -> None:
        self._engine, self._identities, self._clock, self._record = engine, identities, clock, record
        self._mask_key = mask_key
        self._callers = Bearers(AUDIENCE, Codes("LM2640", "LM2641", "LM2642"), trust, clock, logins)
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

    def answer(self, path: str, pdp: Pdp, body: object, *, caller: str, known: list[str]) -> tuple[Json, Kept]:
        """The answer to a request at a path below `/access/v1`, and what `record` has to keep before it is given.

        Raises Invalid LM2643.
        """
        now = self._clock.now()
        rows: list[Row] = []
        kind = "search" if path in _KINDS else "decision"
        try:
            match path:
                case "evaluation":
                    found = pdp.evaluate(body, caller=caller, now=now, tell=lambda item: rows.append(_decided(item)))
                case "evaluations":
                    found = pdp.evaluate_all(
                        body, caller=caller, now=now, tell=lambda item: rows.append(_decided(item))
                    )
                case _:
                    found = search(
                        pdp, _KINDS[path], body, caller=caller, now=now, known=lambda: known,
                        tell=lambda item: rows.append(_searched(item)),
                    )  # fmt: skip
        except AuthzenError as err:
            raise Invalid("LM2643", reason=str(err)) from err
        return found, (kind, rows)

    def record(self, caller: str, kept: Kept) -> None:
        """Put records into the audit log; they are durable when this returns. ``caller`` asked for them."""
        kind, rows = kept
        self._record(kind, caller, [cast("Row", mask(row, self._mask_key)) for row in rows])


def mask_key_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key that hides people in this server's records, the same after every start: made of one that is kept."""
    form = (serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return hashlib.blake2b(key.private_bytes(*form), digest_size=32, person=b"limen-mask").digest()


def _decided(found: Answered) -> Row:
    """A decision as enforcers record theirs, and who it was about: of a person the type and the id, which is masked.

    Properties, headers and claims are not recorded.
    """
    request, subject = found.request, found.question.subject
    about = {} if subject["type"] == WORKLOAD else {"subject_type": subject["type"], "sub": subject["id"]}
    return {
        "direction": "authzen",
        "caller": request.source,
        "destination": request.service,
        "port": request.port,
        "peer_ip": request.peer_ip,
        "protocol": request.protocol,
        "method": request.method,
        "host": request.host,
        "path": None if request.path is None else request.path[:_MAX_PATH],
        **about,
        **decision_to_json(found.decision),
    }


def _searched(found: Searched) -> Row:
    """A search: what was looked for and for whom, as decisions say it, and how many candidates came how far."""
    subject, resource, action = (found.parts.get(name, {}) for name in ("subject", "resource", "action"))
    is_service = resource["type"] == SERVICE
    given = resource.get("properties")
    path = given.get("path") if is_service and isinstance(given, dict) else None
    about: dict[str, object] = {"subject_type": subject["type"], "resource_type": resource["type"]}
    if found.kind != "subject":
        about["caller" if subject["type"] == WORKLOAD else "sub"] = subject["id"]
    if found.kind != "resource":
        about["destination" if is_service else "resource"] = resource["id"]
    return {
        "direction": "authzen",
        "search": found.kind,
        **{name: value[:_MAX_PATH] if isinstance(value, str) else value for name, value in about.items()},
        "method": action.get("name") if found.kind != "action" else None,
        "path": path[:_MAX_PATH] if isinstance(path, str) else None,
        "snapshot": found.snapshot,
        "decided": found.decided,
        "allowed": found.allowed,
        "returned": found.returned,
    }


_KINDS: dict[str, Kind] = {"search/subject": "subject", "search/resource": "resource", "search/action": "action"}
PATHS = ("evaluation", "evaluations", *_KINDS)
