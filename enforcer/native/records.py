"""What the sidecar has to tell: a decision record for every decision, and flows folded together.

A record costs little when it is made, and is written out when a batch is taken: what the records of one connection
share is written once a batch. Both are bounded. When nobody takes the records away, those of allowed requests go
first, and how many were lost is said in the next batch; flows beyond the bound are folded into their service's own
row. This module sends nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import json
from collections.abc import Callable
from json.encoder import encode_basestring

from audit.record import record
from enforcer.native.judge import Judgement
from mesh.clock import format_time
from mesh.flow import Flow, FlowProtocol, Verdict
from mesh.request import Decision, Effect
from mesh.ulid import RANDOM_BYTES, RANDOM_LETTERS, new_ulid, new_ulids

MAX_WAITING = 65_536
MAX_FLOWS = 4_096
MAX_BATCH = 500
MAX_PORTION = 500
MAX_PATH = 2048


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Who spoke to which port: the part that all decisions about one connection share.

    ``certificate`` is the thumbprint of the caller's, for tokens that are bound to it.
    """

    direction: str
    port: int
    peer_ip: str
    caller: str | None = None
    destination: str | None = None
    facts: dict[str, object] | None = None
    certificate: str = ""


@dataclasses.dataclass(slots=True)
class _Counted:
    start: dt.datetime
    end: dt.datetime
    count: int


# the verdict as plain text: an enumeration's member is hashed in Python
_FlowKey = tuple[str | None, str | None, str, int, FlowProtocol, str | None, str | None, int | None, str]

_ALLOWED, _DENIED, _WOULD_DENY = (verdict.value for verdict in (Verdict.ALLOWED, Verdict.DENIED, Verdict.WOULD_DENY))


# a decision that was not written out yet, a tuple since one is made for each request: the record's id, empty where
# nobody was told it, then contact, judgement, moment, protocol, method, host
_Waiting = tuple[str, Contact, Judgement, dt.datetime, FlowProtocol, str | None, str | None]


class Recorder:
    """Collects records and flows until they are taken away, and records until they are acknowledged."""

    def __init__(self, source: str, random: Callable[[int], bytes]) -> None:
        self._source, self._random = source, random
        self._waiting: list[_Waiting | str] = []
        self._sent: dict[int, list[str]] = {}
        self._sequence = 0
        self._lost = 0
        self._flows: dict[_FlowKey, _Counted] = {}

    def rename(self, source: str) -> None:
        """Write under another name from now on; what was decided before keeps the one before."""
        self._waiting = [*self._write(self._waiting)]
        self._source = source

    @property
    def unacknowledged(self) -> int:
        """How many records nobody has taken over yet."""
        return len(self._waiting) + sum(map(len, self._sent.values()))

    def decision(
        self,
        contact: Contact,
        judgement: Judgement,
        *,
        now: dt.datetime,
        protocol: FlowProtocol,
        method: str | None = None,
        host: str | None = None,
    ) -> str:
        """Record a decision and return the record's id; of an allowed one nobody is told it, and it is empty."""
        if judgement.decision.effect is Effect.ALLOW:
            name, limit = "", MAX_WAITING
        else:
            name, limit = new_ulid(now, self._random(RANDOM_BYTES)), 2 * MAX_WAITING
        if len(self._waiting) >= limit:
            self._lost += 1
        else:
            self._waiting.append((name, contact, judgement, now, protocol, method, host))
        return name

    def flow(
        self,
        contact: Contact,
        decision: Decision,
        *,
        now: dt.datetime,
        protocol: FlowProtocol,
        method: str | None = None,
        path: str | None = None,
        status: int | None = None,
    ) -> None:
        """Count a connection or an exchange."""
        verdict = _ALLOWED
        if decision.effect is Effect.DENY:
            verdict = _DENIED
        elif decision.policy_effect is Effect.DENY:
            verdict = _WOULD_DENY
        if len(self._flows) >= MAX_FLOWS or (path is not None and len(path) > MAX_PATH):
            path = None  # a portion of the longest paths there are would not fit into a message
        key = (
            contact.caller, contact.destination, contact.peer_ip, contact.port, protocol, method, path, status, verdict,
        )  # fmt: skip
        found = self._flows.get(key)
        if found is None:
            if len(self._flows) < 2 * MAX_FLOWS:
                self._flows[key] = _Counted(now, now, 1)
        else:
            found.end = now
            found.count += 1

    def take_records(self, now: dt.datetime) -> tuple[int, list[str]] | None:
        """Take the next batch, as JSON texts, with its sequence number; it is kept until it is acknowledged."""
        if self._lost:
            lost, self._lost = self._lost, 0
            made = record("lost", now=now, random=self._random(RANDOM_BYTES), source=self._source, records=lost)
            self._waiting.append(json.dumps(made))
        if not self._waiting:
            return None
        taken, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        batch = self._write(taken)
        self._sequence += 1
        self._sent[self._sequence] = batch
        return self._sequence, batch

    def _write(self, taken: list[_Waiting | str]) -> list[str]:
        """Write records out.

        All of one connection that came to the same decision differ in id, time and path alone, so that the rest is
        written once. They are told apart by which objects they are: ``taken`` holds on to all of them meanwhile.
        """
        unnamed = [item[3] for item in taken if not isinstance(item, str) and not item[0]]
        names = iter(new_ulids(unnamed, self._random(RANDOM_LETTERS * len(unnamed))))
        shared: dict[tuple[object, ...], str] = {}
        batch: list[str] = []
        moment, at = None, ""
        for item in taken:
            if isinstance(item, str):
                batch.append(item)
                continue
            name, contact, judgement, now, _, method, host = item
            key = id(contact), id(judgement.decision), id(judgement.candidate), method, host
            begin = shared.get(key)
            if begin is None:
                begin = shared[key] = self._begin(item)
            if now is not moment:
                moment, at = now, format_time(now)
            path = "" if method is None else f',"path":{encode_basestring(judgement.path[:MAX_PATH])}'
            batch.append(f'{begin},"id":"{name or next(names)}","time":"{at}"{path}}}')
        return batch

    def _begin(self, item: _Waiting) -> str:
        """A record's text without id, time, path and the bracket at its end."""
        _, contact, judgement, now, protocol, method, host = item
        fields: dict[str, object] = {
            "direction": contact.direction,
            "caller": contact.caller,
            "destination": contact.destination,
            "port": contact.port,
            "peer_ip": contact.peer_ip,
            "protocol": protocol,
            **_said(judgement.decision),
            "candidate": _said(judgement.candidate) if judgement.candidate is not None else None,
        }
        if method is not None:
            fields |= {"method": method, "host": host}
        if contact.facts:
            fields["facts"] = contact.facts
        made = record("decision", now=now, random=bytes(RANDOM_BYTES), source=self._source, **fields)
        del made["id"], made["time"]
        return json.dumps(made, separators=(",", ":"), ensure_ascii=False, allow_nan=False)[:-1]

    def unanswered(self) -> list[tuple[int, list[str]]]:
        """The batches that wait for their acknowledgement, to be sent again: whoever got them may be gone."""
        return list(self._sent.items())

    @property
    def in_flight(self) -> int:
        """How many batches wait for their acknowledgement."""
        return len(self._sent)

    def acknowledge(self, sequence: int) -> None:
        """Forget the batches up to a sequence number."""
        for found in [found for found in self._sent if found <= sequence]:
            del self._sent[found]

    def take_flows(self) -> list[str]:
        """Take the next portion of the flows that were counted, as public JSON; empty when all were taken.

        In portions, since thousands of them at once take megabytes that a small process does not give back. What rows
        share that differ in their path alone is written once.
        """
        taken = self._flows
        if len(taken) > MAX_PORTION:
            taken = {key: self._flows.pop(key) for key in [*itertools.islice(self._flows, MAX_PORTION)]}
        else:
            self._flows = {}
        shared: dict[_FlowKey, str] = {}
        rows: list[str] = []
        for (caller, destination, peer_ip, port, protocol, method, path, status, verdict), counted in taken.items():
            alike: _FlowKey = caller, destination, peer_ip, port, protocol, method, None, status, verdict
            rest = shared.get(alike)
            if rest is None:
                rest = shared[alike] = self._rest(alike)
            said = "" if path is None else f'"path":{encode_basestring(path)},'
            rows.append(
                f'{{"start":"{format_time(counted.start)}","end":"{format_time(counted.end)}",{said}'
                f'"connections":{counted.count},{rest}'
            )
        return rows

    def _rest(self, alike: _FlowKey) -> str:
        """A flow's text without the bracket at its start, its times, its path and how often it came."""
        caller, destination, peer_ip, port, protocol, method, _, status, verdict = alike
        made = Flow(
            start=_ANY_TIME,
            source=caller,
            destination=destination,
            source_ip=peer_ip,
            destination_port=port,
            protocol=protocol,
            method=method,
            status=status,
            verdict=Verdict(verdict),
            established=caller is not None,
            sensor=self._source,
        ).to_json()
        del made["start"], made["connections"]
        return json.dumps(made, separators=(",", ":"), ensure_ascii=False, allow_nan=False)[1:]


_ANY_TIME = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _said(decision: Decision) -> dict[str, object]:
    return {
        "decision": str(decision.effect),
        "policy_decision": str(decision.policy_effect),
        "mode": str(decision.mode),
        "snapshot": decision.snapshot,
        "tier": decision.tier,
        "policy": decision.policy,
        "rule": decision.rule,
        "code": decision.code,
    }
