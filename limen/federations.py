"""The server's half of federation: relationships that people configure, polled bundles, and what agents are told.

Its methods run on the server's one worker thread, except `poll`, which fetches on the loop and comes back for each
step. Every change of a relationship and of a bundle is recorded before anybody is told. What may be accepted is
decided in `ca.federation`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import prometheus_client
import sqlalchemy as sa
import structlog

from ca import federation, federationstore
from ca.federation import Profile, Relationship, Standing
from ca.registration import RuleSet
from limen import bundlefetch
from limen.values import Endpoint
from mesh.bundle import TrustBundle
from mesh.clock import Clock, format_time
from mesh.database import transaction
from mesh.problems import Conflict, Invalid, NotFound, Problem
from mesh.request import Effect
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain
from policyengine.model import PolicySet

Json = Any
Fetch = Callable[[Relationship, TrustBundle | None, Callable[[], dt.datetime]], Awaitable[TrustBundle]]
MAX_FETCHES = 8
_AGE = prometheus_client.Gauge(
    "limen_federation_bundle_age_seconds", "Seconds since a federated bundle was last confirmed.", ["trust_domain"]
)
_FAILURES = prometheus_client.Gauge(
    "limen_federation_failed_polls", "Polls of a bundle endpoint that failed in a row.", ["trust_domain"]
)


class Federations:
    """The relationships of one trust domain with others."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        own: Callable[[], TrustBundle],
        clock: Clock,
        random: Callable[[int], bytes],
        record: Callable[..., None],
        changed: Callable[[], None],
        rules: Callable[[], RuleSet],
        policies: Callable[[], PolicySet | None],
    ) -> None:
        self._engine, self._own, self._clock, self._random = engine, own, clock, random
        self._record, self._changed, self._rules, self._policies = record, changed, rules, policies
        with transaction(engine) as connection:
            self._known = federationstore.load(connection)
            self._endpoints = federationstore.endpoints(connection)
        self._waiting: set[TrustDomain] = set()

    def now(self) -> dt.datetime:
        """The present moment."""
        return self._clock.now()

    # -- what agents are told

    def bundles(self) -> dict[str, bytes]:
        """The bundle of every relationship that has one, each under its trust domain's name (F-16, F-17)."""
        return {str(name): held.bundle.to_json() for name, (_, held) in self._known.items() if held.bundle is not None}

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where services of other trust domains are reached."""
        return tuple(Endpoint(spiffe_id=name, address=address, port=port) for name, address, port in self._endpoints)

    # -- what people change

    def add(
        self,
        *,
        trust_domain: str,
        url: str,
        profile: str,
        endpoint_id: str | None,
        web_roots: str,
        bundle: bytes | None,
        replace: bool,
        actor: str,
    ) -> Json:
        """Configure a relationship.

        1. It is complete and well-formed; a first bundle parses.
        2. It is new, unless it is to replace the one there is, whose bundle it then keeps.
        3. A self-serving https_spiffe endpoint can be proved: there is a bundle to begin with (F-11).
        4. It is recorded, and polled at once.

        Raises Invalid LM1500 to LM1502, LM1505, Conflict LM1503.
        """
        # (1)
        found = federation.relate(
            self._own().trust_domain,
            trust_domain=trust_domain,
            url=url,
            profile=profile,
            endpoint_id=endpoint_id,
            web_roots=web_roots,
        )
        first = None if bundle is None else federation.first_bundle(found.trust_domain, bundle)
        # (2)
        before = self._known.get(found.trust_domain)
        if before is not None and not replace:
            raise Conflict("LM1503", trust_domain=trust_domain)
        held = first or (before[1].bundle if before is not None else None)
        # (3)
        if found.is_self_serving and held is None:
            raise Invalid("LM1502", profile=profile, reason="a self-serving endpoint is proved by a first bundle")
        # (4)
        now = self._clock.now()
        standing = Standing(bundle=held, next_poll=now, fetched=before[1].fetched if before and not first else None)
        self._keep(found, standing)
        event = "federation-change" if before is not None else "federation-add"
        self._record(
            "ca",
            actor,
            event=event,
            trust_domain=trust_domain,
            url=url,
            profile=profile,
            endpoint_id=endpoint_id,
            bundle_digest=held.digest if held is not None else None,
        )
        self._changed()
        return self.show(trust_domain)

    def remove(self, trust_domain: str, *, actor: str, is_rehearsal: bool = False) -> Json:
        """End a relationship: its identities are believed nowhere from now on (F-18). A rehearsal only looks.

        Raises NotFound LM1504.
        """
        relationship, standing = self._find(trust_domain)
        hit = {
            "trust_domain": trust_domain,
            "rules": self._federating(relationship.trust_domain),
            "policies": _naming(self._policies(), relationship.trust_domain),
            "endpoints": [list(row) for row in self._endpoints if _is_of(row[0], relationship.trust_domain)],
            "bundle_digest": standing.bundle.digest if standing.bundle is not None else None,
            "is_removed": not is_rehearsal,
        }
        if is_rehearsal:
            return hit
        with transaction(self._engine) as connection:
            federationstore.remove(connection, relationship.trust_domain)
            self._endpoints = federationstore.endpoints(connection)
        self._record("ca", actor, event="federation-remove", trust_domain=trust_domain, rules=hit["rules"])
        del self._known[relationship.trust_domain]
        for gauge in (_AGE, _FAILURES):
            with contextlib.suppress(KeyError):
                gauge.remove(trust_domain)
        self._changed()
        return hit

    def reach(self, *, spiffe_id: str, address: str, port: int, is_gone: bool, actor: str) -> Json:
        """Say where a service is reached that no agent of ours reports, or that it is not there any more.

        It is of another trust domain, or of this one below another server.

        Raises Invalid LM1514 for an identity or address that is none, NotFound LM1504 without a relationship.
        """
        try:
            found = SpiffeId.parse(spiffe_id)
            where = str(ipaddress.ip_address(address))
        except SpiffeIdError as err:
            raise Invalid("LM1514", given=spiffe_id[:200], reason=str(err)) from err
        except ValueError as err:
            raise Invalid("LM1514", given=address[:200], reason="it is no IP address") from err
        if not found.path:
            raise Invalid("LM1514", given=spiffe_id[:200], reason="a service's SPIFFE ID has a path")
        is_own = found.trust_domain == self._own().trust_domain
        if not is_own:
            self._find(str(found.trust_domain))
        with transaction(self._engine) as connection:
            if is_gone:
                federationstore.remove_endpoint(connection, found, where, port)
            else:
                federationstore.put_endpoint(connection, found, where, port)
            self._endpoints = federationstore.endpoints(connection)
        event = "federation-unreach" if is_gone else "federation-reach"
        self._record("ca", actor, event=event, spiffe_id=spiffe_id, address=where, port=port)
        self._changed()
        if is_own:
            return {"trust_domain": str(found.trust_domain), "endpoints": self._reached(found.trust_domain)}
        return self.show(str(found.trust_domain))

    # -- looking

    def every(self) -> Json:
        """Every relationship and how it stands."""
        return [self.show(str(name)) for name in self._known]

    def show(self, trust_domain: str) -> Json:
        """One relationship and how it stands.

        Raises NotFound LM1504.
        """
        relationship, standing = self._find(trust_domain)
        now, bundle = self._clock.now(), standing.bundle
        age = standing.age(now)
        return {
            "trust_domain": trust_domain,
            "url": relationship.url,
            "profile": str(relationship.profile),
            "endpoint_id": None if relationship.endpoint_id is None else str(relationship.endpoint_id),
            "has_own_roots": bool(relationship.web_roots),
            "sequence": None if bundle is None else bundle.sequence,
            "refresh_hint_s": None if bundle is None else bundle.refresh_hint,
            "x509_authorities": 0 if bundle is None else len(bundle.x509_authorities),
            "jwt_authorities": 0 if bundle is None else len(bundle.jwt_authorities),
            "bundle_digest": None if bundle is None else bundle.digest,
            "fetched": None if standing.fetched is None else format_time(standing.fetched),
            "age_s": None if age is None else max(0, int(age.total_seconds())),
            "next_poll": format_time(standing.next_poll),
            "failed_polls": standing.failures,
            "code": standing.code,
            "reason": standing.reason,
            "is_stale": federation.is_stale(standing, now),
            "rules": self._federating(relationship.trust_domain),
            "endpoints": self._reached(relationship.trust_domain),
        }

    def _reached(self, trust_domain: TrustDomain) -> Json:
        return [list(row) for row in self._endpoints if _is_of(row[0], trust_domain)]

    def bundle(self, trust_domain: str) -> str:
        """The bundle that is held, as a SPIFFE document.

        Raises NotFound LM1504.
        """
        held = self._find(trust_domain)[1].bundle
        return "" if held is None else held.to_json().decode()

    # -- polling

    def due(self) -> list[tuple[Relationship, TrustBundle | None]]:
        """What is to be polled now, with what proves its endpoint; each once until its answer is taken."""
        now = self._clock.now()
        found = []
        for name, (relationship, standing) in self._known.items():
            if standing.fetched is not None:
                _AGE.labels(str(name)).set((now - standing.fetched).total_seconds())
            _FAILURES.labels(str(name)).set(standing.failures)
            if name in self._waiting or now < standing.next_poll:
                continue
            try:
                found.append((relationship, self._verifier(relationship)))
                self._waiting.add(name)
            except Problem as problem:
                self._failed(relationship, problem)
        return found

    def start(self, trust_domain: str) -> tuple[Relationship, TrustBundle | None]:
        """Begin one poll out of turn.

        Raises NotFound LM1504, Forbidden LM1511.
        """
        relationship = self._find(trust_domain)[0]
        return relationship, self._verifier(relationship)

    def take(
        self, relationship: Relationship, answer: TrustBundle | Problem, *, force: bool = False, actor: str
    ) -> bool:
        """Take the answer of a poll; return whether the bundle changed.

        1. It is the answer of a relationship that is still there, as it was asked.
        2. What failed, or must not replace the held bundle, leaves that as it is. Only a person's ``force`` lets a
           document in whose number went back.
        3. A change is recorded before anybody is told.
        """
        name = relationship.trust_domain
        self._waiting.discard(name)
        # (1)
        known = self._known.get(name)
        if known is None or known[0] != relationship:
            return False
        standing = known[1]
        # (2)
        if isinstance(answer, Problem):
            self._failed(relationship, answer)
            return False
        try:
            is_news = federation.accept(None if force else standing.bundle, answer)
        except Conflict as problem:
            self._failed(relationship, problem)
            return False
        before = standing.bundle
        kept = answer if is_news or before is None else before
        self._keep(relationship, federation.after(standing, self._clock.now(), chance=self._chance(), bundle=kept))
        if before is not None and before.digest == kept.digest:
            return False
        # (3)
        self._record(
            "ca",
            actor,
            event="federation-bundle",
            trust_domain=str(name),
            sequence=kept.sequence,
            bundle_digest=kept.digest,
            before=before.digest if before is not None else None,
            x509_authorities=len(kept.x509_authorities),
            jwt_authorities=len(kept.jwt_authorities),
            forced=force,
        )
        if not kept.x509_authorities and not kept.jwt_authorities:
            structlog.get_logger().warning(
                "a federated bundle vouches for nobody", trust_domain=str(name), code="LM1517"
            )
        self._changed()
        return True

    def _verifier(self, relationship: Relationship) -> TrustBundle | None:
        if relationship.profile is Profile.HTTPS_WEB:
            return None
        held = {name: item.bundle for name, (_, item) in self._known.items() if item.bundle is not None}
        return federation.verifying_bundle(relationship, self._own(), held)

    def _failed(self, relationship: Relationship, problem: Problem) -> None:
        standing = self._known[relationship.trust_domain][1]
        if standing.code != problem.code:
            name = str(relationship.trust_domain)
            structlog.get_logger().warning("federated bundle not refreshed", trust_domain=name, reason=str(problem))
        now, reason = self._clock.now(), problem.message
        self._keep(
            relationship,
            federation.after(standing, now, chance=self._chance(), bundle=None, code=problem.code, reason=reason),
        )

    def _keep(self, relationship: Relationship, standing: Standing) -> None:
        with transaction(self._engine) as connection:
            federationstore.put(connection, relationship, standing)
        self._known = {**self._known, relationship.trust_domain: (relationship, standing)}

    def _find(self, trust_domain: str) -> tuple[Relationship, Standing]:
        found = next((item for name, item in self._known.items() if str(name) == trust_domain), None)
        if found is None:
            raise NotFound("LM1504", trust_domain=trust_domain[:300])
        return found

    def _federating(self, trust_domain: TrustDomain) -> list[str]:
        return sorted(rule.id for rule in self._rules().rules if trust_domain in rule.federates_with)

    def _chance(self) -> float:
        return int.from_bytes(self._random(4), "big") / 2**32


def _naming(policies: PolicySet | None, trust_domain: TrustDomain) -> list[str]:
    """The services and allows of the active snapshot that name an identity of a trust domain."""
    if policies is None:
        return []
    found = {
        f"service {service.name}"
        for service in policies.services
        if any(pattern.id.trust_domain == trust_domain for pattern in service.identities)
    }
    for policy in policies.policies:
        for rule in policy.rules:
            named = policies.expand(rule.from_).patterns
            if rule.effect is Effect.ALLOW and any(item.id.trust_domain == trust_domain for item in named):
                found.add(f"policy {policy.name}, rule {rule.id}")
    for grant in policies.exceptions:
        if any(item.id.trust_domain == trust_domain for item in policies.expand(grant.from_).patterns):
            found.add(f"exception {grant.name}")
    return sorted(found)


def _is_of(spiffe_id: str, trust_domain: TrustDomain) -> bool:
    return SpiffeId.parse(spiffe_id).trust_domain == trust_domain


async def poll_once(federations: Federations, worker: Executor, fetch: Fetch = bundlefetch.fetch) -> None:
    """Poll what is due, a few at a time, and wait for all of it."""
    loop = asyncio.get_running_loop()
    turn = asyncio.Semaphore(MAX_FETCHES)

    async def one(relationship: Relationship, verifier: TrustBundle | None) -> None:
        async with turn:
            answer = await _answer(relationship, verifier, federations.now, fetch)
        await loop.run_in_executor(worker, lambda: federations.take(relationship, answer, actor="server"))

    due: Sequence[tuple[Relationship, TrustBundle | None]] = await loop.run_in_executor(worker, federations.due)
    await asyncio.gather(*(one(*item) for item in due))


async def refresh(federations: Federations, worker: Executor, *, trust_domain: str, force: bool, actor: str) -> Json:
    """Poll one relationship now; the answer says how it stands then.

    Raises NotFound LM1504, Forbidden LM1511.
    """
    loop = asyncio.get_running_loop()
    relationship, verifier = await loop.run_in_executor(worker, lambda: federations.start(trust_domain))
    answer = await _answer(relationship, verifier, federations.now, bundlefetch.fetch)
    is_new = await loop.run_in_executor(
        worker, lambda: federations.take(relationship, answer, force=force, actor=actor)
    )
    shown = await loop.run_in_executor(worker, lambda: federations.show(trust_domain))
    return {**shown, "is_changed": is_new}


async def keep_polling(federations: Federations, worker: Executor, stop: asyncio.Event) -> None:
    """Poll what is due, each second anew, until ``stop``. An endpoint that hangs delays no other for long."""
    async with asyncio.TaskGroup() as tasks:
        while not stop.is_set():
            tasks.create_task(poll_once(federations, worker))
            try:
                async with asyncio.timeout(1.0):
                    await stop.wait()
            except TimeoutError:
                continue


async def _answer(
    relationship: Relationship, verifier: TrustBundle | None, now: Callable[[], dt.datetime], fetch: Fetch
) -> TrustBundle | Problem:
    try:
        return await fetch(relationship, verifier, now)
    except Problem as problem:
        return problem
