"""Takes releases from the server, one after the other, and applies only what the reviewers signed (design D4)."""

from __future__ import annotations

import datetime as dt
import json
import pathlib

from enforcer import nodestate
from enforcer.agentmetrics import REFUSED
from enforcer.nodestate import NodeState
from mesh.problems import Problem
from mesh.wrapping import WrappingKey
from policyengine import dsse
from policyengine.model import PolicySet
from policyengine.review import activation_from_json, verify_activation
from policyengine.snapshot import Snapshot


class Releases:
    """What is active here, and what was refused."""

    def __init__(self, folder: pathlib.Path, state: NodeState, wrapping: WrappingKey) -> None:
        self._folder, self._state, self._wrapping = folder, state, wrapping
        self.active: Snapshot | None = None
        self.candidate: Snapshot | None = None
        self.refusals: list[tuple[str, str]] = []
        self._heard: dt.datetime | None = None
        content = nodestate.load_snapshot(folder, state.snapshot) if state.snapshot else None
        if content is not None:
            self.active = Snapshot.from_bytes(content, state.snapshot)

    @property
    def epoch(self) -> int:
        """The highest epoch that was applied here."""
        return self._state.epoch

    def take(self, activation: bytes, content: bytes, reviewers: tuple[bytes, ...], now: dt.datetime) -> bool:
        """Apply a release, or refuse it and keep the last good one.

        1. Activation, content and reviewer sets parse strictly.
        2. `verify_activation` passes: chain of judges, epoch, content, predecessor, approvals, owners.
        3. Content, epoch and the judges' pin are on the disk.
        4. Only then it is active.

        Returns whether it is active now; a refusal is remembered with its code.
        """
        try:
            # (1)
            order = activation_from_json(dsse.strict_json(activation, "LM2420"))
            if order.epoch <= self._state.epoch:
                return False
            proposed = Snapshot.from_bytes(content, order.snapshot)
            envelopes = [dsse.envelope_from_json(dsse.strict_json(item, "LM2400")) for item in reviewers]
            # (2)
            judges = verify_activation(
                order,
                reviewer_sets=envelopes,
                pinned_set_hash=self._state.reviewers_pin,
                active=self.active,
                proposed=proposed,
                highest_epoch=self._state.epoch,
                now=now,
                heard=self._heard,
            )
        except Problem as problem:
            self._refuse(problem)
            return False
        # (3)
        nodestate.save_snapshot(self._folder, proposed.hash, content)
        self._state.epoch, self._state.snapshot = order.epoch, proposed.hash
        self._state.reviewers_pin = judges.hash
        self._state.reviewers = tuple(item.decode() for item in reviewers)
        nodestate.save(self._folder, self._state, self._wrapping)
        nodestate.forget_snapshots(self._folder, proposed.hash)
        # (4)
        self.active, self.refusals = proposed, []
        REFUSED.set(0)
        return True

    def take_candidate(self, content: bytes) -> None:
        """Take what is decided beside the active snapshot; it decides nothing, so nobody has to have signed it."""
        try:
            self.candidate = Snapshot.from_bytes(content) if content else None
        except Problem as problem:
            self.candidate = None
            self._refuse(problem)

    def _refuse(self, problem: Problem) -> None:
        self.refusals = [(problem.code, str(problem)), *self.refusals][:10]
        REFUSED.set(len(self.refusals))

    def policies(self) -> tuple[PolicySet | None, PolicySet | None]:
        """The policies that decide, and those that are decided beside them."""
        active, candidate = self.active, self.candidate
        return None if active is None else active.policies, None if candidate is None else candidate.policies

    def heard(self, now: dt.datetime) -> None:
        """Remember when the server last said that what is active is current."""
        self._heard = now

    def message(self) -> dict[str, object]:
        """The `policy` message for sidecars."""
        return {
            "type": "policy",
            "epoch": self._state.epoch,
            "active": _slice(self.active),
            "candidate": _slice(self.candidate),
        }


def _slice(snapshot: Snapshot | None) -> dict[str, object] | None:
    if snapshot is None:
        return None
    found: dict[str, object] = json.loads(snapshot.content)
    return {"hash": snapshot.hash, "policies": found["policies"], "tiers": found["tiers"]}
