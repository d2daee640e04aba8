"""The statements on X.509-SVIDs and their bundles (X509-SVID.md), looked at in what a Workload API gave. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from limen.conformance.row import Row, each
from mesh.bundle import TrustBundle
from mesh.problems import Problem
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain
from mesh.x509svid import split_chain, verify_x509_svid

Certificate = x509.Certificate


def rows(svids: Any, now: dt.datetime) -> Iterator[Row]:  # noqa: ANN401  messages
    """Every statement on the SVIDs of a response."""
    for name, level, words, check in (
        ("W-6", "S", "every mandatory field of an SVID is set", _is_whole),
        ("W-8", "M", "the chain is DER, leaf first, and the key is the leaf's", _is_own_key),
        ("W-9", "M", "the key is unencrypted PKCS#8 DER", _is_pkcs8),
        ("W-10", "M", "the bundle is DER, not PEM", lambda item: bool(split_chain(item.bundle))),
        ("W-11", "S", "a hint has 1,024 bytes at most", lambda item: len(item.hint.encode()) <= 1024),
        ("ID-1", "M", "the SPIFFE ID follows the grammar", lambda item: is_workload(item.spiffe_id)),
        ("ID-19", "M", "a trust domain has 255 bytes at most", lambda item: len(domain_of(item)) <= 255),
        ("X-16", "M", "the chain verifies with its own bundle", lambda item: _verifies(item, now)),
    ):
        yield each(name, level, words, svids, check)
    for name, level, words, holds in _LEAF:
        yield each(name, level, words, svids, lambda item, holds=holds: holds(_leaf(item)))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
    for name, level, words, holds in _SIGNER:
        yield each(name, level, words, svids, lambda item, holds=holds: all(map(holds, _signers(item))))  # type: ignore[misc]
    yield each("X-5", "S", "a signer's SPIFFE ID is of its leaf's trust domain", svids, _signs_its_domain)
    yield each("X-28", "S", "what is in a bundle is self-signed", svids, _is_self_signed)


def is_workload(text: str) -> bool:
    """Whether a text is a workload's SPIFFE ID."""
    try:
        return bool(SpiffeId.parse(text).path)
    except SpiffeIdError:
        return False


def is_domain(text: str) -> bool:
    """Whether a text is a trust domain's SPIFFE ID: what bundles are named by."""
    try:
        return not SpiffeId.parse(text).path
    except SpiffeIdError:
        return False


def domain_of(item: Any) -> str:  # noqa: ANN401
    """The trust domain of an SVID's message, as it is written there."""
    return str(item.spiffe_id).removeprefix("spiffe://").partition("/")[0]


def _leaf(item: Any) -> Certificate:  # noqa: ANN401
    return x509.load_der_x509_certificate(split_chain(item.x509_svid)[0])


def _signers(item: Any) -> list[Certificate]:  # noqa: ANN401
    ders = (*split_chain(item.x509_svid)[1:], *split_chain(item.bundle))
    return [x509.load_der_x509_certificate(der) for der in ders]


def _uris(found: Certificate) -> list[str]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _use(found: Certificate) -> x509.Extension[x509.KeyUsage]:
    return found.extensions.get_extension_for_class(x509.KeyUsage)


def _is_ca(found: Certificate) -> bool:
    try:
        return found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _has_critical_names(found: Certificate) -> bool:
    return bool(list(found.subject)) or found.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def _uses(found: Certificate) -> set[x509.ObjectIdentifier] | None:
    try:
        return set(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return None


def _both_uses(found: Certificate) -> bool:
    uses = _uses(found)
    return uses is None or {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= uses


_LEAF: tuple[tuple[str, str, str, Callable[[Certificate], bool]], ...] = (
    ("X-1", "M", "a leaf has exactly one URI SAN", lambda leaf: len(_uris(leaf)) == 1),
    ("X-2", "M", "its SPIFFE ID has a path", lambda leaf: is_workload(_uris(leaf)[0])),
    ("X-3", "M", "with an empty subject the SAN is critical", _has_critical_names),
    ("X-6", "M", "a leaf is no CA", lambda leaf: not _is_ca(leaf)),
    ("X-8", "M", "a leaf's key usage is critical", lambda leaf: _use(leaf).critical),
    ("X-10", "M", "a leaf has digitalSignature", lambda leaf: _use(leaf).value.digital_signature),
    (
        "X-11",
        "M",
        "a leaf has neither keyCertSign nor cRLSign",
        lambda leaf: not _use(leaf).value.key_cert_sign and not _use(leaf).value.crl_sign,
    ),
    ("X-12", "S", "a leaf has an extended key usage", lambda leaf: _uses(leaf) is not None),
    ("X-13", "M", "an extended key usage has server and client authentication", _both_uses),
)
_SIGNER: tuple[tuple[str, str, str, Callable[[Certificate], bool]], ...] = (
    ("X-4", "M", "a signer's SPIFFE ID, if any, has no path", lambda found: all(map(is_domain, _uris(found)))),
    ("X-7", "M", "a signer is a CA", _is_ca),
    ("X-8", "M", "a signer's key usage is critical", lambda found: _use(found).critical),
    ("X-9", "M", "a signer has keyCertSign", lambda found: _use(found).value.key_cert_sign),
)


def _is_whole(item: Any) -> bool:  # noqa: ANN401
    return all((item.spiffe_id, item.x509_svid, item.x509_svid_key, item.bundle))


def _is_own_key(item: Any) -> bool:  # noqa: ANN401
    leaf, key = _leaf(item), load_der_private_key(item.x509_svid_key, password=None)
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    is_key = key.public_key().public_bytes(*form) == leaf.public_key().public_bytes(*form)
    return is_key and _uris(leaf) == [item.spiffe_id]


def _is_pkcs8(item: Any) -> bool:  # noqa: ANN401
    data = bytes(item.x509_svid_key)
    # what can be read may still be PKCS#1 or SEC 1: PKCS#8 alone has an algorithm (a SEQUENCE) behind its version
    head = 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)
    return data[head : head + 2] == b"\x02\x01" and data[head + 3] == 0x30 and bool(load_der_private_key(data, None))


def _verifies(item: Any, now: dt.datetime) -> bool:  # noqa: ANN401
    domain: TrustDomain = SpiffeId.parse(item.spiffe_id).trust_domain
    bundle = TrustBundle(trust_domain=domain, x509_authorities=split_chain(item.bundle))
    try:
        found = verify_x509_svid(split_chain(item.x509_svid), {domain: bundle}, now)
    except Problem as problem:
        raise ValueError(str(problem)) from problem
    return str(found.spiffe_id) == str(item.spiffe_id)


def _signs_its_domain(item: Any) -> bool:  # noqa: ANN401
    return all(_uris(found) == [f"spiffe://{domain_of(item)}"] for found in _signers(item))


def _is_self_signed(item: Any) -> bool:  # noqa: ANN401
    found = [x509.load_der_x509_certificate(der) for der in split_chain(item.bundle)]
    for authority in found:
        # raises where it is not
        authority.verify_directly_issued_by(authority)
    return bool(found)
