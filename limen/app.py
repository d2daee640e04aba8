"""The composition root of the server: one object that the doors call, wired from the rooms.

`App` works on one thread (its callers see to that) and holds no rule of its own: the authority issues, the policy
engine judges reviews, the audit log proves. What it adds is the order: record first, then answer.
Longer than most: every door calls it, and each method is one short step between a room and the log.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from audit import log as audit_log
from audit.masking import Masking
from audit.record import records
from ca.acme.authority import AcmeAuthority
from ca.attestation.token import JoinToken
from ca.authority import Authority
from limen import store
from limen.above import Above
from limen.acme.file import AcmeFile
from limen.acme.operators import Operators
from limen.acme.service import Acme
from limen.agents import Agents, Start
from limen.attestation import Attestation
from limen.attestorsfile import AttestorsFile
from limen.authorities import Authorities
from limen.authzen import Authzen, mask_key_of
from limen.byhand import ByHand
from limen.downstreams import Downstreams
from limen.explanation import explained
from limen.exports import Exports
from limen.federations import Federations
from limen.follower import Follower
from limen.ingest import Ingest
from limen.inventory import valid_now
from limen.issuing import Issuing
from limen.learned import Learned
from limen.logins import Logins
from limen.nodes import Nodes
from limen.opabundles import PolicyBundles
from limen.retaining import Retaining
from limen.rulesfile import RulesFile
from limen.serversvid import ServerSvid
from limen.signers import SignerPool
from limen.values import Ask, Endpoint, Issued, IssuedJwt, JwtAsk, State
from mesh.bundle import TrustBundle
from mesh.clock import Clock, format_time
from mesh.database import transaction
from mesh.problems import NotFound
from mesh.ulid import RANDOM_BYTES
from policyengine import dsse, reviewing
from policyengine import store as policy_store
from policyengine.customrules import read_checked
from policyengine.model import PolicySet
from policyengine.review import Activation
from policyengine.snapshot import Snapshot

Json = Any


class App:
    """One server of one trust domain."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        authority: Authority,
        log: audit_log.Log,
        rules: RulesFile,
        attestors: AttestorsFile,
        acme: AcmeAuthority,
        bundle_key: ec.EllipticCurvePrivateKey,
        clock: Clock,
        random: Callable[[int], bytes],
        signers: int = 0,
        masking: Masking | None = None,
        keep: dt.timedelta | None = None,
    ) -> None:
        self._masking = masking or Masking(mask_key_of(bundle_key))
        self.logins = Logins(self._record, clock)
        self._signers = SignerPool(signers)
        authority.sign_by(self._signers)
        self._engine, self._authority, self._log = engine, authority, log
        self._rules, self._clock, self._random = rules, clock, random
        self._domain = authority.trust_domain
        self._agents = Agents()
        self._listeners: list[Callable[[], None]] = []
        self._ingest = Ingest(engine=engine, log=log, trust_domain=str(self._domain), clock=clock, random=random)
        self._sequence = self._rotation = 0
        self._url = self._node_api = ""
        # agents report their endpoints again after a restart: until then nobody forgets the ones that were known
        self._start: Start | None = Start(clock.now())
        with transaction(engine) as connection:
            self._flow_connections = store.count_flows(connection)
        self.nodes = Nodes(
            engine=engine, authority=authority, clock=clock, random=random, record=self._record, answer=self._admission
        )
        self._agents.expect_all(self.nodes.living(), clock.now())
        self.attestation = Attestation(
            nodes=self.nodes, file=attestors, server_pin=authority.server_pin, clock=clock, random=random
        )
        self.attestation.refresh()
        self._rules.refresh()
        self.exports = Exports(attestors.folder, self._record, lambda: self._log.size)
        self.authorities = Authorities(
            engine=engine,
            authority=authority,
            agents=self._agents,
            clock=clock,
            record=self._record,
            changed=self._changed,
            reissue=self._reissue,
        )
        self.downstreams = Downstreams(
            authority=authority,
            agents=self._agents,
            authorities=self.authorities,
            clock=clock,
            record=self._record,
            changed=self._changed,
        )
        self.follower: Follower | None = None
        self._issuing = Issuing(authority=authority, nodes=self.nodes, clock=clock, record=self._record_all)
        self.by_hand = ByHand(authority=authority, clock=clock, record=self._record)
        self.svid = ServerSvid(authority=authority, clock=clock, record=self._record)
        self.federations = Federations(
            engine=engine, own=self.bundle, clock=clock, random=random, record=self._record, changed=self._changed,
            rules=lambda: self._rules.rules, policies=self._active_policies,
        )  # fmt: skip
        self._acme_file = AcmeFile(attestors.folder)
        self.acme = Acme(
            engine=engine, authority=acme, clock=clock, record=self._record, read_config=self._acme_file.read
        )
        self.acme_operators = Operators(engine=engine, acme=self.acme, clock=clock, record=self._record)

        self.authzen = Authzen(
            engine=engine,
            trust=self.bundle,
            identities=lambda: [str(row["spiffe_id"]) for row in self.identities()],
            clock=clock,
            record=self._record_all,
            mask_key=mask_key_of(bundle_key),
            logins=self.logins,
        )
        self.policy_bundles = PolicyBundles(
            key=bundle_key, active=self._active, trust=self.bundle, clock=clock, logins=self.logins
        )
        self.learned = Learned(engine)
        self.retaining = Retaining(log, clock=clock, random=random, record=self._record, keep=keep)

    def close(self) -> None:
        """End the signers, close the database and the log."""
        self._signers.close()
        self._log.close()
        self._engine.dispose()

    def locate(self, *, url: str, node_api: str) -> None:
        """Say where this server's doors are."""
        self._url, self._node_api = url, node_api

    def use_jwt_issuer(self, url: str) -> None:
        """Have JWT-SVIDs name an OIDC issuer."""
        self._authority.jwt_issuer = url

    def follow(self, above: Above) -> None:
        """Follow a server above, of the same trust domain."""
        self.follower = Follower(
            above=above,
            authority=self._authority,
            authorities=self.authorities,
            agents=self._agents,
            clock=self._clock,
            reissue=self._reissue,
        )

    # -- keys that the doors need

    def server_pem(self) -> tuple[bytes, bytes]:
        """The pinned server key and certificate, PEM, for memory only."""
        key = self._authority.server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return key, _pem([self._authority.server_certificate])

    def roots_pem(self) -> bytes:
        """The trust domain's authorities, PEM."""
        return _pem(self._authority.bundle.x509_authorities)

    def time(self) -> str:
        """The time here; from any thread."""
        return format_time(self._clock.now())

    # -- changes

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a listener after every change of what agents watch; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _changed(self) -> None:
        self._sequence += 1
        for listener in list(self._listeners):
            listener()

    def tick(self) -> None:
        """Once in a while: see a changed identities.yaml or attestors.yaml, renew the server's own SVID."""
        self._refresh_rules()
        if self.attestation.refresh():
            self._record("policy", "server", event="attestors", attestors=self.attestation.list())
        self.exports.refresh()
        self.svid.renew()
        if self._agents.forget(self._clock.now()):
            self._changed()
        self.authorities.step()
        if self._start is not None and self._start.is_over(self._agents, self._clock.now()):
            self._start = None
            self._changed()
        self.acme.tick()
        self.retaining.step()
        self._signers.rest()

    def _refresh_rules(self) -> None:
        if self._rules.refresh():
            digest = self._rules.sha256
            self._record("policy", "server", event="identity-rules", sha256=digest, rules=len(self._rules.rules.rules))
            self._changed()

    def _record(self, kind: str, actor: str, **fields: object) -> None:
        """Put a record into the log; durable when it returns."""
        self._record_all(kind, actor, [fields])

    def _record_all(self, kind: str, actor: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Put records into the log with one write; durable when it returns."""
        if rows:
            now, random = self._clock.now(), self._random(RANDOM_BYTES * len(rows))
            rows = [cast("Mapping[str, object]", self._masking.mask(row)) for row in rows]
            source = f"server:{self._domain}"
            self._log.append_made(records(kind, rows, now=now, random=random, source=source, actor=actor))

    def record_reviewers(self) -> None:
        """Record the first reviewer set: whose keys, and how many of them, approve from now on."""
        found = self.reviewers()
        keys = [{"name": row["name"], "key_id": row["key"], "teams": row["teams"]} for row in found["reviewers"]]
        about = {name: found[name] for name in ("hash", "version", "threshold")}
        self._record("reviewer-key", "server", event="begin", **about, reviewers=keys)

    # -- identity

    def bundle(self) -> TrustBundle:
        """The trust bundle."""
        return self._authority.bundle

    def bundle_documents(self) -> Json:
        """The trust bundle as a SPIFFE document and as PEM."""
        return {"spiffe": self.bundle().to_json().decode(), "pem": self.roots_pem().decode()}

    def create_token(self, *, ttl_s: int, actor: str) -> Json:
        """Make a single-use join token."""
        made = self._make_token(ttl_s)
        self._record("ca", actor, event="token", token_id=made.id, expires=format_time(made.expires))
        return self._handed(made)

    def allow_downstream(self, name: str, *, life_s: int, ttl_s: int, actor: str) -> Json:
        """Let a server be one below, by a single-use token that it joins with."""
        made = self._make_token(ttl_s)
        found = self.downstreams.allow(name, token=made.id, life_s=life_s, expires=made.expires, actor=actor)
        return {**self._handed(made), **found}

    def _handed(self, made: JoinToken) -> Json:
        return {"token": made.text, "expires": format_time(made.expires), "url": self._url}

    def _make_token(self, ttl_s: int) -> JoinToken:
        with transaction(self._engine) as connection:
            reviewers = reviewing.judges_of(connection).hash
        return self.nodes.make_token(reviewers, dt.timedelta(seconds=ttl_s))

    def _admission(self) -> Mapping[str, Json]:
        """What a node that is let in is told beside its own chain."""
        with transaction(self._engine) as connection:
            reviewers = [json.dumps(item.to_json()) for item in reviewing.chain_of(connection)[1]]
        return {"node_api": self._node_api, "reviewers": reviewers}

    def join(self, token: str, spki: bytes) -> Json:
        """Let a node join with a token."""
        return self.nodes.join(token, spki)

    def authenticate_node(self, chain: Sequence[bytes]) -> str:
        """The name of the node whose chain a peer proved to hold."""
        return self.nodes.authenticate(chain).node

    def renew_node(self, node: str, spki: bytes, proven: str | None = None) -> tuple[bytes, ...]:
        """Renew a node's SVID."""
        return self.nodes.renew(node, spki, proven)

    def pins(self) -> Json:
        """What an agent pins that attests itself without a join token."""
        with transaction(self._engine) as connection:
            reviewers = reviewing.judges_of(connection).hash
        return {"server": self._authority.server_pin, "reviewers": reviewers, "url": self._url}

    def ban_node(self, node: str, *, reason: str, actor: str) -> Json:
        """Ban a node; its watches end now."""
        found = self.nodes.ban(node, reason=reason, actor=actor)
        for name in (node, *found["also"]):
            self._agents.dismiss(name)
        self._changed()
        return found

    def issue(self, node: str, asks: Sequence[Ask]) -> list[Issued]:
        """Issue SVIDs for what a node attested; one record per certificate."""
        self._refresh_rules()
        return self._issuing.issue(node, asks, self._rules.rules)

    def issue_jwts(self, node: str, asks: Sequence[JwtAsk]) -> list[IssuedJwt]:
        """Issue JWT-SVIDs for what a node attested; one record per token."""
        self._refresh_rules()
        return self._issuing.issue_jwts(node, asks, self._rules.rules)

    def identities(self) -> Json:
        """Every SVID that is valid now, with what the rule of its name says today."""
        rules = {rule.id: rule for rule in self._rules.rules.rules}
        with transaction(self._engine) as connection:
            return valid_now(connection, self._authority.slots, rules, self._clock.now())

    def endpoints(self) -> Json:
        """Where the workloads of agents that count are reachable; ``port`` is the one that policies name."""
        return [dataclasses.asdict(item) for item in self._agents.endpoints()]

    def files(self) -> Json:
        """How the files stand that take effect when they are saved."""
        self._refresh_rules()
        return [
            self._rules.report(),
            self.attestation.report(),
            self._acme_file.report(),
            *self.exports.reports(),
        ]

    def explain_identity(self, pairs: Sequence[tuple[str, str]]) -> Json:
        """What the rules say of facts, rule by rule."""
        self._refresh_rules()
        return explained(self._rules.rules, self._domain, pairs)

    def rotate(self, *, actor: str) -> Json:
        """Have every agent renew every workload's SVID now."""
        self._record("ca", actor, event="rotate", rotation=self._rotation + 1)
        self._reissue()
        return {"rotation": self._rotation}

    def _reissue(self) -> None:
        self._rotation += 1
        self._changed()

    # -- agents

    def state(self, since: int) -> State:
        """What agents watch; the releases after the epoch that the agent has. One that has none gets the newest."""
        with transaction(self._engine) as connection:
            activations = policy_store.activations_after(connection, since)
            if since == 0:
                activations = activations[-1:]
            releases = tuple(
                (
                    json.dumps(item.to_json()).encode(),
                    policy_store.get_snapshot(connection, item.snapshot).to_bytes(),
                )
                for item in activations
            )
            candidate = reviewing.candidate(connection)
            reviewers = tuple(json.dumps(item.to_json()).encode() for item in reviewing.chain_of(connection)[1])
        return State(
            sequence=self._sequence,
            bundle=self.bundle().to_json(),
            trust=self._authority.signed_trust,
            is_settling=self._start is not None,
            releases=releases,
            epoch=activations[-1].epoch if activations else since,
            candidate=candidate.to_bytes() if candidate is not None else b"",
            reviewers=reviewers,
            endpoints=(*self._agents.endpoints(), *self.federations.endpoints()),
            federated=self.federations.bundles(),
            rotation=self._rotation,
            tainted=self.authorities.tainted(),
            identity_rules=self._rules.version,
        )

    def watch_begins(self, node: str) -> None:
        """A node's watch began: its listeners count."""
        self._agents.begin(node)
        if self._start is not None:
            self._start.returned(self._clock.now())
        self._changed()

    def watch_ends(self, node: str) -> None:
        """A node's watch ended; without any, its listeners are not handed out for long."""
        self._agents.end(node, self._clock.now())
        self._changed()

    def report_endpoints(self, node: str, endpoints: tuple[Endpoint, ...]) -> None:
        """Take a node's listeners, in full."""
        if self._agents.listens(node, endpoints):
            self._changed()

    def report_status(
        self,
        node: str,
        *,
        epoch: int,
        snapshot: str,
        sidecars: int,
        handshakes: int,
        refusals: tuple[tuple[str, str], ...],
        trust: int = 0,
        rejected: tuple[str, ...] = (),
        newer_trust: bytes = b"",
    ) -> bool:
        """Remember what a node applies; refusals are recorded once. Whether it should show its newer trust state."""
        agent = self._agents.of(node)
        for code, detail in refusals:
            if (code, detail) not in agent.refusals:
                self._record("agent", node, event="refusal", code=code, detail=detail[:1000])
        agent.epoch, agent.snapshot, agent.refusals = epoch, snapshot, refusals
        agent.sidecars, agent.handshakes = sidecars, handshakes
        return self.authorities.reported(node, trust=trust, rejected=rejected, newer=newer_trust)

    def push_records(self, node: str, *, sequence: int, records: Sequence[bytes], signature: bytes, key: bytes) -> int:
        """Put an agent's batch into the log."""
        return self._ingest.push(node, sequence=sequence, records=records, signature=signature, key=key)

    def push_flows(self, node: str, rows: Sequence[bytes]) -> None:
        """Keep an agent's flows."""
        with transaction(self._engine) as connection:
            self._flow_connections += store.put_flows(connection, node, rows)

    def flows(self, *, limit: int) -> Json:
        """The newest flows in their public form, oldest first."""
        with transaction(self._engine) as connection:
            return store.flows(connection, limit)

    def records(self, *, after: int, kind: str | None, limit: int) -> Json:
        """Records of the log after an index, of one kind or all, with their indexes."""
        found = []
        for index, data in self._log.records(after):
            row = json.loads(data)
            if kind is None or row["kind"] == kind:
                found.append({"index": index, **row})
                if len(found) >= limit:
                    break
        return found

    # -- reviews

    def active_snapshot(self) -> Json:
        """The active snapshot's hash and content, None before the first activation."""
        found = self._active()
        return None if found is None else {"hash": found.hash, "snapshot": found.to_json()}

    def candidate_snapshot(self) -> Json:
        """The hash and content of the snapshot that is decided beside the active one, None without one."""
        with transaction(self._engine) as connection:
            found = reviewing.candidate(connection)
        return None if found is None else {"hash": found.hash, "snapshot": found.to_json()}

    def snapshot(self, name: str) -> Json:
        """A snapshot by its hash."""
        with transaction(self._engine) as connection:
            found = policy_store.get_snapshot(connection, name)
        return {"hash": found.hash, "snapshot": found.to_json()}

    def reviewers(self) -> Json:
        """The reviewer set in force."""
        with transaction(self._engine) as connection:
            return reviewing.describe_reviewers(connection)

    def reviews(self) -> Json:
        """All reviews, newest first."""
        with transaction(self._engine) as connection:
            return [reviewing.describe(connection, item) for item in policy_store.list_reviews(connection)]

    def review(self, review: str) -> Json:
        """One review."""
        with transaction(self._engine) as connection:
            return reviewing.describe(connection, policy_store.get_review(connection, review))

    def propose(self, body: dict[str, Any], *, actor: str) -> Json:
        """Propose a change; the identity rules of now go into the snapshot."""
        policies = read_checked(body["policies"])
        with transaction(self._engine) as connection:
            found = reviewing.propose(
                connection,
                trust_domain=self._domain,
                policies=policies,
                identity_rules=self._rules.text,
                proposer=body.get("proposer"),
                predecessor=body.get("predecessor"),
                note=str(body.get("note", "")),
                now=self._clock.now(),
                random=self._random(10),
            )
            shown = reviewing.describe(connection, found)
        self._record("review", actor, event="propose", review=found.id, snapshot=found.snapshot)
        return shown

    def approve(self, review: str, envelope: dict[str, object], *, actor: str) -> Json:
        """Take a signed approval."""
        with transaction(self._engine) as connection:
            found = reviewing.approve(connection, review, dsse.envelope_from_json(envelope), now=self._clock.now())
            shown = reviewing.describe(connection, found)
        by = {
            "key_ids": [item.key_id for item in found.approvals],
            "reviewers": [item.name for item in found.approvals],
        }
        self._record("review", actor, event="approve", review=review, snapshot=found.snapshot, **by)
        return shown

    def move_review(self, review: str, event: str, *, actor: str) -> Json:
        """Reject, shadow, activate or roll back.

        Raises NotFound LM5234 for anything else, and what the review's own rules refuse.
        """
        moves: dict[str, Callable[..., object]] = {
            "reject": reviewing.reject,
            "shadow": reviewing.shadow,
            "activate": reviewing.activate,
            "rollback": reviewing.rollback,
        }
        move = moves.get(event)
        if move is None:
            raise NotFound("LM5234", event=event)
        with transaction(self._engine) as connection:
            found = move(connection, review, now=self._clock.now())
            shown = reviewing.describe(connection, policy_store.get_review(connection, review))
        epoch = found.epoch if isinstance(found, Activation) else None
        kind = "snapshot" if isinstance(found, Activation) else "review"
        self._record(kind, actor, event=event, review=review, snapshot=shown["snapshot"], epoch=epoch)
        self._changed()
        return shown

    def _active(self) -> Snapshot | None:
        with transaction(self._engine) as connection:
            found = reviewing.active(connection)
        return None if found is None else found[1]

    def _active_policies(self) -> PolicySet | None:
        found = self._active()
        return None if found is None else found.policies

    # -- looking

    def status(self) -> Json:
        """What runs and what it applies."""
        with transaction(self._engine) as connection:
            active = reviewing.active(connection)
            candidate = reviewing.candidate(connection)
        epoch = active[0].epoch if active is not None else 0
        return {
            "trust_domain": str(self._domain),
            "snapshot": active[1].hash if active is not None else None,
            "epoch": epoch,
            "candidate": candidate.hash if candidate is not None else None,
            "records": self._log.size,
            "flow_connections": self._flow_connections,
            "handshakes": sum(item.handshakes for item in self._agents.all()),
            "services": _services(active[1]) if active is not None else [],
            "agents": self._agents.show(epoch),
        }


def _services(snapshot: Snapshot) -> list[dict[str, object]]:
    return [
        {
            "name": item.name,
            "owner": item.owner,
            "mode": str(item.mode),
            "until": format_time(item.until) if item.until is not None else None,
        }
        for item in snapshot.policies.services
    ]


def _pem(certificates: Sequence[bytes]) -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in certificates
    )
