"""The ACME server's work on the one worker thread: accounts, orders, proofs, certificates (RFC 8555 §7).

Doors hand over a message as it came; nothing is written before its signature was verified. A certificate is kept
before it is recorded, recorded before its order is valid, and given out only then: a crash in between is finished by
`resume`. Which event leads where stands in `ca.acme.states`.
Longer than most: every resource of RFC 8555 is one short method here, and they share their lookups.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import prometheus_client
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.acme import config as acme_config
from ca.acme import csr, errors, jws, names, profile, states, store
from ca.acme.authority import AcmeAuthority
from ca.acme.jws import Jws, malformed
from ca.acme.nonces import Nonces
from ca.keys import PublicKey
from limen.acme.accounts import Accounts, Caller
from limen.acme.shapes import authorization_json, challenge_json, no_payload, order_json, waiting
from limen.acme.validators import Task
from mesh.clock import Clock, format_time, parse_time
from mesh.crl import UNREADABLE
from mesh.database import transaction
from mesh.problems import Conflict, Forbidden, Invalid, NotFound, Problem, Unavailable

PENDING_LIFE = dt.timedelta(hours=1)
PROVEN_LIFE = dt.timedelta(hours=8)
MAX_PENDING = 300
Json = Any
_EXPIRY = prometheus_client.Gauge(
    "limen_acme_authority_expiry_timestamp_seconds",
    "When a certificate of the ACME authority ends, Unix time.",
    ["kind"],
)


class Acme:
    """One ACME server. ``wake`` is called when there is a proof to look for."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        authority: AcmeAuthority,
        clock: Clock,
        record: Callable[..., None],
        read_config: Callable[[], acme_config.Config],
    ) -> None:
        self._engine, self._clock, self._record = engine, clock, record
        self.authority = authority
        self._read_config = read_config
        self.config = read_config()
        self.nonces = Nonces(authority.random)
        self.accounts = Accounts(authority=authority, config=lambda: self.config, record=record)
        self.wake: Callable[[], None] = lambda: None
        self._swept = clock.now()
        self._measure()
        self.resume()

    def nonce(self) -> str:
        """A fresh nonce; from any thread."""
        return self.nonces.make(time.monotonic_ns() // 1000)

    def resume(self) -> None:
        """Finish what a crash left between two steps."""
        with transaction(self._engine) as connection:
            found = store.every(connection, store.CERTIFICATES, is_recorded=False)
        for row in found:
            self._finish(row)

    def tick(self) -> None:
        """Once in a while: see a changed acme.yaml, delete what is over."""
        self.config = self._read_config()
        now = self._clock.now()
        if now - self._swept >= dt.timedelta(minutes=1):
            self._swept = now
            self.authority.renew(now)
            self._measure()
            with transaction(self._engine) as connection:
                store.expire(connection, now)

    def _measure(self) -> None:
        for kind, found in (("root", self.authority.root), ("issuing", self.authority.issuing)):
            _EXPIRY.labels(kind).set(found.not_valid_after_utc.timestamp())

    # -- messages

    def call(self, body: bytes, base: str, path: str) -> tuple[int, dict[str, str], Json]:
        """Answer one POST: its status, headers and body (JSON, bytes for PEM, or None).

        1. The message is taken apart; its URL is the one it was sent to.
        2. Its key is found: by `jwk` for new accounts and for revocation, by `kid` for everything else.
        3. The signature is that key's; only then the nonce is used up and anything is looked up or written.
        """
        # (1)
        message = jws.read(body)
        if message.url != base + path:
            raise Forbidden("LM1403", reason="the signed `url` is another one")
        noun, _, rest = path.removeprefix("/acme/").partition("/")
        with transaction(self._engine) as connection:
            # (2) and (3)
            is_new = noun in {"new-account", "revoke-cert"}
            caller = self.accounts.authenticate(connection, message, base, takes_jwk=is_new)
            assert message.nonce is not None
            self.nonces.take(message.nonce, time.monotonic_ns() // 1000)
            if noun == "new-account":
                if message.jwk is None:
                    raise malformed("a new account is asked for with its `jwk`")
                return self.accounts.create(connection, message, caller, base, self._clock.now())
            if noun != "revoke-cert" and caller.row is None:
                raise malformed("this is asked for with `kid`")
        work = {
            "account": self._account,
            "key-change": self._key_change,
            "new-order": self._new_order,
            "orders": self._orders,
            "order": self._order,
            "finalize": self._finalize,
            "authz": self._authorization,
            "challenge": self._challenge,
            "cert": self._certificate,
            "revoke-cert": self._revoke,
        }.get(noun)
        if work is None:
            raise NotFound("LM1419", what=path[:100])
        return work(message, caller, rest, base)

    def _account(self, message: Jws, caller: Caller, rest: str, base: str) -> tuple[int, dict[str, str], Json]:
        with transaction(self._engine) as connection:
            return self.accounts.update(connection, message, caller, rest, base)

    def _key_change(self, message: Jws, caller: Caller, rest: str, base: str) -> tuple[int, dict[str, str], Json]:
        del rest
        with transaction(self._engine) as connection:
            return self.accounts.change_key(connection, message, caller, base)

    # -- orders

    def _new_order(self, message: Jws, caller: Caller, rest: str, base: str) -> tuple[int, dict[str, str], Json]:
        del rest
        asked = message.body
        if not set(asked) <= {"identifiers", "replaces", "profile"} or "profile" in asked:
            raise malformed("an order has `identifiers`; times and profiles are the server's to choose")
        ordered = names.identifiers(asked.get("identifiers"))
        names.check_allowed(ordered, self.config.names, self.config.networks)
        now = self._clock.now()
        made = self.authority.new_id()
        with transaction(self._engine) as connection:
            self._limit(connection, caller.id, ordered, now)
            proven = [self._authorize(connection, caller.id, kind, value, now) for kind, value in ordered]
            store.put(
                connection,
                store.ORDERS,
                id=made,
                account=caller.id,
                status="ready" if all(status == "valid" for _, status in proven) else "pending",
                identifiers=json.dumps(ordered),
                authorizations=json.dumps([found for found, _ in proven]),
                error="",
                created=format_time(now),
                expires=format_time(now + PENDING_LIFE),
            )
            row = self._row(connection, store.ORDERS, made, caller.id)
        return 201, {"Location": f"{base}/acme/order/{made}"}, order_json(row, base)

    def _limit(
        self, connection: sa.Connection, account: str, ordered: Sequence[names.Identifier], now: dt.datetime
    ) -> None:
        made = store.created_since(connection, account, now - dt.timedelta(hours=1))
        if made >= self.config.orders_per_hour:
            raise Unavailable("LM1409", what="orders of this account in an hour", seconds=600)
        if store.count(connection, store.ORDERS, account=account, status="pending") >= MAX_PENDING:
            raise Unavailable("LM1409", what="pending orders of this account", seconds=3600)
        issued = store.issued_since(connection, json.dumps(sorted(ordered)), now - dt.timedelta(days=1))
        if issued >= self.config.certificates_per_day:
            raise Unavailable("LM1409", what="certificates for these names in a day", seconds=3600)

    def _authorize(
        self, connection: sa.Connection, account: str, kind: str, value: str, now: dt.datetime
    ) -> tuple[str, str]:
        held = store.valid_authorization(connection, account, kind, value, now)
        if held is not None and parse_time(held["expires"]) > now + PENDING_LIFE:
            return str(held["id"]), "valid"
        made = self.authority.new_id()
        expires = format_time(now + PENDING_LIFE)
        store.put(
            connection,
            store.AUTHORIZATIONS,
            id=made,
            account=account,
            type=kind,
            value=value,
            status="pending",
            expires=expires,
        )
        for name in states.challenge_types(kind, is_wildcard=value.startswith("*.")):
            token = jws.encode(self.authority.random(32))
            values = {"id": self.authority.new_id(), "authorization": made, "type": name, "token": token}
            store.put(connection, store.CHALLENGES, **values, status="pending", error="")
        return made, "pending"

    def _orders(self, message: Jws, caller: Caller, rest: str, base: str) -> tuple[int, dict[str, str], Json]:
        no_payload(message)
        if rest != caller.id:
            raise Forbidden("LM1403", reason="these are another account's")
        with transaction(self._engine) as connection:
            found = store.every(connection, store.ORDERS, account=caller.id)
        return 200, {}, {"orders": [f"{base}/acme/order/{row['id']}" for row in found[:1000]]}

    def _order(self, message: Jws, caller: Caller, rest: str, base: str) -> tuple[int, dict[str, str], Json]:
        no_payload(message)
        with transaction(self._engine) as connection:
            row = self._row(connection, store.ORDERS, rest, caller.id)
        return 200, waiting(row["status"]), order_json(row, base)

    def _finalize(self, message: Jws, caller: Caller, rest: str, base: str) -> tuple[int, dict[str, str], Json]:
        now = self._clock.now()
        with transaction(self._engine) as connection:
            row = self._row(connection, store.ORDERS, rest, caller.id)
            if row["status"] != "ready":
                raise Forbidden("LM1408", status=row["status"])
            ordered = tuple((str(kind), str(value)) for kind, value in json.loads(row["identifiers"]))
            key = csr.read_csr(jws.decode(message.body.get("csr"), "csr"), ordered)
            if csr.fingerprint(key) == caller.fingerprint:
                raise Invalid("LM1407", reason="its key is the account's")
            for found in json.loads(row["authorizations"]):
                held = self._row(connection, store.AUTHORIZATIONS, found, caller.id)
                if held["status"] != "valid" or parse_time(held["expires"]) <= now:
                    raise Forbidden("LM1403", reason=f"the proof for `{held['value']}` does not hold any more")
            made = self._issue(connection, ordered, key, caller.id, now)
            status = states.move(states.ORDER, row["status"], "finalize")
            store.change(connection, store.ORDERS, rest, status=status, certificate=made["id"])
        self._finish(made)
        return self._show_order(rest, caller, base)

    def _show_order(self, order: str, caller: Caller, base: str) -> tuple[int, dict[str, str], Json]:
        with transaction(self._engine) as connection:
            row = self._row(connection, store.ORDERS, order, caller.id)
        return 200, {"Location": f"{base}/acme/order/{order}"}, order_json(row, base)

    def _issue(
        self,
        connection: sa.Connection,
        ordered: Sequence[names.Identifier],
        key: PublicKey,
        account: str,
        now: dt.datetime,
    ) -> store.Row:
        life = dt.timedelta(days=self.config.days)
        serial, leaf = self.authority.sign(ordered, key, now=now, life=life, crl_url=self.config.crl_url)
        made = self.authority.new_id()
        end = x509.load_der_x509_certificate(leaf).not_valid_after_utc
        try:
            store.put(
                connection,
                store.CERTIFICATES,
                id=made,
                serial=f"{serial:x}",
                account=account,
                names=json.dumps(sorted(ordered)),
                certificate=leaf,
                issued=format_time(now),
                not_after=format_time(end),
                is_recorded=False,
            )
        except sa.exc.IntegrityError as err:
            raise Conflict("LM1205", serial=f"{serial:x}") from err
        found = store.get(connection, store.CERTIFICATES, id=made)
        assert found is not None
        return found

    def _finish(self, row: store.Row) -> None:
        """Record a certificate, then let its order be valid. Twice recorded is better than never."""
        shown = [value for _, value in json.loads(row["names"])]
        self._record(
            "issuance",
            f"acme:{row['account']}",
            event="acme",
            names=shown,
            serial=row["serial"],
            not_after=row["not_after"],
        )
        with transaction(self._engine) as connection:
            store.change(connection, store.CERTIFICATES, row["id"], is_recorded=True)
            for order in store.every(connection, store.ORDERS, certificate=row["id"], status="processing"):
                store.change(
                    connection, store.ORDERS, order["id"], status=states.move(states.ORDER, "processing", "issued")
                )

    def server_chain(self, found: Sequence[names.Identifier]) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        """A key and chain (PEM) for this server's own port, under the ACME root."""
        key = ec.generate_private_key(ec.SECP256R1())
        with transaction(self._engine) as connection:
            made = self._issue(connection, found, key.public_key(), "server", self._clock.now())
        self._finish(made)
        return key, self.authority.chain_pem(bytes(made["certificate"]))

    # -- proofs

    def _authorization(self, message: Jws, caller: Caller, rest: str, base: str) -> tuple[int, dict[str, str], Json]:
        with transaction(self._engine) as connection:
            row = self._row(connection, store.AUTHORIZATIONS, rest, caller.id)
            if message.payload:
                if message.body != {"status": "deactivated"}:
                    raise malformed("an authorization can be deactivated, and nothing else")
                status = states.move(states.AUTHORIZATION, row["status"], "deactivate")
                store.change(connection, store.AUTHORIZATIONS, rest, status=status)
                row = self._row(connection, store.AUTHORIZATIONS, rest, caller.id)
            found = store.every(connection, store.CHALLENGES, authorization=rest)
        return 200, waiting(row["status"]), authorization_json(row, found, base)

    def _challenge(self, message: Jws, caller: Caller, rest: str, base: str) -> tuple[int, dict[str, str], Json]:
        with transaction(self._engine) as connection:
            row = store.get(connection, store.CHALLENGES, id=rest)
            if row is None:
                raise NotFound("LM1419", what="challenge")
            held = self._row(connection, store.AUTHORIZATIONS, row["authorization"], caller.id)
            is_due = bool(message.payload) and row["status"] == "pending" and held["status"] == "pending"
            if message.payload and message.body != {}:
                raise malformed("a challenge is answered with an empty object")
            if is_due and parse_time(held["expires"]) > self._clock.now():
                store.change(
                    connection, store.CHALLENGES, rest, status=states.move(states.CHALLENGE, "pending", "respond")
                )
                row = store.get(connection, store.CHALLENGES, id=rest)
                assert row is not None
        if is_due:
            self.wake()
        links = {"Link": f'<{base}/acme/authz/{held["id"]}>;rel="up"', **waiting(row["status"])}
        return 200, links, challenge_json(row, base)

    def due(self) -> list[Task]:
        """The proofs to look for, those among them that a crash interrupted."""
        with transaction(self._engine) as connection:
            found = []
            for row in store.every(connection, store.CHALLENGES, status="processing"):
                held = store.get(connection, store.AUTHORIZATIONS, id=row["authorization"])
                account = held and store.get(connection, store.ACCOUNTS, id=held["account"])
                if held is None or account is None:
                    continue
                expected = f"{row['token']}.{account['thumbprint']}"
                found.append(
                    Task(
                        id=row["id"],
                        type=row["type"],
                        kind=held["type"],
                        value=held["value"],
                        token=row["token"],
                        expected=expected,
                    )
                )
        return found

    def judge(self, challenge: str, problem: Problem | None) -> None:
        """Take what a validator found: the challenge, its authorization and the orders that hang on it move on."""
        now = self._clock.now()
        event = "refused" if problem else "proven"
        with transaction(self._engine) as connection:
            row = store.get(connection, store.CHALLENGES, id=challenge)
            held = row and store.get(connection, store.AUTHORIZATIONS, id=row["authorization"])
            if row is None or held is None or row["status"] != "processing":
                return
            error = json.dumps(errors.document(problem)[0]) if problem else ""
            status = states.move(states.CHALLENGE, row["status"], event)
            store.change(
                connection,
                store.CHALLENGES,
                challenge,
                status=status,
                error=error,
                validated=None if problem else format_time(now),
            )
            if held["status"] != "pending":
                return
            moved = states.move(states.AUTHORIZATION, held["status"], event)
            expires = held["expires"] if problem else format_time(now + PROVEN_LIFE)
            store.change(connection, store.AUTHORIZATIONS, held["id"], status=moved, expires=expires)
            self._move_orders(connection, held, error)

    def _move_orders(self, connection: sa.Connection, held: store.Row, error: str) -> None:
        for order in store.every(connection, store.ORDERS, account=held["account"], status="pending"):
            ids = json.loads(order["authorizations"])
            if held["id"] not in ids:
                continue
            if error:
                moved = states.move(states.ORDER, "pending", "refused")
                store.change(connection, store.ORDERS, order["id"], status=moved, error=error)
                continue
            rows = [store.get(connection, store.AUTHORIZATIONS, id=item) for item in ids]
            if all(row is not None and row["status"] == "valid" for row in rows):
                store.change(
                    connection, store.ORDERS, order["id"], status=states.move(states.ORDER, "pending", "proven")
                )

    # -- certificates

    def _certificate(self, message: Jws, caller: Caller, rest: str, base: str) -> tuple[int, dict[str, str], Json]:
        del base
        no_payload(message)
        with transaction(self._engine) as connection:
            row = self._row(connection, store.CERTIFICATES, rest, caller.id)
        if not row["is_recorded"]:
            raise NotFound("LM1419", what="certificate")
        return 200, {}, self.authority.chain_pem(bytes(row["certificate"]))

    def _revoke(self, message: Jws, caller: Caller, rest: str, base: str) -> tuple[int, dict[str, str], Json]:
        del rest, base
        asked = message.body
        der = jws.decode(asked.get("certificate"), "certificate")
        reason = asked.get("reason", 0)
        if type(reason) is not int or reason not in profile.REASONS:
            raise Invalid("LM1411", known=", ".join(str(found) for found in profile.REASONS))
        with transaction(self._engine) as connection:
            row = self._by_der(connection, der)
            if caller.row is not None:
                allowed = row["account"] == caller.id or self._holds_all(connection, caller.id, row)
            else:
                # the certificate's own key may revoke it
                found = x509.load_der_x509_certificate(der).public_key()
                allowed = csr.fingerprint(found) == caller.fingerprint  # type: ignore[arg-type]  # of a kind we issue for
            if not allowed:
                raise Forbidden("LM1403", reason="neither the account nor the key is this certificate's")
        self.revoke(row["serial"], reason=reason, actor=f"acme:{caller.id}")
        return 200, {}, None

    def _by_der(self, connection: sa.Connection, der: bytes) -> store.Row:
        try:
            serial = x509.load_der_x509_certificate(der).serial_number
        except UNREADABLE as err:
            raise malformed("`certificate` is no certificate") from err
        row = store.get(connection, store.CERTIFICATES, serial=f"{serial:x}")
        if row is None or bytes(row["certificate"]) != der:
            raise NotFound("LM1419", what="certificate")
        return row

    def _holds_all(self, connection: sa.Connection, account: str, row: store.Row) -> bool:
        now = self._clock.now()
        return all(
            store.valid_authorization(connection, account, kind, value, now) is not None
            for kind, value in json.loads(row["names"])
        )

    def revoke(self, serial: str, *, reason: int, actor: str) -> Json:
        """Revoke a certificate; the CRL lists it from now on.

        Raises NotFound LM1419, Conflict LM1410.
        """
        now = self._clock.now()
        with transaction(self._engine) as connection:
            row = store.get(connection, store.CERTIFICATES, serial=serial.lower().lstrip("0"))
            if row is None:
                raise NotFound("LM1419", what="certificate")
            if row["revoked"] is not None:
                raise Conflict("LM1410", serial=serial)
            store.change(connection, store.CERTIFICATES, row["id"], revoked=format_time(now), reason=reason)
        self._record("ca", actor, event="acme-revoke", serial=row["serial"], reason=reason)
        return {"serial": row["serial"], "revoked": format_time(now), "reason": reason}

    def crl(self) -> bytes:
        """The CRL, DER."""
        return self.authority.crl(self._clock.now())

    def renewal(self, name: str) -> tuple[dict[str, str], Json]:
        """When a certificate should be renewed (RFC 9773 §4): the last third of its life, now if it is revoked."""
        key_id, _, serial = name.partition(".")
        own = self.authority.issuing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        number = int.from_bytes(jws.decode(serial, "serial"))
        with transaction(self._engine) as connection:
            row = store.get(connection, store.CERTIFICATES, serial=f"{number:x}")
        if row is None or jws.decode(key_id, "key identifier") != own:
            raise NotFound("LM1419", what="certificate")
        begin, end = parse_time(row["issued"]), parse_time(row["not_after"])
        start = begin + (end - begin) * 2 / 3
        stop = start + (end - begin) / 24
        if row["revoked"] is not None:
            start, stop = begin, begin + dt.timedelta(minutes=1)
        return {"Retry-After": "21600"}, {"suggestedWindow": {"start": format_time(start), "end": format_time(stop)}}

    def _row(self, connection: sa.Connection, table: sa.Table, name: str, account: str) -> store.Row:
        found = store.get(connection, table, id=name)
        # another account's and nobody's are the same answer
        if found is None or found["account"] != account:
            raise NotFound("LM1419", what=table.name.removeprefix("acme_").rstrip("s"))
        return found
