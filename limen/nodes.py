"""The server's nodes: how they join, come back, renew, and are banned. Record first, then answer.

A node that comes back after any time off proves the key of its last SVID, or the one before: no CA that it knew has to
be alive for that. Works on one thread, like `limen.app`, and verifies nothing itself: the verifiers are in
`ca.attestation` and `mesh`.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca import issuance, keys, nodestore
from ca.attestation.nonce import RANDOM_BYTES, Nonces
from ca.attestation.token import JoinToken, check_token, make_token
from ca.authority import NODE_LIFE, Authority
from ca.downstreams import ATTESTOR as DOWNSTREAM
from limen import store
from mesh import nodeproof
from mesh.clock import Clock, format_time
from mesh.database import transaction
from mesh.problems import Forbidden, NotFound, Unavailable
from mesh.x509svid import verify_x509_svid

_AGENT_PATH = "/limen/agent/"
JOBS_KEPT = dt.timedelta(days=7)
Json = Any
Answer = Callable[[], Mapping[str, Json]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A node that proved itself: its name, the hash of the key it did so with, and whether it is a server below."""

    node: str
    spki_sha256: str
    is_downstream: bool


class Nodes:
    """All nodes of a trust domain. ``answer`` gives what every node that is let in is told beside its chain."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        authority: Authority,
        clock: Clock,
        random: Callable[[int], bytes],
        record: Callable[..., None],
        answer: Answer,
    ) -> None:
        self._engine, self._authority, self._clock = engine, authority, clock
        self._random, self._record, self._answer = random, record, answer
        self._domain = authority.trust_domain
        self.nonces = Nonces(random(32))

    # -- letting in

    def nonce(self) -> Json:
        """A nonce to prove something over, and the server's time."""
        now = self._clock.now()
        return {"nonce": self.nonces.make(now, self._random(RANDOM_BYTES)), "time": format_time(now)}

    def make_token(self, reviewers_pin: str, ttl: dt.timedelta) -> JoinToken:
        """Make a single-use join token, and remember it by its hash."""
        made = make_token(
            self._authority.server_key,
            server_pin=self._authority.server_pin,
            reviewers_pin=reviewers_pin,
            trust_domain=str(self._domain),
            now=self._clock.now(),
            ttl=ttl,
            random=self._random(16),
        )
        with transaction(self._engine) as connection:
            nodestore.put_token(connection, made.id, made.expires)
        return made

    def join(self, token: str, spki: bytes) -> Json:
        """Let a node join with a token.

        1. The key can be certified: a malformed one uses no token up.
        2. The token is ours and has not expired; it is used up by this key, and any other key refuses.
        3. The node gets a name of the token's, unless it was banned, and an SVID.
        4. It is recorded; only then the answer goes out.

        Raises Invalid LM1203 for (1), Forbidden LM1208 for (2) and LM1243 for (3).
        """
        now = self._clock.now()
        # (1)
        keys.parse_spki(spki)
        # (2)
        name_of_token = check_token(token, self._authority.server_key.public_key(), now)
        below = self._authority.downstreams.of_token(name_of_token)
        attestor = "join_token" if below is None else DOWNSTREAM
        node, digest = below or f"node-{name_of_token[:12]}", hashlib.sha256(spki).hexdigest()
        with _once_more(), transaction(self._engine) as connection:
            if not nodestore.use_token(connection, name_of_token, digest, now):
                raise Forbidden("LM1208", reason="it was used before")
            # (3)
            self._refuse_banned(nodestore.get_node(connection, node))
            nodestore.admit_node(connection, node, attestor=attestor, facts=(), spki_sha256=digest, now=now)
        # (4)
        return self._let_in(node, spki, now, event="join", attestor=attestor)

    def admit(
        self,
        node: str,
        *,
        attestor: str,
        facts: nodestore.Facts,
        spki: bytes,
        is_fresh: bool,
        proof: tuple[str, int] | None = None,
    ) -> Json:
        """Let a node in that an attestor vouches for; ``is_fresh`` when its agent begins with an empty state.

        A ``proof`` that bears itself (its id, and when it ends) works with the first key that it came with alone.
        Raises Invalid LM1203, Forbidden LM1243 and LM1260.
        """
        now = self._clock.now()
        keys.parse_spki(spki)
        digest = hashlib.sha256(spki).hexdigest()
        with _once_more(), transaction(self._engine) as connection:
            if proof is not None:
                expires = dt.datetime.fromtimestamp(proof[1], tz=dt.UTC)
                if not nodestore.bind_proof(connection, proof[0], digest, expires=expires, now=now):
                    raise Forbidden("LM1260", attestor=attestor)
                # each job is a node of its own, and none of them comes back
                nodestore.forget_nodes(connection, attestor, now - JOBS_KEPT)
            known = nodestore.get_node(connection, node)
            for found in (known, *nodestore.of_machine(connection, facts, are_banned=True)):
                self._refuse_banned(found)
            if known is not None and known.attestor == DOWNSTREAM:
                # no attestor takes the place of a server below that people allowed by name
                raise Forbidden("LM1629", name=node)
            nodestore.admit_node(
                connection,
                node,
                attestor=attestor,
                facts=facts,
                spki_sha256=digest,
                now=now,
            )
            if is_fresh:
                # a machine that was set up again signs its batches with a new key and counts them from one
                store.forget_progress(connection, node)
        return self._let_in(node, spki, now, event="attest", attestor=attestor, fresh=is_fresh)

    def readmit(self, node: str, *, nonce: str, spki: bytes, key: bytes, signature: bytes) -> Json:
        """Let a node come back that holds the key of its last SVID, or of the one before.

        1. The nonce is ours, not expired, and used up by this.
        2. The node is known and not banned, and the key is its present or its previous one.
        3. The key signed the statement over purpose, server, nonce, node and new key.
        4. The new key takes the present one's place, the proven one stays as the previous one.

        Raises Forbidden LM1240, LM1242 and LM1243, Invalid LM1203.
        """
        now = self._clock.now()
        # (1)
        self.nonces.use(nonce, now)
        keys.parse_spki(spki)
        digest = hashlib.sha256(key).hexdigest()
        with transaction(self._engine) as connection:
            # (2)
            found = nodestore.get_node(connection, node)
            if found is None or digest not in {found.spki_sha256, found.previous_sha256}:
                raise Forbidden("LM1242", node=node[:80], reason="that key is not known")
            # (3)
            data = nodeproof.statement(
                "readmit", server_pin=self._authority.server_pin, nonce=nonce, name=node, spki=spki
            )
            if not nodeproof.is_signed(keys.parse_spki(key), signature, data):
                raise Forbidden("LM1242", node=node[:80], reason="the signature is not that key's")
            self._refuse_banned(found)
            # (4)
            nodestore.renew_node(connection, node, proven=digest, spki_sha256=hashlib.sha256(spki).hexdigest(), now=now)
        return self._let_in(node, spki, now, event="readmit")

    def _let_in(self, node: str, spki: bytes, now: dt.datetime, **fields: object) -> Json:
        issued = issuance.issue_node(self._authority, name=node, spki=spki, now=now)
        self._record(
            "agent",
            node,
            serial=f"{issued.serial:x}",
            sha256=issued.sha256,
            not_after=format_time(issued.not_after),
            **fields,
        )
        return {
            "chain": [base64.b64encode(der).decode() for der in issued.chain],
            "bundle": self._authority.bundle.to_json().decode(),
            "trust_domain": str(self._domain),
            "facts": [list(pair) for pair in self.facts_of(node)],
            "time": format_time(self._clock.now()),
            **self._answer(),
        }

    # -- those who are in

    def authenticate(self, chain: Sequence[bytes]) -> Peer:
        """Whose chain a peer proved to hold.

        What another server of the trust domain signed names no node of ours.

        Raises Invalid as the verifier does, Forbidden LM5230 for an identity that is no node's of ours, LM1243.
        """
        verified = verify_x509_svid(chain, {self._domain: self._authority.own_bundle}, self._clock.now())
        path = verified.spiffe_id.path
        with transaction(self._engine) as connection:
            found = nodestore.get_node(connection, path.removeprefix(_AGENT_PATH))
        if not path.startswith(_AGENT_PATH) or found is None:
            raise Forbidden("LM5230", spiffe_id=str(verified.spiffe_id))
        self._refuse_banned(found)
        key = x509.load_der_x509_certificate(verified.leaf_der).public_key()
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return Peer(
            node=found.name, spki_sha256=hashlib.sha256(spki).hexdigest(), is_downstream=found.attestor == DOWNSTREAM
        )

    def require(self, node: str) -> None:
        """Check that a node is still one of ours.

        Raises Forbidden LM5230 or LM1243.
        """
        with transaction(self._engine) as connection:
            found = nodestore.get_node(connection, node)
        if found is None:
            raise Forbidden("LM5230", spiffe_id=str(issuance.node_id(self._domain, node)))
        self._refuse_banned(found)

    def renew(self, node: str, spki: bytes, proven: str | None = None) -> tuple[bytes, ...]:
        """Renew a node's SVID; ``proven`` is the hash of the key that it called with."""
        now = self._clock.now()
        keys.parse_spki(spki)
        with transaction(self._engine) as connection:
            found = nodestore.get_node(connection, node)
            if found is None:
                raise Forbidden("LM5230", spiffe_id=str(issuance.node_id(self._domain, node)))
            nodestore.renew_node(
                connection,
                node,
                proven=proven or found.spki_sha256,
                spki_sha256=hashlib.sha256(spki).hexdigest(),
                now=now,
            )
        issued = issuance.issue_node(self._authority, name=node, spki=spki, now=now)
        self._record(
            "issuance",
            node,
            spiffe_id=str(issued.spiffe_id),
            serial=f"{issued.serial:x}",
            sha256=issued.sha256,
        )
        return issued.chain

    def facts_of(self, node: str) -> nodestore.Facts:
        """What is known of a node, whatever its agent says: its name, its attestor, and what that attested."""
        with transaction(self._engine) as connection:
            found = nodestore.get_node(connection, node)
        attested = found.facts if found is not None else ()
        attestor = found.attestor if found is not None else "join_token"
        return (("node:id", node), ("node:attestor", attestor), *attested)

    # -- people

    def living(self) -> Sequence[str]:
        """The names of the nodes whose SVIDs have not ended, banned ones left out."""
        since = self._clock.now() - NODE_LIFE
        with transaction(self._engine) as connection:
            found = nodestore.list_nodes(connection)
        return [item.name for item in found if item.banned is None and (item.renewed or item.joined) > since]

    def list(self) -> Json:
        """All nodes."""
        with transaction(self._engine) as connection:
            found = nodestore.list_nodes(connection)
        return [
            {
                "node": item.name,
                "spiffe_id": str(issuance.node_id(self._domain, item.name)),
                "attestor": item.attestor,
                "joined": format_time(item.joined),
                "renewed": format_time(item.renewed) if item.renewed is not None else None,
                "banned": format_time(item.banned) if item.banned is not None else None,
                "reason": item.ban_reason,
                "facts": [list(pair) for pair in item.facts],
            }
            for item in found
        ]

    def ban(self, node: str, *, reason: str, actor: str) -> Json:
        """Ban a node: it renews nothing, does not come back, and gets no SVIDs; under every name of its machine.

        Raises NotFound LM1244.
        """
        return self._set_ban(node, self._clock.now(), reason, actor)

    def allow(self, node: str, *, actor: str) -> Json:
        """Allow a node again, under every name of its machine; its agent comes back by itself.

        Raises NotFound LM1244.
        """
        return self._set_ban(node, None, "", actor)

    def _set_ban(self, node: str, banned: dt.datetime | None, reason: str, actor: str) -> Json:
        with transaction(self._engine) as connection:
            known = nodestore.get_node(connection, node)
            if known is None:
                raise NotFound("LM1244", node=node[:80])
            also = [found.name for found in nodestore.of_machine(connection, known.facts) if found.name != node]
            for name in (node, *also):
                nodestore.set_ban(connection, name, banned, reason)
        for name in (node, *also):
            self._record("agent", actor, event="ban" if banned is not None else "allow", node=name, reason=reason)
        return {
            "node": node,
            "also": also,
            "banned": format_time(banned) if banned is not None else None,
            "reason": reason,
        }

    def _refuse_banned(self, found: nodestore.Node | None) -> None:
        if found is not None and found.banned is not None:
            raise Forbidden("LM1243", node=found.name, since=format_time(found.banned))


@contextlib.contextmanager
def _once_more() -> Iterator[None]:
    """Another server wrote the same node at the same moment: the agent asks again.

    Raises Unavailable LM1241.
    """
    try:
        yield
    except sa.exc.IntegrityError as err:
        raise Unavailable("LM1241") from err
