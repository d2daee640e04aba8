import dataclasses
import datetime as dt
import hashlib
import json

import jwt
from cryptography import x509

from ca.authority import Authority
from ca.keys import KeyAlgorithm, generate
from ca.rotation import AuthorityState, Kind
from ca.trustmaking import chain_above, fingerprint, key_id, make_state, names_key, public_jwk


def test_the_bundle_has_what_is_trusted_and_pins_what_stands_between(authority: Authority, now: dt.datetime) -> None:
    made = authority.succession.prepare(Kind.ROOT, now, actor="ada", reason="drill")
    slots = authority.slots
    state = make_state(authority.trust_domain, slots, [], known=(), listers={}, number=9, now=now)
    roots = [slot for slot in slots if slot.kind is Kind.ROOT]
    assert state.bundle.x509_authorities == tuple(slot.certificates[0] for slot in roots)
    issuing = [slot for slot in slots if slot.kind is Kind.ISSUING]
    crossed = [der for slot in roots for der in slot.certificates[1:]]
    assert len(crossed) == 1
    wanted = {hashlib.sha256(der).hexdigest() for der in (*crossed, *(slot.certificates[0] for slot in issuing))}
    assert state.bundle.intermediates == wanted
    assert (state.sequence, state.revoked, state.bundle.crls) == (9, (), ())
    gone = [
        dataclasses.replace(slot, state=AuthorityState.REVOKED) if slot.id in {made.id, made.parent} else slot
        for slot in slots
    ]
    after = make_state(authority.trust_domain, gone, [], known=(), listers={}, number=10, now=now)
    assert after.bundle.x509_authorities == (authority.active(Kind.ROOT).certificates[0],)
    assert set(after.revoked) == {made.id, made.parent}


def test_a_chain_leads_to_older_roots_only_while_they_are_trusted(authority: Authority, now: dt.datetime) -> None:
    former = authority.active(Kind.ROOT)
    made = authority.succession.prepare(Kind.ROOT, now, actor="ada", reason="drill")
    authority.succession.activate(made.id, now, actor="ada", reason="drill")
    active = authority.active(Kind.ISSUING)
    assert len(chain_above(authority.slots, active)) == 2
    authority.succession.revoke(former.id, now, actor="ada", reason="drill")
    assert len(chain_above(authority.slots, active)) == 1


def test_a_jwt_authority_is_a_public_key_by_its_name() -> None:
    for algorithm, names in (
        (KeyAlgorithm.P256, {"kty", "crv", "x", "y", "kid"}),
        (KeyAlgorithm.P384, {"kty", "crv", "x", "y", "kid"}),
        (KeyAlgorithm.RSA_2048, {"kty", "n", "e", "kid"}),
    ):
        key = generate(algorithm)
        found = json.loads(public_jwk("k1", key.public_key))
        assert set(found) == names
        assert jwt.PyJWK({**found, "alg": "RS256"} if found["kty"] == "RSA" else found).key == key.public_key


def test_names_of_certificates_and_lists(authority: Authority, now: dt.datetime) -> None:
    slot = authority.active(Kind.ISSUING)
    crl = x509.load_der_x509_crl(authority.succession.crl(slot, 4, now))
    assert names_key(crl, key_id(slot))
    assert not names_key(crl, key_id(authority.active(Kind.ROOT)))
    assert fingerprint(b"") == hashlib.sha256(b"").hexdigest()
