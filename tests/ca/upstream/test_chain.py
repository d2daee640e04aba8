import dataclasses
import datetime as dt
from collections.abc import Callable

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from ca.keys import KeyAlgorithm, generate, spki_der
from ca.upstream.chain import MAX_BYTES, Upstreamed, accept, build_csr, check, read_csr, spki_of
from mesh.problems import Invalid
from tests.ca.upstream.chains import DAY, DOMAIN, NOW, Made, Signs, below, make, root
from tests.examples import examples

KEY = generate(KeyAlgorithm.P256)
CSR = build_csr(KEY, DOMAIN)
ROOT = root()
MIDDLE = below(ROOT)


def uri(name: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(name)


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048])
def test_a_chain_below_a_root_of_any_kind_is_accepted(algorithm: KeyAlgorithm) -> None:
    above = root(algorithm)
    middle = below(above)
    answer = Signs(middle, above).mint(CSR, NOW)
    found = accept(answer, KEY, DOMAIN, NOW, upstream="test")
    assert found == answer
    assert found.not_after == NOW + 30 * DAY


@pytest.mark.parametrize("algorithm", [*list(KeyAlgorithm)[:3], KeyAlgorithm.ML_DSA_65])
def test_a_request_proves_its_key(algorithm: KeyAlgorithm) -> None:
    key = generate(algorithm)
    assert spki_der(read_csr(build_csr(key, DOMAIN))) == spki_der(key.public_key)


def test_a_root_that_stands_in_the_chain_as_well_is_left_out_there() -> None:
    answer = Signs(MIDDLE, ROOT).mint(CSR, NOW)
    longer = Upstreamed(chain=(*answer.chain, ROOT.der), roots=(ROOT.der, ROOT.der))
    assert accept(longer, KEY, DOMAIN, NOW, upstream="test") == answer


def test_name_constraints_that_admit_the_trust_domain_are_accepted() -> None:
    limits = x509.NameConstraints(permitted_subtrees=[uri("corp.test")], excluded_subtrees=None)
    answer = Signs(below(ROOT, constraints=limits), ROOT).mint(CSR, NOW)
    assert accept(answer, KEY, DOMAIN, NOW, upstream="test").chain == answer.chain


OTHER = generate(KeyAlgorithm.P256)
STRANGER = root()


def signed(*above: Made, **facts: object) -> Upstreamed:
    return Signs(*above, **facts).mint(CSR, NOW)


def limited(permitted: x509.GeneralName | None = None, excluded: x509.GeneralName | None = None) -> Upstreamed:
    limits = x509.NameConstraints(
        permitted_subtrees=[permitted] if permitted else None, excluded_subtrees=[excluded] if excluded else None
    )
    return signed(below(ROOT, constraints=limits), ROOT)


def below_root(**facts: object) -> Upstreamed:
    above = root(**facts)  # type: ignore[arg-type]
    return signed(below(above), above)


def changed(**facts: tuple[bytes, ...]) -> Upstreamed:
    return dataclasses.replace(signed(MIDDLE, ROOT), **facts)


def expired_root() -> Upstreamed:
    ended = make("root", ROOT.key.public_key, ROOT.key, begin=NOW - 9 * DAY, end=NOW - DAY)
    return signed(MIDDLE, dataclasses.replace(ROOT, certificate=ended))


FIRST = signed(MIDDLE, ROOT).chain[0]
BAD: dict[str, Callable[[], Upstreamed]] = {
    "another-key": lambda: Signs(MIDDLE, ROOT).mint(build_csr(OTHER, DOMAIN), NOW),
    "a-leaf": lambda: signed(MIDDLE, ROOT, ca=False, signs=False),
    "ca-without-keyCertSign": lambda: signed(MIDDLE, ROOT, signs=False),
    "keyCertSign-without-ca": lambda: signed(MIDDLE, ROOT, ca=False),
    "intermediate-is-no-ca": lambda: signed(below(ROOT, ca=False, signs=False), ROOT),
    "expired": lambda: signed(MIDDLE, ROOT, end=NOW - DAY / 24),
    "ends-in-a-moment": lambda: signed(MIDDLE, ROOT, end=NOW + dt.timedelta(seconds=30)),
    "not-yet-valid": lambda: signed(MIDDLE, ROOT, begin=NOW + dt.timedelta(hours=1)),
    "intermediate-expired": lambda: signed(below(ROOT, end=NOW - DAY / 24), ROOT),
    "root-expired": expired_root,
    "another-root": lambda: changed(roots=(STRANGER.der,)),
    "a-root-of-the-same-name": lambda: changed(roots=(root().der,)),
    "no-root": lambda: changed(roots=()),
    "no-chain": lambda: changed(chain=()),
    "only-the-root": lambda: changed(chain=(ROOT.der,)),
    "link-missing": lambda: changed(chain=(FIRST,)),
    "other-order": lambda: changed(chain=(MIDDLE.der, FIRST)),
    "too-long": lambda: changed(chain=(FIRST, *([MIDDLE.der] * 4))),
    "no-room-below-the-intermediate": lambda: signed(below(ROOT, path_length=0), ROOT),
    "no-room-below-the-root": lambda: below_root(path_length=1),
    "another-trust-domain": lambda: signed(MIDDLE, ROOT, uri="spiffe://other.test"),
    "a-workloads-name": lambda: signed(MIDDLE, ROOT, uri="spiffe://corp.test/ns/shop/sa/web"),
    "upper-case-scheme": lambda: signed(MIDDLE, ROOT, uri="SPIFFE://other.test"),
    "root-of-another-trust-domain": lambda: below_root(uri="spiffe://other.test"),
    "names-of-others-only": lambda: limited(permitted=uri("other.test")),
    "our-name-excluded": lambda: limited(excluded=uri("corp.test")),
    "constraints-on-dns-names": lambda: limited(permitted=x509.DNSName("corp.test")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_chain_that_peers_would_refuse_is_never_used(name: str) -> None:
    with pytest.raises(Invalid, match="LM1611"):
        accept(BAD[name](), KEY, DOMAIN, NOW, upstream="test")


# room below the root is only known from the whole way, and constraints from a leaf: those need the key
NEED_THE_KEY = {"names-of-others-only", "our-name-excluded", "constraints-on-dns-names", "root-expired"}


@pytest.mark.parametrize("name", sorted(set(BAD) - NEED_THE_KEY))
def test_most_of_it_shows_without_the_key(name: str) -> None:
    with pytest.raises(Invalid, match="LM1611"):
        check(BAD[name](), KEY.public_key, DOMAIN, NOW, upstream="test")


@pytest.mark.parametrize(
    "der", [b"", b"\x30\x00", b"x" * (MAX_BYTES + 1), CSR], ids=["empty", "sequence", "large", "csr"]
)
def test_bytes_that_are_no_certificate_are_refused(der: bytes) -> None:
    for answer in (Upstreamed(chain=(der,), roots=(ROOT.der,)), Upstreamed(chain=(MIDDLE.der,), roots=(der,))):
        with pytest.raises(Invalid, match="LM1614"):
            accept(answer, KEY, DOMAIN, NOW, upstream="test")


GOOD = signed(MIDDLE, ROOT)


@settings(max_examples=examples(200))
@given(
    st.sampled_from([0, 1]),
    st.integers(min_value=0, max_value=5000),
    st.integers(min_value=1, max_value=255),
)
def test_one_changed_byte_of_what_is_signed_is_refused(which: int, position: int, change: int) -> None:
    parts = [*GOOD.chain, *GOOD.roots]
    data = bytearray(parts[which])
    # the wrapping of a signature has more than one form: only what is signed is held
    data[4 + position % len(x509.load_der_x509_certificate(parts[which]).tbs_certificate_bytes)] ^= change
    parts[which] = bytes(data)
    with pytest.raises(Invalid, match=r"LM1611|LM1614"):
        accept(Upstreamed(chain=tuple(parts[:2]), roots=tuple(parts[2:])), KEY, DOMAIN, NOW, upstream="test")


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM1617"):
        read_csr(data)


@settings(max_examples=examples(200))
@given(st.integers(min_value=0, max_value=len(CSR) - 1), st.integers(min_value=1, max_value=255))
def test_a_request_with_one_changed_byte_is_refused(position: int, change: int) -> None:
    data = bytearray(CSR)
    data[position] ^= change
    with pytest.raises(Invalid, match="LM1617"):
        read_csr(bytes(data))


def test_a_request_that_is_too_large_or_of_another_key_kind_is_refused() -> None:
    with pytest.raises(Invalid, match="LM1617"):
        read_csr(CSR + b"\x00" * MAX_BYTES)
    odd = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    der = odd.sign(ec.generate_private_key(ec.SECP521R1()), hashes.SHA512()).public_bytes(Encoding.DER)
    with pytest.raises(Invalid, match="LM1617"):
        read_csr(der)


def test_a_certificate_of_a_kind_of_key_that_is_none_of_ours_is_for_another_key() -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding

    odd = ed25519.Ed25519PrivateKey.generate().public_key()
    made = make("issuing", odd, ROOT)  # type: ignore[arg-type]  # that is the point
    assert spki_of(made) == b""
    with pytest.raises(Invalid, match="LM1611"):
        accept(
            Upstreamed(chain=(made.public_bytes(Encoding.DER),), roots=(ROOT.der,)), KEY, DOMAIN, NOW, upstream="test"
        )
