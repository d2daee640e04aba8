"""The SVIDs that are valid now, and whether one is: not ended, not revoked, and signed by an authority that is trusted.

Reads what the authority recorded; changes nothing. Works on the server's one worker thread.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from ca import slotstore
from ca import store as ca_store
from ca.registration import IdentityRule
from ca.rotation import AuthorityState, Kind, Slot
from limen.explanation import marks
from mesh.clock import format_time

Json = Any


class Validity:
    """What is trusted at one moment, read once for as many SVIDs as are asked about."""

    def __init__(self, connection: sa.Connection, slots: Sequence[Slot], now: dt.datetime) -> None:
        self._now = now
        self._revoked = {item.serial: item for item in slotstore.revocations(connection)}
        self._gone = {slot.id: slot for slot in slots if slot.state is AuthorityState.REVOKED}
        self._trusted = {slot.id for slot in slots if slot.is_trusted}
        self._signing = {
            f"{x509.load_der_x509_certificate(slot.certificates[0]).serial_number:x}"
            for slot in slots
            if slot.is_trusted and slot.kind is not Kind.JWT
        }

    def holds(self, item: ca_store.Issuance) -> bool:
        """Whether an SVID verifies now."""
        if item.not_after <= self._now or item.serial in self._revoked:
            return False
        if item.kind == "ca":
            return item.serial in self._signing
        return item.authority in self._trusted

    def revoked(self, item: ca_store.Issuance) -> tuple[dt.datetime, str] | None:
        """When an SVID was revoked, and why: itself, or with the authority that signed it."""
        found = self._revoked.get(item.serial)
        if found is not None:
            return found.revoked, found.reason
        gone = self._gone.get(item.authority)
        return None if gone is None else (gone.changed, f"authority {gone.id} was revoked")


def valid_now(
    connection: sa.Connection, slots: Sequence[Slot], rules: Mapping[str, IdentityRule], now: dt.datetime
) -> Json:
    """Every SVID that verifies now, newest first, with what the rule of its name says today."""
    validity = Validity(connection, slots, now)
    return [
        {
            "spiffe_id": item.spiffe_id,
            "serial": item.serial,
            "kind": item.kind,
            "node": item.node,
            "rule": item.rule,
            **marks(rules.get(item.rule)),
            "issued": format_time(item.issued),
            "not_after": format_time(item.not_after),
        }
        for item in ca_store.valid_issuances(connection, now)
        if validity.holds(item)
    ]
