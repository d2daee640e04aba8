"""Servers of the same trust domain below this one, as people and those servers see them. Record first, then answer.

Who may be one and what they are given is decided in `ca.downstreams`. A server below counts among the agents: a new
authority signs only when it, with all the agents below it, can follow.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable
from typing import Any

from ca.authority import Authority
from ca.downstreams import Given, Standing
from ca.neighbours import Downstream, Words
from ca.rotation import Slot
from ca.succession import Blast
from ca.trustmaking import fingerprint
from limen.agents import Agents
from limen.authorities import Authorities, blast_json, unsafe
from mesh.clock import Clock, format_time

Json = Any


class Downstreams:
    """The servers below."""

    def __init__(
        self,
        *,
        authority: Authority,
        agents: Agents,
        authorities: Authorities,
        clock: Clock,
        record: Callable[..., None],
        changed: Callable[[], None],
    ) -> None:
        self._authority, self._agents, self._authorities = authority, agents, authorities
        self._clock, self._record, self._changed = clock, record, changed
        self._do = authority.downstreams

    # -- people

    def allow(self, name: str, *, token: str, life_s: int, expires: dt.datetime, actor: str) -> Json:
        """Let a server be one below. Raises Invalid LM1622, Conflict LM1623."""
        node = self._do.allow(name, token=token, life=dt.timedelta(seconds=life_s), now=self._clock.now())
        self._record(
            "ca",
            actor,
            event="downstream-allow",
            node=node,
            life_s=life_s,
            token_id=token,
            expires=format_time(expires),
        )
        return {"name": name, "node": node}

    def show(self) -> Json:
        """The servers below, with their issuing certificates and what hangs on them."""
        now = self._clock.now()
        live = {agent.node: agent for agent in self._agents.live()}
        return [
            self._show(found, now, live[found.name].trust if found.name in live else None) for found in self._do.all()
        ]

    def _show(self, found: Downstream, now: dt.datetime, trust: int | None) -> Json:
        mine = self._do.certificates(found.name)
        return {
            "name": self._do.short(found.name),
            "node": found.name,
            "allowed": format_time(found.allowed),
            "life_s": int(found.life.total_seconds()),
            "is_connected": trust is not None,
            "trust": trust,
            "heard": None if found.heard is None else format_time(found.heard),
            "authorities": [
                {"id": slot.id, "state": str(slot.state), "not_after": format_time(slot.not_after)} for slot in mine
            ],
            "blast": blast_json(self._blast(mine, now)),
        }

    def remove(self, name: str, *, actor: str, reason: str, is_forced: bool, is_dry: bool) -> Json:
        """Let a server be one below no more, with what that breaks; nothing is done in a dry run.

        Raises NotFound LM1624, Conflict LM1308 when something valid hangs on it and that is not forced.
        """
        now = self._clock.now()
        found = self._do.find(name)
        blast = self._blast(self._do.certificates(found.name), now)
        report = {"name": self._do.short(found.name), "blast": blast_json(blast)}
        if is_dry:
            return {**report, "done": False}
        if blast.certificates and not is_forced:
            raise unsafe(blast)
        gone = self._do.remove(name, now, actor=actor, reason=reason)
        authorities = [slot.id for slot in gone]
        self._record("ca", actor, event="downstream-remove", node=found.name, reason=reason, authorities=authorities)
        self._authorities.step()
        # its watch ends with its right
        self._changed()
        return {**report, "done": True}

    def _blast(self, slots: list[Slot], now: dt.datetime) -> Blast:
        rows = [self._authority.succession.blast(slot.id, now) for slot in slots]
        return Blast(
            downstreams=len(rows),
            certificates=sum(row.certificates for row in rows),
            identities=sum(row.identities for row in rows),
            nodes=sum(row.nodes for row in rows),
            last_issued=max((row.last_issued for row in rows if row.last_issued is not None), default=None),
            safe_at=max((row.safe_at for row in rows if row.safe_at is not None), default=None),
        )

    # -- servers below

    def sign(self, node: str, csr: bytes) -> tuple[Given, bytes]:
        """Give a server below an issuing certificate, with the signed trust state that names it.

        1. The authority decides, signs and writes.
        2. The log has it, durably; only then it is given out. The same certificate again is no new record.

        Raises as `ca.downstreams.Downstreams.sign`.
        """
        # (1)
        given = self._do.sign(node, csr, self._clock.now())
        # (2)
        if given.is_new:
            self._record(
                "issuance",
                node,
                event="downstream",
                authority=given.slot.id,
                sha256=fingerprint(given.chain[0]),
                certificate=base64.b64encode(given.chain[0]).decode(),
                not_after=format_time(given.slot.not_after),
            )
        self._authorities.step()
        return given, self._authority.signed_trust

    def standing(self, node: str) -> tuple[Standing, bytes, int]:
        """How a server below stands, the signed trust state, and the number that every other live agent holds."""
        held = [agent.trust for agent in self._agents.live() if agent.node != node]
        return self._do.standing(node), self._authority.signed_trust, min(held, default=self._authority.trust.sequence)

    def hear(self, node: str, words: Words, *, trust: int, newer: bytes) -> bool:
        """Take what a server below says of itself; whether it should show the newer trust state that it holds.

        Raises Forbidden LM1625 and LM1628, Invalid LM1627.
        """
        before = self._agents.of(node).trust
        # first: whoever was restored from a backup must not give numbers again before it is shown the newest
        if self._authorities.reported(node, trust=trust, rejected=(), newer=newer):
            return True
        self._do.hear(node, words, self._clock.now())
        self._authorities.step()
        if self._agents.of(node).trust != before:
            # the other servers below wait for what everybody holds
            self._changed()
        return False
