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
from collections import deque
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any

from audit.record import record
from enforcer.native.judge import Judgement
from mesh.clock import format_time
from mesh.flow import Flow, FlowProtocol, Verdict
from mesh.moments import Moments
from mesh.request import Decision, Effect
from mesh.ulid import RANDOM_BYTES, random_letters

MAX_WAITING = 65_536
MAX_FLOWS = 4_096
MAX_BATCH = 500
MAX_PORTION = 500
MAX_PATH = 2048
MAX_SUBJECT = 256
# characters
MAX_BEGUN = 128 * 1024
KEPT_WITHIN_S = 10
"""How long an answer waits for its record to be on a disk; then there is none, and the connection ends."""
QUERY = "?[removed]"
# most numbers that a record has
_TEXTS = {None: "null"} | {number: str(number) for number in range(1000)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Who spoke to which port: the part that all decisions about one connection share.

    ``certificate`` is the thumbprint of the caller's, for tokens that are bound to it; ``serial`` its serial number.
    """

    direction: str
    port: int
    peer_ip: str
    caller: str | None = None
    destination: str | None = None
    facts: dict[str, object] | None = None
    certificate: str = ""
    serial: str = ""


@dataclasses.dataclass(slots=True)
class _Counted:
    start: dt.datetime
    end: dt.datetime
    count: int


# the verdict as plain text: an enumeration's member is hashed in Python
_FlowKey = tuple[str | None, str | None, str, int, FlowProtocol, str | None, str | None, int | None, str]

_ALLOWED, _DENIED, _WOULD_DENY = (verdict.value for verdict in (Verdict.ALLOWED, Verdict.DENIED, Verdict.WOULD_DENY))


# members of an enumeration are looked up in Python
_ALLOW = Effect.ALLOW

# a decision that was not written out yet, a list since one is made for each request: the record's id, empty where
# nobody was told it, then contact, judgement, moment, as text where there is an id, protocol, method, host, target,
# microseconds; last comes how it went, as `end` puts it there
Waiting = list[Any]
# what records begin with that have these in common: contact, decision, candidate, protocol, method, host
_Begun = tuple[Contact | None, Decision | None, Decision | None, str, str | None, str | None, str]
_NOTHING_BEGUN: _Begun = None, None, None, "", None, None, ""


def end(waiting: Waiting | None, status: int | None, received: int | None, sent: int | None) -> None:
    """Have a record say how what it is about went, if it was not written out yet."""
    if waiting is not None:
        waiting[-1] = (status, received, sent)


class Recorder:
    """Collects records and flows until they are taken away, and records until they are acknowledged."""

    def __init__(self, source: str, random: Callable[[int], bytes]) -> None:
        self._source, self._random = source, random
        self._waiting: list[Waiting | str] = []
        self._letters, self._moments = random_letters(random), Moments()
        # what was begun for a contact last, by its address, and all that was begun, by those of its parts; both hold on
        # to these parts, so that no other object gets their addresses
        self._latest: dict[int, _Begun] = {}
        self._begun: dict[tuple[object, ...], _Begun] = {}
        self._begun_size = 0
        # the decision that was recorded last, to be told how it ended; None when there was no room for it
        self.last: Waiting | None = None
        self._sent: dict[int, list[str]] = {}
        self._sequence = 0
        self._lost = 0
        self._flows: dict[_FlowKey, _Counted] = {}
        # whether who is denied is answered only when the record of it is on the agent's disk
        self.keeps_denials = False
        # told when somebody waits for that
        self.wake: Callable[[], None] = _nobody
        self._kept = 0
        self._waiters: deque[tuple[int, Callable[[], None]]] = deque()

    def rename(self, source: str) -> None:
        """Write under another name from now on; what was decided before keeps the one before."""
        self._waiting = [*self._write(self._waiting)]
        self._source = source
        self._forget_begun()

    @property
    def unacknowledged(self) -> int:
        """How many records nobody has taken over yet."""
        return len(self._waiting) + sum(map(len, self._sent.values()))

    @property
    def is_waited_for(self) -> bool:
        """Whether an answer waits for a record to be taken over."""
        return bool(self._waiters)

    def waits_for_disk(self, answer: Callable[[], None]) -> bool:
        """Whether an answer has to wait until the record that was made last is on a disk; it is called then.

        A record that there was no room for never gets there, and its answer is never called.
        """
        if not self.keeps_denials:
            return False
        if self.last is not None:
            self._waiters.append((self._kept + self.unacknowledged, answer))
            self.wake()
        return True

    def decision(
        self,
        contact: Contact,
        judgement: Judgement,
        *,
        now: dt.datetime,
        protocol: FlowProtocol,
        method: str | None = None,
        host: str | None = None,
        target: str | None = None,
        latency_us: int | None = None,
    ) -> str:
        """Record a decision and return the record's id; of an allowed one nobody is told it, and it is empty.

        ``target`` is the request target as it came, ``latency_us`` what deciding took.
        """
        moment: dt.datetime | str = now
        if judgement.decision.effect is _ALLOW:
            name, limit = "", MAX_WAITING
        else:
            letters, moment = self._moments.write(now)
            name, limit = letters + next(self._letters), 2 * MAX_WAITING
        waiting = self._waiting
        if len(waiting) >= limit:
            self._lost += 1
            self.last = None
        else:
            self.last = made = [name, contact, judgement, moment, protocol, method, host, target, latency_us, None]
            waiting.append(made)
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

    def _write(self, taken: list[Waiting | str]) -> list[str]:
        """Write records out.

        All of one connection that came to the same decision differ in id, time, path and how they went alone, so that
        the rest is written once.
        """
        begun_of, letters, write, texts = self._latest.get, self._letters, self._moments.write, _TEXTS.get
        batch: list[str] = []
        for item in taken:
            if isinstance(item, str):
                batch.append(item)
                continue
            name, contact, judgement, at, protocol, method, host, target, took, went = item
            decision, candidate, _, path, subject = judgement
            _, decided, beside, spoken, asked, named, begin = begun_of(id(contact)) or _NOTHING_BEGUN
            alike = decided is decision and beside is candidate and spoken == protocol
            if not (alike and asked == method and named == host):
                begin = self._begin(contact, decision, candidate, protocol, method, host)
            if not name:
                stamp, at = write(at)
                name = stamp + next(letters)
            of = "" if method is None else _request(path, subject, target)
            if went is None:
                how = "" if took is None else f',"latency_us":{took}'
            else:
                status, received, sent = went
                how = (
                    f',"latency_us":{texts(took) or took},"status":{texts(status) or status}'
                    f',"bytes_in":{texts(received) or received},"bytes_out":{texts(sent) or sent}'
                )
            batch.append(f'{begin},"id":"{name}","time":"{at}"{of}{how}}}')
        # not before the end, lest a batch of many connections begin each of its records anew
        if self._begun_size > MAX_BEGUN:
            self._forget_begun()
        return batch

    def _begin(
        self,
        contact: Contact,
        decision: Decision,
        candidate: Decision | None,
        protocol: FlowProtocol,
        method: str | None,
        host: str | None,
    ) -> str:
        """What records with these in common begin with, remembered; they are told apart by which objects they are."""
        key = id(contact), id(decision), id(candidate), protocol, method, host
        begun = self._begun.get(key)
        if begun is None:
            text = self._text(contact, decision, candidate, protocol, method, host)
            self._begun_size += len(text)
            begun = self._begun[key] = contact, decision, candidate, protocol, method, host, text
        self._latest[id(contact)] = begun
        return begun[-1]

    def _forget_begun(self) -> None:
        self._latest.clear()
        self._begun.clear()
        self._begun_size = 0

    def _text(
        self,
        contact: Contact,
        decision: Decision,
        candidate: Decision | None,
        protocol: FlowProtocol,
        method: str | None,
        host: str | None,
    ) -> str:
        """A record's text without id, time, path, how it went and the bracket at its end."""
        fields: dict[str, object] = {
            "direction": contact.direction,
            "caller": contact.caller,
            "destination": contact.destination,
            "port": contact.port,
            "peer_ip": contact.peer_ip,
            "protocol": protocol,
            **_said(decision),
            "candidate": None if candidate is None else _said(candidate),
        }
        if contact.serial:
            fields["serial"] = contact.serial
        if method is not None:
            fields |= {"method": method, "host": host}
        if contact.facts:
            fields["facts"] = contact.facts
        made = record("decision", now=_ANY_TIME, random=bytes(RANDOM_BYTES), source=self._source, **fields)
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
            self._kept += len(self._sent.pop(found))
        while self._waiters and self._waiters[0][0] <= self._kept:
            self._waiters.popleft()[1]()

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


def _nobody() -> None:
    """Where nobody sends records at once, they go with the next batch."""


def _request(path: str, subject: str, target: str | None) -> str:
    """What a record says of a request: its path, whose token it had, and its target as it came, where it is another.

    What the query asked for may be a secret, and stays here.
    """
    spelled = encode_basestring(path if len(path) <= MAX_PATH else path[:MAX_PATH])
    said = f',"path":{spelled}'
    if subject:
        said += f',"sub":{encode_basestring(subject[:MAX_SUBJECT])}'
    if target is None or target == path:
        return said
    begin, mark, _ = target.partition("?")
    if begin == path and len(path) <= MAX_PATH:
        return f'{said},"target":{spelled[:-1]}{mark and QUERY}"'
    return f'{said},"target":{encode_basestring(begin[:MAX_PATH] + (mark and QUERY))}'


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
