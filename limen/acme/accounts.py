"""ACME accounts: who signs, new accounts with their external binding, updates, key change (RFC 8555 §7.3).

Works within the caller's transaction, so that whatever is refused leaves no row behind.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.acme import jws, states, store
from ca.acme.authority import AcmeAuthority
from ca.acme.config import Config
from ca.acme.jws import Jws, malformed
from mesh.clock import format_time
from mesh.problems import Conflict, Forbidden, Invalid

MAX_CONTACTS = 10
_CONTACT = re.compile(r"mailto:[^\s@,?&<>\"]{1,64}@[A-Za-z0-9.-]{1,190}\Z")
Json = Any
Answer = tuple[int, dict[str, str], Json]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose signature was verified. ``row`` is the account, None when the message came with a bare key."""

    key: jws.AccountKey
    row: store.Row | None = None

    @property
    def id(self) -> str:
        """The account's name."""
        return str(self.row["id"]) if self.row is not None else "key"

    @property
    def fingerprint(self) -> bytes:
        """What keys are compared by."""
        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Accounts:
    """The accounts of one ACME server."""

    def __init__(self, *, authority: AcmeAuthority, config: Callable[[], Config], record: Callable[..., None]) -> None:
        self._authority, self._config, self._record = authority, config, record

    def authenticate(self, connection: sa.Connection, message: Jws, base: str, *, takes_jwk: bool) -> Caller:
        """Find the key and check the signature.

        Raises Invalid LM1400, LM1402, LM1404, LM1412; Forbidden LM1403 for an account that is not valid any more.
        """
        if message.jwk is not None:
            if not takes_jwk:
                raise malformed("this is asked for with `kid`")
            key = jws.key_of(message.jwk)
            jws.verify(message, key)
            return Caller(key=key)
        prefix = f"{base}/acme/account/"
        kid = message.kid or ""
        row = store.get(connection, store.ACCOUNTS, id=kid[len(prefix) :][:40]) if kid.startswith(prefix) else None
        if row is None or kid != prefix + row["id"]:
            raise Invalid("LM1404", kid=kid[:200])
        key = jws.key_of(json.loads(row["jwk"]))
        jws.verify(message, key)
        if row["status"] != "valid":
            raise Forbidden("LM1403", reason=f"the account is {row['status']}")
        return Caller(key=key, row=row)

    def create(self, connection: sa.Connection, message: Jws, caller: Caller, base: str, now: dt.datetime) -> Answer:
        """Make an account, or find the one of this key."""
        del caller
        asked, jwk = message.body, message.jwk
        assert jwk is not None
        held = store.get(connection, store.ACCOUNTS, thumbprint=jws.thumbprint(jwk))
        if held is not None:
            if held["status"] != "valid":
                raise Forbidden("LM1403", reason=f"the account is {held['status']}")
            return self._answer(held, base, 200)
        if asked.get("onlyReturnExisting") is True:
            raise Invalid("LM1404", kid="of this key")
        contact = _contact(asked)
        binding = self._bound(connection, asked, jwk, message.url)
        made = self._authority.new_id()
        store.put(
            connection,
            store.ACCOUNTS,
            id=made,
            thumbprint=jws.thumbprint(jwk),
            jwk=json.dumps(jws.canonical(jwk)),
            status="valid",
            contact=json.dumps(contact),
            binding=binding,
            created=format_time(now),
        )
        if binding is not None:
            store.change(connection, store.BINDINGS, binding, account=made)
        row = store.get(connection, store.ACCOUNTS, id=made)
        assert row is not None
        return self._answer(row, base, 201)

    def _bound(self, connection: sa.Connection, asked: dict[str, Json], jwk: dict[str, Json], url: str) -> str | None:
        found = asked.get("externalAccountBinding")
        if found is None:
            if self._config().binding:
                raise Forbidden("LM1405")
            return None
        kid, inner_url, inner_jwk, signed, mac = jws.read_binding(found)
        row = store.get(connection, store.BINDINGS, id=kid[:40])
        if row is None or not jws.is_bound(signed, mac, self._authority.unseal(row["id"], bytes(row["wrapped"]))):
            raise Forbidden("LM1403", reason="the external account binding is not one of ours")
        if inner_url != url or inner_jwk != jwk:
            raise malformed("the external account binding is for another URL or key")
        if row["account"] is not None:
            raise Forbidden("LM1403", reason="the external account binding was used")
        return str(row["id"])

    def update(self, connection: sa.Connection, message: Jws, caller: Caller, name: str, base: str) -> Answer:
        """Show an account, change its contact, or deactivate it."""
        if name != caller.id or caller.row is None:
            raise Forbidden("LM1403", reason="this is another account")
        row = caller.row
        if message.payload:
            asked = message.body
            if asked.get("status") == "deactivated":
                status = states.move(states.ACCOUNT, row["status"], "deactivate")
                store.change(connection, store.ACCOUNTS, caller.id, status=status)
            elif "contact" in asked:
                store.change(connection, store.ACCOUNTS, caller.id, contact=json.dumps(_contact(asked)))
            found = store.get(connection, store.ACCOUNTS, id=caller.id)
            assert found is not None
            row = found
        return self._answer(row, base, 200)

    def change_key(self, connection: sa.Connection, message: Jws, caller: Caller, base: str) -> Answer:
        """Give an account a new key (RFC 8555 §7.3.5).

        1. The inner message is signed by the new key, for the same URL.
        2. It names this account and its present key.
        3. No account has the new key.
        """
        assert caller.row is not None
        # (1)
        inner = jws.read(message.payload, has_nonce=False)
        if inner.jwk is None or inner.url != message.url:
            raise malformed("the inner message has the new `jwk` and the same `url`")
        jws.verify(inner, jws.key_of(inner.jwk))
        # (2)
        asked = inner.body
        old = asked.get("oldKey")
        if set(asked) != {"account", "oldKey"} or asked["account"] != f"{base}/acme/account/{caller.id}":
            raise malformed("the inner message names another account")
        if not isinstance(old, dict):
            raise malformed("`oldKey` is an object")
        jws.key_of(old)
        if jws.thumbprint(old) != caller.row["thumbprint"]:
            raise malformed("`oldKey` is not the account's")
        # (3)
        print_ = jws.thumbprint(inner.jwk)
        held = store.get(connection, store.ACCOUNTS, thumbprint=print_)
        if held is not None:
            raise Conflict("LM1421", status="in use", event="key change")
        store.change(connection, store.ACCOUNTS, caller.id, thumbprint=print_, jwk=json.dumps(jws.canonical(inner.jwk)))
        return self._answer(caller.row, base, 200)

    def create_binding(self, connection: sa.Connection, label: str, now: dt.datetime) -> Json:
        """Make a binding's key."""
        kid, key = self._authority.new_id(), self._authority.random(32)
        store.put(
            connection,
            store.BINDINGS,
            id=kid,
            label=label[:200],
            wrapped=self._authority.seal(kid, key),
            created=format_time(now),
        )
        return {"kid": kid, "hmac_key": jws.encode(key)}

    def _answer(self, row: store.Row, base: str, status: int) -> Answer:
        url = f"{base}/acme/account/{row['id']}"
        shown = {
            "status": row["status"],
            "contact": json.loads(row["contact"]),
            "orders": f"{base}/acme/orders/{row['id']}",
        }
        return status, {"Location": url}, shown


def _contact(asked: dict[str, Json]) -> list[str]:
    found = asked.get("contact") or []
    if not isinstance(found, list) or len(found) > MAX_CONTACTS:
        raise Invalid("LM1413", reason=f"`contact` is a list of at most {MAX_CONTACTS}")
    for item in found:
        if not isinstance(item, str) or not _CONTACT.match(item):
            raise Invalid("LM1413", reason="a contact is `mailto:` and one address")
    return found
