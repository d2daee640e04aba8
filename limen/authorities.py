"""The server's authorities: rotated when their time comes or somebody asks, once every agent can follow.

A prepared authority signs only when every live agent, with all its sidecars, has reported the trust state that names
it; one that agents do not report in time is withdrawn, and one whose work an agent rejects is rolled back. Works on
the server's one worker thread and is called at every report and once a second. What may follow what is in
`ca.rotation`, and doing it in `ca.succession`.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import prometheus_client
import sqlalchemy as sa
import structlog
from cryptography import x509

from ca import slotstore
from ca import store as ca_store
from ca.authority import Authority
from ca.keys import algorithm_of
from ca.mint import Issuer
from ca.revocation import answer_ocsp
from ca.rotation import OWN, AuthorityState, Event, Kind, Slot, Timing, cliff, due, find, may_activate
from ca.succession import Blast
from ca.trustmaking import fingerprint
from limen.agents import Agents
from limen.inventory import Validity
from mesh.clock import Clock, format_time
from mesh.database import transaction
from mesh.problems import Conflict, Invalid, NotFound, Problem, Refused
from mesh.truststate import read_trust_state

ABOVE = "the server above"
SETTLE = dt.timedelta(milliseconds=500)
WITHIN = dt.timedelta(seconds=60)
LONGEST_TTL = dt.timedelta(hours=1)
# beyond what a document says of its age: it may be a second old when it is given out (`limen.api.wellknown`)
_OLDER = dt.timedelta(seconds=2)
Json = Any
_EXPIRY = prometheus_client.Gauge(
    "limen_authority_expiry_timestamp_seconds", "When the authority that signs now ends, Unix time.", ["kind"]
)
_WEB_EXPIRY = prometheus_client.Gauge(
    "limen_web_certificate_expiry_timestamp_seconds", "When the certificate of --tls-cert ends, Unix time.", ["source"]
)
_SEQUENCE = prometheus_client.Gauge("limen_trust_state_sequence", "Number of the newest trust state.")
_BEHIND = prometheus_client.Gauge("limen_trust_agents_behind", "Live agents that do not hold the newest trust state.")


class Authorities:
    """Drives the authorities of one trust domain. ``changed`` tells agents, ``reissue`` has them renew every SVID."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        authority: Authority,
        agents: Agents,
        clock: Clock,
        record: Callable[..., None],
        changed: Callable[[], None],
        reissue: Callable[[], None],
    ) -> None:
        self._engine, self._authority, self._agents, self._clock = engine, authority, agents, clock
        self._record, self._changed, self._reissue = record, changed, reissue
        # whether every agent of the server above, if one is, can follow an authority of ours
        self.is_held_above: Callable[[Slot], bool] = lambda _: True
        self._do = authority.succession
        self._sequence = authority.trust.sequence
        self._published = clock.now()
        self._propagation: dt.timedelta | None = None
        # prepared authorities that somebody asked for, and until when agents have time; a restart begins anew
        self._asked: dict[str, dt.datetime] = {
            slot.id: clock.now() + WITHIN
            for slot in authority.slots
            if slot.state is AuthorityState.PREPARED and slot.kind is not Kind.ROOT
        }
        self._failures: dict[str, Json] = {}
        self._retry_at = clock.now()
        # when the certificate of `--tls-cert` is valid, which somebody else renews
        self.web_life: Callable[[], tuple[dt.datetime, dt.datetime] | None] = lambda: None
        # why the last try to get a successor failed, and why the server above is not heard; empty when all is well
        self._reason = self.silence = ""
        # people replace a root above, and carry the requests to one that is offline
        upstream = self._do.upstream
        self._by_hand = frozenset({Kind.ROOT} if upstream else ()) | (
            {Kind.ISSUING} if upstream == "offline" else set()
        )
        self._taken_over: set[bytes] = set()

    # -- time passes

    def step(self) -> None:
        """Do what is due: log the journal, activate or withdraw what is prepared, prepare and end by time."""
        now = self._clock.now()
        self._log_journal()
        if now >= self._retry_at:
            said, self._reason = self._reason, ""
            for found in due(self._authority.slots, now, self._timing(), self._do.ends()):
                if found.event is None and found.kind is Kind.ROOT and self._do.has_upstream:
                    # a root of somebody above is replaced there
                    continue
                if (
                    found.event is Event.END
                    and found.kind is Kind.ROOT
                    and self._authority.following.kept() is not None
                ):
                    # the server above says until when it is trusted
                    continue
                try:
                    if found.event is None:
                        self._do.prepare(found.kind, now, actor="server", reason="its time has come")
                    else:
                        self._do.end(found.slot, now)
                except Problem as problem:
                    # an upstream that does not answer is asked again, not every second
                    self._retry_at = now + dt.timedelta(minutes=1)
                    if said != str(problem):
                        structlog.get_logger().error("an authority has no successor yet", reason=str(problem))
                    self._reason = str(problem)
            self._do.refresh(now)
        for slot in self._authority.slots:
            if slot.state is AuthorityState.PREPARED and slot.kind is not Kind.ROOT:
                self._advance(slot, now)
        self._notice(now)

    def _advance(self, slot: Slot, now: dt.datetime) -> None:
        """One prepared authority: activate it when everybody can follow and its time has come, or give it up."""
        (active,) = find(self._authority.slots, slot.kind, AuthorityState.ACTIVE)
        if active.not_after <= now:
            # after a long time off there is nothing to wait for: what is active signs nothing any more
            self._activate(slot, now, actor="server", reason=f"{active.id} has ended")
            return
        deadline = self._asked.get(slot.id)
        behind = self._behind(slot, now)
        if deadline is None:
            if not behind and now >= self._timing().activate_at(active):
                self._activate(slot, now, actor="server", reason="its time has come")
            return
        if not behind:
            if now >= self._signs_from(slot):
                self._activate(slot, now, actor="server", reason="every live agent has reported it")
        elif now >= deadline:
            nodes = ", ".join(behind)[:300]
            self._failures[slot.id] = Refused("LM1309", kind=slot.kind, seconds=WITHIN.seconds, nodes=nodes)
            self._do.withdraw(slot.id, now, actor="server", reason=f"not reported by {nodes}")
            self._asked.pop(slot.id, None)

    def _activate(self, slot: Slot, now: dt.datetime, *, actor: str, reason: str) -> None:
        try:
            self._do.activate(slot.id, now, actor=actor, reason=reason)
        except Conflict as problem:
            self._failures[slot.id] = problem
            self._do.withdraw(slot.id, now, actor="server", reason=problem.message)
        self._asked.pop(slot.id, None)

    def _behind(self, slot: Slot, now: dt.datetime) -> list[str]:
        reported = {agent.node: agent.trust for agent in self._agents.live()}
        behind = may_activate(slot, published=self._do.published(slot.id), reported=reported, now=now, settle=SETTLE)
        return behind if self.is_held_above(slot) else [*behind, ABOVE]

    def _signs_from(self, slot: Slot) -> dt.datetime:
        """From when a prepared authority that somebody asked for signs at the earliest, agents aside.

        Clients of an OIDC issuer may go on for `max-age` with keys that they fetched before this one was there.
        """
        if slot.kind is not Kind.JWT or self._authority.jwt_issuer is None:
            return slot.created
        return slot.created + dt.timedelta(seconds=self._authority.bundle.refresh_seconds) + _OLDER

    def _timing(self) -> Timing:
        return Timing(
            longest_ttl=LONGEST_TTL,
            propagation=self._propagation or dt.timedelta(seconds=1),
            refresh_hint=dt.timedelta(seconds=self._authority.bundle.refresh_seconds),
            by_hand=self._by_hand,
        )

    def _notice(self, now: dt.datetime) -> None:
        """Tell agents a new trust state at once; measure how long they take."""
        self._measure()
        if self._authority.trust.sequence != self._sequence:
            self._sequence, self._published = self._authority.trust.sequence, now
            self._propagation = None
            self._changed()
        if self._propagation is None:
            live = [agent.trust for agent in self._agents.live()]
            if live and min(live) >= self._sequence:
                self._propagation = now - self._published

    def _measure(self) -> None:
        for kind in OWN:
            _EXPIRY.labels(str(kind)).set(self._authority.active(kind).not_after.timestamp())
        if life := self.web_life():
            _WEB_EXPIRY.labels("tls-cert").set(life[1].timestamp())
        _SEQUENCE.set(self._authority.trust.sequence)
        live = [agent.trust for agent in self._agents.live()]
        _BEHIND.set(sum(trust < self._authority.trust.sequence for trust in live))

    def _log_journal(self) -> None:
        """Put transitions into the audit log that are not there yet: a kill between the two costs a repetition."""
        with transaction(self._engine) as connection:
            entries = slotstore.journal(connection, unlogged=True)
        for entry in entries:
            self._record(
                "ca",
                entry.actor,
                event="authority",
                authority=entry.slot,
                of=str(entry.kind),
                before=entry.before,
                after=entry.after,
                reason=entry.reason,
                number=entry.number,
                **self._certificate_of(entry),
            )
        if entries:
            with transaction(self._engine) as connection:
                slotstore.mark_logged(connection, [entry.number for entry in entries])

    def _certificate_of(self, entry: slotstore.Entry) -> dict[str, object]:
        """The certificate of an authority that begins: who watches the log knows by it what our keys signed.

        With a root come the certificates that older roots gave it: they stand in chains, and their keys are ours too.
        """
        found = [slot for slot in self._authority.slots if slot.id == entry.slot and slot.kind is not Kind.JWT]
        if entry.before or not found:
            return {}
        own, *crossed = [base64.b64encode(der).decode() for der in found[0].certificates]
        return {"certificate": own, **({"crossed": crossed} if crossed and found[0].kind is Kind.ROOT else {})}

    # -- agents report

    def reported(self, node: str, *, trust: int, rejected: Sequence[str], newer: bytes) -> bool:
        """Take a report; return whether the agent should show the newer trust state that it holds.

        1. A trust state that it shows (`shown`).
        2. An agent rejects what an authority signed: the one before signs again.

        Raises what reading the newer state raises.
        """
        now = self._clock.now()
        self._agents.of(node).trust = trust
        # (1)
        if newer:
            self.shown(node, newer)
        # (2)
        active = self._authority.active(Kind.ISSUING)
        if fingerprint(active.certificates[0]) in rejected and find(
            self._authority.slots, Kind.ISSUING, AuthorityState.OLD
        ):
            self._do.roll_back(now, Kind.ISSUING, actor=node, reason=f"{node} rejects what it signs")
            self._reissue()
        if any(slot.state is AuthorityState.PREPARED for slot in self._authority.slots):
            self.step()
        return trust > self._authority.trust.sequence

    def shown(self, node: str, signed: bytes) -> None:
        """Look at a trust state that an agent holds, as this server signed it.

        One that was never published here was published by this server before it was restored from a backup, also when
        its number was given again since. What it revokes is taken over, once, and the next number is above it. One that
        this server did not sign says nothing.
        """
        try:
            state = read_trust_state(signed, self._authority.trust_domain, self._authority.server_certificate)
        except Problem as problem:
            structlog.get_logger().warning("a trust state is not ours", node=node, code=problem.code)
            return
        content = state.payload()
        with transaction(self._engine) as connection:
            if content in self._taken_over or slotstore.has_published(connection, state.sequence, content):
                return
        self._taken_over.add(content)
        count = self._do.adopt(state, self._clock.now())
        self._record("ca", node, event="restored", sequence=state.sequence, revocations=count)
        self._reissue()

    # -- verbs

    def list(self) -> Json:
        """Every authority, what is asked for, how long a trust state takes to reach all agents, and the next end."""
        now = self._clock.now()
        live = self._agents.live()
        end, life = cliff(self._authority.slots), self.web_life()
        return {
            "authorities": [self._show(slot, now) for slot in self._authority.slots],
            "upstream": self._do.upstream,
            "upstream_problem": (self.silence or self._reason) if self._do.upstream else "",
            "sequence": self._authority.trust.sequence,
            "agents": len(live),
            "agents_behind": [agent.node for agent in live if agent.trust < self._authority.trust.sequence],
            "propagation_s": None if self._propagation is None else self._propagation.total_seconds(),
            "web": None if life is None else {"not_before": format_time(life[0]), "not_after": format_time(life[1])},
            "next_end": None if end is None else {"authority": end[1].id, "not_after": format_time(end[0])},
        }

    def _show(self, slot: Slot, now: dt.datetime) -> Json:
        found = self._do.blast(slot.id, now) if slot.is_trusted else None
        return {
            "id": slot.id,
            "kind": str(slot.kind),
            "state": str(slot.state),
            "algorithm": _algorithm(slot),
            "parent": slot.parent,
            "created": format_time(slot.created),
            "not_after": format_time(slot.not_after),
            "renews_at": format_time(self._timing().prepare_at(slot)),
            "downstream": self._authority.downstreams.owner(slot),
            "blast": None if found is None else blast_json(found),
            "live_svids": 0 if found is None else found.certificates,
            "last_svid_ends": None if found is None or found.safe_at is None else format_time(found.safe_at),
        }

    def rotate(self, kind: Kind, *, actor: str, is_forced: bool) -> Json:
        """Prepare a successor; it signs as soon as everybody who verifies has it, or at once when that is forced."""
        now = self._clock.now()
        active = self._authority.active(Kind.ISSUING if kind is Kind.ROOT else kind)
        former = self._authority.active(kind)
        slot = self._do.prepare(kind, now, actor=actor, reason=f"{actor} asked")
        self._asked[slot.id] = now + WITHIN
        self._failures.pop(slot.id, None)
        if is_forced:
            self._activate(slot, now, actor=actor, reason=f"{actor} did not wait")
        self.step()
        made = {"authority": slot.id, "kind": str(kind), "replaces": active.id}
        return {**made, "root": slot.parent, "replaces_root": former.id} if kind is Kind.ROOT else made

    def is_beyond_agents(self) -> bool:
        """Whether agents cannot connect, since gRPC's TLS library does not verify what signs here (LM1318)."""
        signing = (self._authority.active(kind) for kind in (Kind.ISSUING, Kind.ROOT))
        return any(_algorithm(slot) == "ml-dsa-65" for slot in signing)

    def tainted(self) -> tuple[str, ...]:
        """The hashes of the issuing certificates whose work is to be replaced, that of nodes too."""
        slots = (slot for slot in self._authority.slots if slot.kind is Kind.ISSUING)
        return tuple(fingerprint(slot.certificates[0]) for slot in slots if slot.state is AuthorityState.TAINTED)

    def progress(self, slot_id: str) -> Json:
        """How far a rotation is: its state, and the agents that are behind.

        Raises Refused LM1309 or LM1312 for one that was given up, NotFound LM1310.
        """
        self.step()
        problem = self._failures.get(slot_id)
        if problem is not None:
            raise problem
        slot = self._do.find(slot_id)
        now = self._clock.now()
        is_prepared = slot.state is AuthorityState.PREPARED
        behind = self._behind(slot, now) if is_prepared else []
        begins = self._signs_from(slot)
        return {
            **self._show(slot, now),
            "agents": len(self._agents.live()),
            "behind": [node for node in behind if node],
            "signs_from": format_time(begins) if is_prepared and begins > now else None,
        }

    def leave(self, verb: str, slot_id: str, *, actor: str, reason: str, is_forced: bool, is_dry: bool) -> Json:
        """Taint or revoke an authority, with what that breaks; nothing is done in a dry run.

        Raises Refused LM1308 for a revocation that breaks something and is not forced, and what the authority raises.
        """
        now = self._clock.now()
        slot = self._do.find(slot_id)
        blast = self._do.blast(slot.id, now)
        report = {"authority": slot.id, "kind": str(slot.kind), "state": str(slot.state), "blast": blast_json(blast)}
        if is_dry:
            return {**report, "done": False}
        if verb == "taint":
            done = self._do.taint(slot.id, now, actor=actor, reason=reason)
            self._reissue()
        else:
            is_refused_anyway = slot.state is AuthorityState.ACTIVE and slot.kind in OWN
            if not is_refused_anyway and blast.certificates and not is_forced:
                raise unsafe(blast)
            done = self._do.revoke(slot.id, now, actor=actor, reason=reason)
            self._reissue()
        self.step()
        return {**report, "state": str(done.state), "done": True}

    def revoke_svids(self, wanted: str, *, actor: str, reason: str, is_dry: bool) -> Json:
        """Revoke an SVID by its serial number, or all that a SPIFFE ID has; agents hear of it at once.

        Raises NotFound LM1311 when there is none, Invalid LM1316 for tokens: nobody asks a server about a token.
        """
        now = self._clock.now()
        with transaction(self._engine) as connection:
            found = [item for item in ca_store.find_issuances(connection, wanted, now) if item.not_after > now]
        if found and all(item.kind == "jwt" for item in found):
            raise Invalid("LM1316", authority=found[0].authority, not_after=format_time(found[0].not_after))
        found = [item for item in found if item.kind == "x509"]
        if not found:
            raise NotFound("LM1311", given=wanted[:200])
        shown = [{"serial": item.serial, "spiffe_id": item.spiffe_id, "node": item.node} for item in found]
        if is_dry:
            return {"revoked": [], "would_revoke": shown}
        for item in self._do.revoke_svids(found, now, reason):
            self._record("ca", actor, event="revoke", serial=item.serial, spiffe_id=item.spiffe_id, reason=reason[:400])
        self._notice(now)
        # the workload itself gets another one: only the stolen one is dead
        self._reissue()
        return {"revoked": shown, "sequence": self._authority.trust.sequence}

    def show(self, wanted: str) -> Json:
        """Everything about SVIDs of a serial number, token id or SPIFFE ID. Raises NotFound LM1311."""
        now = self._clock.now()
        with transaction(self._engine) as connection:
            found = ca_store.find_issuances(connection, wanted, now)
            validity = Validity(connection, self._authority.slots, now)
        if not found:
            raise NotFound("LM1311", given=wanted[:200])
        return [_shown(item, validity) for item in found]

    # -- public documents

    def crl(self, name: str) -> bytes:
        """The revocation list of an authority, DER. Raises NotFound LM1310."""
        slot = self._do.find(name)
        if slot.kind not in {Kind.ROOT, Kind.ISSUING} or not slot.is_trusted:
            raise NotFound("LM1310", given=name[:80])
        now = self._clock.now()
        return self._do.crl(slot, self._authority.trust.sequence, now)

    def ocsp(self, request: bytes) -> bytes:
        """The answer to an OCSP request, DER."""
        issuers: dict[str, Issuer] = {}
        for slot in self._authority.slots:
            if slot.is_trusted and slot.kind in {Kind.ROOT, Kind.ISSUING}:
                try:
                    issuers[slot.id] = self._do.issuer(slot)
                except Problem:
                    continue
        names = {id(issuer): name for name, issuer in issuers.items()}

        def look_up(issuer: Issuer, serial: int) -> tuple[bool, dt.datetime | None]:
            return self._look_up(names[id(issuer)], serial)

        return answer_ocsp(request, [*issuers.values()], look_up, self._clock.now())

    def _look_up(self, authority: str, serial: int) -> tuple[bool, dt.datetime | None]:
        """Whether this authority issued a serial number, and when it was revoked: another one's says nothing here."""
        with transaction(self._engine) as connection:
            found = ca_store.find_issuances(connection, f"{serial:x}", self._clock.now())
            revoked = slotstore.revoked_at(connection, f"{serial:x}", authority)
        # the row of an own authority's certificate does not name who signed it
        return any(item.authority in {authority, ""} for item in found), revoked


def _algorithm(slot: Slot) -> str | None:
    """The kind of an authority's key; None for a token key, which its JWK tells, and for one of no kind of ours."""
    if slot.kind is Kind.JWT:
        return None
    try:
        return str(algorithm_of(x509.load_der_x509_certificate(slot.certificates[0]).public_key()))
    except Invalid:
        return None


def _shown(item: ca_store.Issuance, validity: Validity) -> Json:
    revoked = validity.revoked(item)
    return {
        "spiffe_id": item.spiffe_id,
        "serial": item.serial,
        "kind": item.kind,
        "node": item.node,
        "rule": item.rule,
        "authority": item.authority,
        "sha256": item.sha256,
        "issued": format_time(item.issued),
        "not_after": format_time(item.not_after),
        "valid": validity.holds(item),
        "revoked": None if revoked is None else format_time(revoked[0]),
        "reason": None if revoked is None else revoked[1],
    }


def blast_json(found: Blast) -> Json:
    """What a report says of what ends with an authority."""
    return {
        "downstreams": found.downstreams,
        "live_svids": found.certificates,
        "replaced_svids": found.replaced,
        "identities": found.identities,
        "nodes": found.nodes,
        "last_issued": None if found.last_issued is None else format_time(found.last_issued),
        "safe_at": None if found.safe_at is None else format_time(found.safe_at),
    }


def unsafe(found: Blast) -> Refused:
    """The refusal of what breaks something and is not forced."""
    return Refused(
        "LM1308",
        certificates=found.certificates,
        identities=found.identities,
        nodes=found.nodes,
        safe_at="" if found.safe_at is None else format_time(found.safe_at),
    )
