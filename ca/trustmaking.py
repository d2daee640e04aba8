"""What follows from the authorities: the trust state that agents hold, and the chain behind a leaf. Pure.

Nothing is read or kept here: slots, revocations and the keys that sign lists are arguments.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from ca import revocation
from ca.keys import PublicKey
from ca.mint import Issuer
from ca.neighbours import Others
from ca.rotation import AuthorityState, Kind, Slot
from ca.slotstore import Revocation
from mesh import canonicaljson
from mesh.bundle import TrustBundle
from mesh.spiffe import TrustDomain
from mesh.truststate import TrustState

REFRESH_HINT_S = 300
NO_OTHERS = Others()


def make_state(
    trust_domain: TrustDomain,
    slots: Sequence[Slot],
    revocations: Sequence[Revocation],
    *,
    known: Sequence[bytes],
    listers: Mapping[str, Issuer],
    others: Others = NO_OTHERS,
    number: int,
    now: dt.datetime,
) -> TrustState:
    """The trust state of these slots and of what is revoked and would live otherwise.

    1. The roots and JWT authorities of EVERY slot that is trusted are in the bundle.
    2. EVERY certificate that may stand between a leaf and a root is pinned.
    3. A list for EVERY authority some of whose work is revoked: the one that is published (``known``) while it says the
       same and is fresh, else a new one; ``listers`` have the keys.
    4. What other servers of the trust domain add (``others``). Where one is above, its word counts for roots and pins:
       what it trusts no more, nobody below trusts, whatever the slots say.
    """
    trusted = [slot for slot in slots if slot.is_trusted]
    # (2)
    pins = frozenset(
        fingerprint(der)
        for slot in trusted
        if slot.kind is not Kind.JWT
        for der in (slot.certificates[1:] if slot.kind is Kind.ROOT else slot.certificates)
    )
    # (3)
    crls: list[bytes] = []
    for slot in trusted:
        mine = [item for item in revocations if item.authority == slot.id]
        if slot.kind in {Kind.ROOT, Kind.ISSUING} and mine:
            crls.extend(_lists(slot, mine, known, listers.get(slot.id), number, now))
    # (1)
    roots = tuple(slot.certificates[0] for slot in trusted if slot.kind is Kind.ROOT)
    tokens = tuple(slot.certificates[0] for slot in trusted if slot.kind is Kind.JWT)
    # (4)
    pins = pins if others.pins is None else others.pins
    crls.extend(der for der in others.crls if not _is_among(der, crls))
    bundle = TrustBundle(
        trust_domain=trust_domain,
        x509_authorities=roots if others.roots is None else others.roots,
        jwt_authorities=_by_kid((*tokens, *others.jwks)),
        sequence=number,
        refresh_hint=REFRESH_HINT_S,
        intermediates=pins,
        crls=tuple(crls),
    )
    return TrustState(bundle=bundle, revoked=tuple(slot.id for slot in slots if slot.state is AuthorityState.REVOKED))


def _lists(
    slot: Slot,
    mine: Sequence[Revocation],
    known: Sequence[bytes],
    lister: Issuer | None,
    number: int,
    now: dt.datetime,
) -> Sequence[bytes]:
    own = x509.load_der_x509_certificate(slot.certificates[0])
    published = [der for der in known if _names_issuer(x509.load_der_x509_crl(der), own)]
    if lister is None or any(revocation.is_fresh(der, mine, now) for der in published):
        return published
    return [revocation.build_crl(lister, mine, number=number, now=now)]


def _by_kid(jwks: Sequence[bytes]) -> tuple[bytes, ...]:
    """Keys by their ids; of two with one id, the first."""
    found: dict[str, bytes] = {}
    for item in jwks:
        found.setdefault(kid_of(item), item)
    return tuple(found.values())


def kid_of(jwk: bytes) -> str:
    """The id of a key."""
    return str(json.loads(jwk)["kid"])


def _is_among(der: bytes, lists: Sequence[bytes]) -> bool:
    """Whether a list of the same issuer is there: our own are newer than what comes back from a neighbour."""
    issuer = _lister_of(der)
    return any(_lister_of(found) == issuer for found in lists)


def _lister_of(der: bytes) -> bytes | None:
    try:
        found = x509.load_der_x509_crl(der).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return der
    return found.value.key_identifier


def fingerprint(der: bytes) -> str:
    """The hexadecimal SHA-256 of a certificate."""
    return hashlib.sha256(der).hexdigest()


def chain_above(slots: Sequence[Slot], issuing: Slot) -> tuple[bytes, ...]:
    """What stands behind a leaf of an issuing authority.

    Its own chain; and as long as another root is trusted, what leads from its root to older ones, so that whoever
    knows only an older root can follow.
    """
    root = next(slot for slot in slots if slot.id == issuing.parent)
    others = [slot for slot in slots if slot.kind is Kind.ROOT and slot.id != root.id and slot.is_trusted]
    return (*issuing.certificates, *(root.certificates[1:] if others else ()))


def public_jwk(kid: str, key: PublicKey) -> bytes:
    """The JWK of a JWT authority (RFC 7517), canonical JSON, with its `kid` and without `use`."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        found = json.loads(ECAlgorithm.to_jwk(key))
    else:
        assert isinstance(key, rsa.RSAPublicKey)
        found = json.loads(RSAAlgorithm.to_jwk(key))
    kept = {name: found[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in found}
    return canonicaljson.dumps({**kept, "kid": kid})


def key_id(slot: Slot) -> bytes:
    """The key identifier of a slot's own certificate, as lists name their issuer."""
    certificate = x509.load_der_x509_certificate(slot.certificates[0])
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def names_key(crl: x509.CertificateRevocationList, identifier: bytes) -> bool:
    """Whether a list says that the key of this identifier signed it."""
    try:
        found = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return False
    return found.key_identifier == identifier


def _names_issuer(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return False
    return names_key(crl, found)
