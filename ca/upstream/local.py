"""An upstream whose key we can use ourselves: our own root, or one that lies on disk or in a token.

It signs for the key of a request and nothing else of it: names, path length and life are ours to say.
"""

from __future__ import annotations

import datetime as dt
import os
import pathlib
import secrets
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca.keys import PrivateKey, SigningKey, algorithm_of, spki_der
from ca.pkcs11token import Token
from ca.pkcs11uri import parse_token_uri
from ca.upstream.chain import MAX_BYTES, Upstreamed, read_csr, spki_of, usage
from mesh.certpath import read_pem
from mesh.problems import Invalid, NotFound
from mesh.spiffe import TrustDomain

# a host whose clock is five minutes slow still takes what was made just now
BACKDATING = dt.timedelta(minutes=5)
LIFE = dt.timedelta(days=90)
ROOT_LIFE = dt.timedelta(days=3650)


class LocalUpstream:
    """A certificate with its key. ``above`` is what leads from it to a root, ``roots`` vouch for all of it."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        certificate: x509.Certificate,
        key: SigningKey,
        *,
        name: str = "own",
        above: tuple[bytes, ...] = (),
        roots: tuple[bytes, ...] = (),
        life: dt.timedelta = LIFE,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Raises Invalid LM1616 for a key that is not the certificate's."""
        if spki_of(certificate) != spki_der(key.public_key):
            raise Invalid("LM1616", path=name, reason="the key is not the certificate's")
        self.name = name
        self._trust_domain, self._certificate, self._key = trust_domain, certificate, key
        own = certificate.public_bytes(Encoding.DER)
        self._above = () if not roots else tuple(der for der in (own, *above) if der not in roots)
        self._roots = roots or (own,)
        self._life, self._random = life, random

    def mint(self, csr: bytes, now: dt.datetime) -> Upstreamed:
        """Sign an issuing certificate: path length 0, never longer than its issuer.

        Raises Invalid LM1617 for a request that is none, LM1204 when our own time is over.
        """
        public_key = read_csr(csr)
        end = min(now + self._life, self._certificate.not_valid_after_utc)
        if end <= now:
            raise Invalid("LM1204", end=self._certificate.not_valid_after_utc.isoformat())
        subject = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, f"Limen issuing authority of {self._trust_domain}"[:64])]
        )
        builder = (
            x509.CertificateBuilder()
            .issuer_name(self._certificate.subject)
            .subject_name(subject)
            .public_key(public_key)
            .serial_number(int.from_bytes(self._random(16), "big") >> 1 or 1)
            .not_valid_before(max(now - BACKDATING, self._certificate.not_valid_before_utc))
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(_own_name(self._trust_domain), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage(signs=True), critical=True)
            .add_extension(_issuer_id(self._certificate), critical=False)
        )
        made = builder.sign(self._key.key, self._key.hash).public_bytes(Encoding.DER)
        return Upstreamed(chain=(made, *self._above), roots=self._roots)


def own_root(
    trust_domain: TrustDomain,
    key: SigningKey,
    *,
    now: dt.datetime,
    life: dt.timedelta = ROOT_LIFE,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> x509.Certificate:
    """A self-signed root of a trust domain, with any kind of key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Limen root of {trust_domain}"[:64])])
    builder = (
        x509.CertificateBuilder()
        .issuer_name(name)
        .subject_name(name)
        .public_key(key.public_key)
        .serial_number(int.from_bytes(random(16), "big") >> 1 or 1)
        .not_valid_before(now - BACKDATING)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key), critical=False)
        .add_extension(_own_name(trust_domain), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage(signs=True), critical=True)
    )
    return builder.sign(key.key, key.hash)


def open_disk(
    trust_domain: TrustDomain,
    *,
    certificates: pathlib.Path,
    key: str,
    bundle: pathlib.Path | None = None,
    passphrase: pathlib.Path | None = None,
    life: dt.timedelta = LIFE,
) -> LocalUpstream:
    """An upstream from files: certificates (PEM, its own first), its key, and the roots if it is none itself.

    ``key`` is a PEM file (PKCS#8, or OpenSSL's older forms), which ``passphrase`` decrypts, or a PKCS#11 URI with the
    key's label as `object`.

    Raises Invalid LM1616 and LM1607 for files that are not what they should be, and what a token raises.
    """
    chain = read_certificates(certificates)
    roots = () if bundle is None else tuple(found.public_bytes(Encoding.DER) for found in read_certificates(bundle))
    if not roots and chain[-1].subject == chain[-1].issuer:
        roots = (chain[-1].public_bytes(Encoding.DER),)
    if not roots:
        raise Invalid("LM1616", path=str(certificates), reason="it is no root, and `bundle` names none")
    signing = token_key(key) if key.startswith("pkcs11:") else _key_file(pathlib.Path(key), passphrase)
    return LocalUpstream(
        trust_domain,
        chain[0],
        signing,
        name=f"disk:{certificates}",
        above=tuple(found.public_bytes(Encoding.DER) for found in chain[1:]),
        roots=roots,
        life=life,
    )


def read_certificates(path: pathlib.Path) -> list[x509.Certificate]:
    """The certificates of a PEM file. Raises Invalid LM1616."""
    try:
        with path.open("rb") as file:
            data = file.read(16 * MAX_BYTES + 1)
        if len(data) > 16 * MAX_BYTES:
            raise Invalid("LM1616", path=str(path), reason="it is larger than 1 MiB")
        return read_pem(data)
    except OSError as err:
        raise Invalid("LM1616", path=str(path), reason=err.strerror or type(err).__name__) from err
    except ValueError as err:
        raise Invalid("LM1616", path=str(path), reason="it holds no PEM certificates") from err


def token_key(uri: str) -> SigningKey:
    """The key that a PKCS#11 URI names by its `object`. Raises NotFound LM1600 and what the token raises."""
    parsed = parse_token_uri(uri)
    if not parsed.object:
        raise Invalid("LM1608", given=uri, reason="`object` is the label of the key")
    found = Token(parsed).find(parsed.object)
    if found is None:
        raise NotFound("LM1600", name=parsed.object, source=f"pkcs11:token={parsed.token or parsed.serial}")
    return found


def _key_file(path: pathlib.Path, passphrase: pathlib.Path | None) -> SigningKey:
    secret = None if passphrase is None else read_secret(passphrase).strip(b"\r\n")
    try:
        found = serialization.load_pem_private_key(read_secret(path), password=secret)
    except (ValueError, TypeError) as err:
        raise Invalid("LM1616", path=str(path), reason="it holds no private key, or the passphrase is another") from err
    algorithm_of(found.public_key())
    key: PrivateKey = found  # type: ignore[assignment]  # `algorithm_of` let no other kind pass
    return SigningKey(key)


def read_secret(path: pathlib.Path) -> bytes:
    """A file that only its owner may read. Raises Invalid LM1607 and LM1616."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise Invalid("LM1616", path=str(path), reason=err.strerror or type(err).__name__) from err
    if mode & 0o077:
        raise Invalid("LM1607", path=str(path), reason="others may read it")
    if len(data) > MAX_BYTES:
        raise Invalid("LM1616", path=str(path), reason="it is larger than 64 KiB")
    return data


def _own_name(trust_domain: TrustDomain) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(trust_domain.id))])


def _issuer_id(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        # a root of another tool may have none
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(certificate.public_key())  # type: ignore[arg-type]  # a kind that signs
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)
