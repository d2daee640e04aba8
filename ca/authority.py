"""The authority of one trust domain, as it is loaded: what signs now, what is trusted, and the server's pinned key.

Reads from top to bottom: load the slots, then sign. How slots come and go is `ca.succession`'s; a root's key signs
issuing certificates and nothing else, and the server's key is no part of the trust domain, so that an agent whose
every known CA has expired can still tell its server. Who may have which identity is decided in `ca.issuance`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec, mldsa

from ca import keys, mint, slotstore, store
from ca.downstreams import Downstreams
from ca.following import Following
from ca.jwtmint import JwtSigner, jwt_claims, jwt_signer
from ca.keys import KeyAlgorithm
from ca.keysource import DatabaseKeys, KeySource
from ca.leaftemplate import LeafTemplate
from ca.mint import Issuer
from ca.owncheck import OwnCheck
from ca.rotation import AuthorityState, Kind, Slot, find
from ca.signing import OwnSigner, Signers
from ca.succession import Stand, Succession
from ca.trustmaking import chain_above, fingerprint
from ca.upstream.chain import Upstream
from ca.upstream.request import UpstreamRequests
from mesh.bundle import TrustBundle
from mesh.database import migrate, transaction
from mesh.problems import Conflict, NotFound
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.truststate import TrustState, parse_payload
from mesh.wrapping import WrappingKey
from mesh.x509svid import split_chain

NODE_LIFE = dt.timedelta(hours=1)
SERVER_LIFE = dt.timedelta(days=3650)
SERVER = "server"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)
_RANDOM_BYTES = 10


def new_serial(random: Callable[[int], bytes]) -> int:
    """A positive serial number of 127 random bits (RFC 5280 §4.1.2.2 allows 20 bytes)."""
    return int.from_bytes(random(16), "big") >> 1 or 1


def svid_serials(now: dt.datetime, random: Callable[[int], bytes], count: int) -> list[int]:
    """Positive serial numbers of SVIDs: the time in milliseconds, then 80 random bits.

    What is issued together stands together in the table of serial numbers: a batch changes few of its pages.
    """
    moment = max((now - _EPOCH) // _MILLISECOND, 0) << 80
    data = random(_RANDOM_BYTES * count)
    places = range(0, _RANDOM_BYTES * count, _RANDOM_BYTES)
    return [moment | int.from_bytes(data[at : at + _RANDOM_BYTES], "big") or 1 for at in places]


class SvidOrder(NamedTuple):
    """A certificate to sign; ``spki`` is the public key in canonical DER, as `ca.keys.parse_leaf_key` took it.

    There is one for every SVID, and no other kind of value is made as quickly.
    """

    spiffe_id: SpiffeId
    spki: bytes
    life: dt.timedelta
    node: str
    rule: str = ""
    dns_names: tuple[str, ...] = ()


class SignedSvid(NamedTuple):
    """An X.509-SVID's chain, leaf first, and the leaf's hash, hexadecimal."""

    chain: tuple[bytes, ...]
    sha256: str


class JwtOrder(NamedTuple):
    """A JWT-SVID to sign."""

    spiffe_id: SpiffeId
    audiences: tuple[str, ...]
    life: dt.timedelta
    node: str
    rule: str = ""


class SignedJwt(NamedTuple):
    """A JWT-SVID, its id, when it ends, and its hash, hexadecimal."""

    token: str
    jti: str
    not_after: dt.datetime
    sha256: str

    def __repr__(self) -> str:
        """Whoever has the token is its subject: it is not shown."""
        return f"SignedJwt(jti={self.jti!r}, not_after={self.not_after!r})"


class Authority:
    """One trust domain's keys and chains, loaded into this process; `load` reads them again after a change."""

    def __init__(self, stand: Stand, wrapping: WrappingKey) -> None:
        self.trust_domain = stand.trust_domain
        # named by JWT-SVIDs as `iss` when this trust domain is an OIDC issuer
        self.jwt_issuer: str | None = None
        self.own_check = OwnCheck(stand.trust_domain)
        self._signers: Signers = OwnSigner()
        self._engine, self._random, self._wrapping = stand.engine, stand.random, wrapping
        self._upstream = stand.upstream
        self.succession = Succession(stand, self.load)
        self.downstreams = Downstreams(stand, self.load)
        self.following = Following(stand, self.succession, self.load)
        self.load()

    def load(self) -> None:
        """Read slots, trust state and the keys that sign now. Raises NotFound LM1600, Invalid LM1201."""
        with transaction(self._engine) as connection:
            self._slots = tuple(slotstore.slots(connection))
            trust = slotstore.get_trust(connection)
            server = store.get_authority(connection, SERVER)
            sealed = store.get_key(connection, SERVER)
        assert trust is not None
        assert server is not None
        assert sealed is not None
        self._trust = parse_payload(trust[1], self.trust_domain)
        self._server_certificate = server[1]
        self._server_key = keys.key_from_der(self._wrapping.unwrap(SERVER, sealed))
        issuing, jwt = self.active(Kind.ISSUING), self.active(Kind.JWT)
        self._issuer = self.succession.issuer(issuing)
        self._template = LeafTemplate.of(self._issuer)
        self._signers.use(keys.SigningKey(self._issuer.key))
        signs = self.succession.private_key(jwt)
        assert not isinstance(signs, mldsa.MLDSA65PrivateKey)
        self._jwt = jwt_signer(jwt.id, signs, not_after=jwt.not_after)
        self._intermediates = chain_above(self._slots, issuing)
        self._signed_trust = self._trust.sign(self._server_key)

    def waiting_keys(self) -> frozenset[str]:
        """The keys of requests that an upstream has not answered yet."""
        return frozenset() if self._upstream is None else self._upstream.names()

    # -- what is

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every authority that is not gone for good, oldest first."""
        return self._slots

    def active(self, kind: Kind) -> Slot:
        """The authority of a kind that signs now: there is always exactly one."""
        (found,) = find(self._slots, kind, AuthorityState.ACTIVE)
        return found

    @property
    def trust(self) -> TrustState:
        """What agents are to hold."""
        return self._trust

    @property
    def signed_trust(self) -> bytes:
        """The same, signed with the server's pinned key."""
        return self._signed_trust

    @property
    def bundle(self) -> TrustBundle:
        """The trust bundle with its number, and what our own verifiers need beside it."""
        return self._trust.bundle

    @property
    def own_bundle(self) -> TrustBundle:
        """The trust bundle, narrowed to what this server itself signed: its nodes are nobody else's to name."""
        own = frozenset(
            fingerprint(der)
            for slot in self._slots
            if slot.is_trusted and slot.kind in {Kind.ROOT, Kind.ISSUING}
            for der in slot.certificates[slot.kind is Kind.ROOT :]
        )
        pins = own if self.bundle.intermediates is None else own & self.bundle.intermediates
        return dataclasses.replace(self.bundle, intermediates=pins)

    @property
    def issuer(self) -> Issuer:
        """The issuing certificate that signs now, with its key."""
        return self._issuer

    @property
    def intermediates(self) -> tuple[bytes, ...]:
        """What stands behind a leaf in a chain, DER."""
        return self._intermediates

    @property
    def jwt_key(self) -> JwtSigner:
        """The JWT authority that signs now."""
        return self._jwt

    @property
    def server_key(self) -> ec.EllipticCurvePrivateKey:
        """The server's long-lived key: TLS, and signatures on join tokens and trust states."""
        return self._server_key

    @property
    def server_certificate(self) -> bytes:
        """The server's self-signed certificate, DER."""
        return self._server_certificate

    @property
    def server_pin(self) -> str:
        """The hash that agents pin: ``sha256:`` and the hexadecimal hash of the server key's SPKI."""
        return "sha256:" + hashlib.sha256(keys.spki_der(self._server_key.public_key())).hexdigest()

    # -- signing

    def sign_by(self, signers: Signers) -> None:
        """Have certificates signed by these signers, with the key of now."""
        signers.use(keys.SigningKey(self._issuer.key))
        self._signers = signers

    def sign_many(self, orders: Sequence[SvidOrder], *, now: dt.datetime) -> list[SignedSvid]:
        """Sign X.509-SVIDs and record them.

        1. A fresh serial number each.
        2. The certificates are minted, in memory.
        3. They are recorded durably, all or none; a serial number that was ever used refuses.
        4. Only then are they given out.

        Raises Invalid LM1204 and LM1214, Conflict LM1205.
        """
        slot, until = self.active(Kind.ISSUING).id, self._issuer.certificate.not_valid_after_utc
        # (1)
        serials = svid_serials(now, self._random, len(orders))
        # (2)
        leaves = self._mint_all(orders, serials, now)
        ends = {life: min(now + life, until) for life in {order.life for order in orders}}
        rows = [
            store.Issuance(
                f"{serial:x}",
                str(order.spiffe_id),
                order.node,
                order.rule,
                now,
                ends[order.life],
                slot,
                "x509",
                hashlib.sha256(leaf).hexdigest(),
            )
            for order, serial, leaf in zip(orders, serials, leaves, strict=True)
        ]
        # (3)
        if rows:
            with transaction(self._engine) as connection:
                store.record_issuances(connection, rows)
        # (4)
        return [SignedSvid((leaf, *self._intermediates), row.sha256) for leaf, row in zip(leaves, rows, strict=True)]

    def _mint_all(self, orders: Sequence[SvidOrder], serials: Sequence[int], now: dt.datetime) -> list[bytes]:
        """Leaves from the issuer's template, signed together; by the builder where the template does not fit."""
        template = self._template
        if template is None:
            return [self._build(order, serial, now) for order, serial in zip(orders, serials, strict=True)]
        parts = [
            template.tbs(
                order.spiffe_id, order.spki, serial=serial, now=now, life=order.life, dns_names=order.dns_names
            )
            for order, serial in zip(orders, serials, strict=True)
        ]
        fitting = [part for part in parts if part is not None]
        signatures = iter(self._signers.sign(fitting) if fitting else ())
        leaves, vouched = [], []
        for part, order, serial in zip(parts, orders, serials, strict=True):
            if part is None:
                leaves.append(self._build(order, serial, now))
                continue
            value, is_verified = next(signatures)
            leaf = template.certificate(part, value)
            leaves.append(leaf)
            if is_verified:
                vouched.append(leaf)
        self.own_check.vouch(vouched)
        return leaves

    def _build(self, order: SvidOrder, serial: int, now: dt.datetime) -> bytes:
        return mint.mint_svid(
            order.spiffe_id,
            keys.parse_leaf_key(order.spki, frozenset(KeyAlgorithm)),
            self._issuer,
            serial=serial,
            now=now,
            life=order.life,
            dns_names=order.dns_names,
        )

    def sign(
        self,
        spiffe_id: SpiffeId,
        public_key: keys.PublicKey,
        *,
        now: dt.datetime,
        life: dt.timedelta,
        node: str,
        rule: str = "",
        dns_names: tuple[str, ...] = (),
    ) -> tuple[bytes, ...]:
        """Sign one X.509-SVID, as `sign_many` does."""
        order = SvidOrder(
            spiffe_id=spiffe_id, spki=keys.spki_der(public_key), life=life, node=node, rule=rule, dns_names=dns_names
        )
        return self.sign_many([order], now=now)[0].chain

    def sign_jwts(self, orders: Sequence[JwtOrder], *, now: dt.datetime) -> list[SignedJwt]:
        """Sign JWT-SVIDs and record them, in the steps of `sign_many`.

        Raises Invalid LM1204 and LM1270, Conflict LM1205.
        """
        signer, issuer = self._jwt, self.jwt_issuer
        # (1)
        ids = [f"{serial:032x}" for serial in svid_serials(now, self._random, len(orders))]
        # (2)
        told = [
            jwt_claims(
                order.spiffe_id, order.audiences, signer.not_after, now=now, life=order.life, jti=jti, issuer=issuer
            )
            for order, jti in zip(orders, ids, strict=True)
        ]
        tokens = signer.sign_texts([claims for claims, _ in told])
        made = [
            SignedJwt(token, jti, end, hashlib.sha256(token.encode("ascii")).hexdigest())
            for token, jti, (_, end) in zip(tokens, ids, told, strict=True)
        ]
        rows = [
            store.Issuance(jti, str(order.spiffe_id), order.node, order.rule, now, end, signer.kid, "jwt", digest)
            for order, (_, jti, end, digest) in zip(orders, made, strict=True)
        ]
        # (3)
        if rows:
            with transaction(self._engine) as connection:
                store.record_issuances(connection, rows)
        # (4)
        return made

    def sign_jwt(
        self,
        spiffe_id: SpiffeId,
        audiences: Sequence[str],
        *,
        now: dt.datetime,
        life: dt.timedelta,
        node: str,
        rule: str = "",
    ) -> SignedJwt:
        """Sign one JWT-SVID, as `sign_jwts` does."""
        order = JwtOrder(spiffe_id=spiffe_id, audiences=tuple(audiences), life=life, node=node, rule=rule)
        return self.sign_jwts([order], now=now)[0]


def open_authority(
    engine: sa.Engine,
    wrapping: WrappingKey,
    *,
    trust_domain: TrustDomain,
    now: dt.datetime,
    random: Callable[[int], bytes] = secrets.token_bytes,
    key_source: KeySource | None = None,
    upstream: Upstream | None = None,
    algorithm: KeyAlgorithm = KeyAlgorithm.P256,
) -> Authority:
    """Load the authority of a state, or make it when there is none.

    1. The server's key, which nothing replaces, and the trust domain that the state is for.
    2. The first authorities; in a state of the first version, the ones that it has.
    3. Keys that did not survive a restart get successors at once: what they signed stays valid until it ends.

    Raises Conflict LM1206 when the state is another trust domain's, Invalid LM1201 for a wrong wrapping key, and what
    the upstream and the key source raise.
    """
    migrate(engine, "ca")
    database = DatabaseKeys(engine, wrapping, random)
    source = key_source or database
    requests = None
    if upstream is not None:
        requests = UpstreamRequests(
            engine=engine, keys=source, upstream=upstream, trust_domain=trust_domain, algorithm=algorithm, random=random
        )
    stand = Stand(
        trust_domain=trust_domain,
        engine=engine,
        keys=source,
        root_keys=source if source.is_durable else database,
        random=random,
        algorithm=algorithm,
        upstream=requests,
    )
    # (1)
    _begin_server(engine, wrapping, trust_domain, now, random)
    # (2)
    begun = Succession(stand, lambda: None)
    _take_over_first_version(engine, begun, now)
    begun.begin(now)
    # (3)
    for kind in (Kind.ISSUING, Kind.JWT):
        (active,) = find(begun.slots(), kind, AuthorityState.ACTIVE)
        try:
            begun.private_key(active)
        except NotFound:
            reason = "the key was in the memory of a process that ended"
            for waiting in find(begun.slots(), kind, AuthorityState.PREPARED):
                begun.withdraw(waiting.id, now, actor="server", reason=reason)
            made = begun.prepare(kind, now, actor="server", reason=reason)
            begun.activate(made.id, now, actor="server", reason=reason)
    return Authority(stand, wrapping)


def _begin_server(
    engine: sa.Engine,
    wrapping: WrappingKey,
    trust_domain: TrustDomain,
    now: dt.datetime,
    random: Callable[[int], bytes],
) -> None:
    with transaction(engine) as connection:
        trust = slotstore.get_trust(connection)
        if trust is not None:
            held = json.loads(trust[1])["trust_domain"]
            if held != str(trust_domain):
                raise Conflict("LM1206", held=held, asked=str(trust_domain))
        if store.get_authority(connection, SERVER) is None:
            key = keys.new_key()
            certificate = mint.mint_server(key, serial=new_serial(random), now=now, life=SERVER_LIFE)
            store.put_key(connection, SERVER, wrapping.wrap(SERVER, keys.key_to_der(key), random(12)))
            store.put_authority(connection, SERVER, AuthorityState.ACTIVE, certificate)
        sealed = store.get_key(connection, SERVER)
        assert sealed is not None
        wrapping.unwrap(SERVER, sealed)


def _take_over_first_version(engine: sa.Engine, succession: Succession, now: dt.datetime) -> None:
    """Put the two authorities of a state of the first version into slots, beside a new JWT authority."""
    with transaction(engine) as connection:
        root, issuing = (store.get_authority(connection, name) for name in ("root", "issuing"))
    if root is not None and issuing is not None and not succession.slots():
        succession.take_over(split_chain(root[1])[0], split_chain(issuing[1])[0], now)
