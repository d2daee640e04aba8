"""The offline root, for the command line: which requests wait in a state, what answers them, and the root's own side.

The root's side needs no state, no server and no network: it is for the machine in the safe.
"""

from __future__ import annotations

import datetime as dt
import os
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.keys import KeyAlgorithm, generate
from ca.pkcs11token import Token
from ca.pkcs11uri import parse_token_uri
from ca.upstream.chain import Upstream, Upstreamed
from ca.upstream.local import own_root
from ca.upstream.offline import OfflineUpstream
from limen.sources import FOLDER
from mesh.problems import Conflict, Invalid, NotFound
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain


def waiting(state: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """The requests that wait, oldest first, PEM. Raises Invalid LM1616 for one that cannot be read."""
    found = OfflineUpstream(state / FOLDER, TrustDomain("unknown")).pending()
    return [(path, _read(path)) for path in found]


def take(state: pathlib.Path, file: pathlib.Path, now: dt.datetime) -> pathlib.Path:
    """Import a chain; return the request that it answers.

    Raises NotFound LM1618, Invalid LM1611 and LM1616.
    """
    requests = sorted((state / FOLDER).glob("upstream-*.csr.pem"))
    if not requests:
        raise NotFound("LM1618", path=str(file), waiting="none")
    return OfflineUpstream(state / FOLDER, _trust_domain(requests[0])).put(file, now)


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError) as err:
        raise Invalid("LM1616", path=str(path), reason="it holds no request any more") from err


def _trust_domain(request: pathlib.Path) -> TrustDomain:
    """The trust domain that a request of ours is for: all requests of a state are for one."""
    try:
        found = x509.load_pem_x509_csr(_read(request).encode())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (name,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return SpiffeId.parse(name).trust_domain
    except (ValueError, x509.ExtensionNotFound, SpiffeIdError) as err:
        raise Invalid("LM1616", path=str(request), reason="it holds no request any more") from err


def make_root(
    trust_domain: TrustDomain,
    key: str,
    out: pathlib.Path,
    *,
    algorithm: KeyAlgorithm,
    life: dt.timedelta,
    now: dt.datetime,
) -> x509.Certificate:
    """Make a root: its key in a new file or in a token, its certificate in a new file.

    1. A key in a token is made there when there is none with that label; a key in a file is always a new one.
    2. Nothing is overwritten.

    Raises Conflict LM1621 for a file that exists, Invalid LM1616, and what the token raises.
    """
    # (2)
    for path in (out, *(() if key.startswith("pkcs11:") else (pathlib.Path(key),))):
        if path.exists():
            raise Conflict("LM1621", path=str(path))
    # (1)
    if key.startswith("pkcs11:"):
        uri = parse_token_uri(key)
        if not uri.object:
            raise Invalid("LM1608", given=key, reason="`object` is the label of the key")
        token = Token(uri)
        signing = token.find(uri.object) or token.generate(uri.object, algorithm)
    else:
        signing = generate(algorithm)
        pem = signing.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(pathlib.Path(key), pem, 0o600)
    made = own_root(trust_domain, signing, now=now, life=life)
    _write(out, made.public_bytes(Encoding.PEM), 0o644)
    return made


def sign_request(upstream: Upstream, request: pathlib.Path, out: pathlib.Path, now: dt.datetime) -> Upstreamed:
    """Sign a request with a root at hand; write the chain, the root last, to a new file.

    Raises Conflict LM1621 for a file that exists, Invalid LM1616 and LM1617, and what the upstream raises.
    """
    if out.exists():
        raise Conflict("LM1621", path=str(out))
    try:
        csr = x509.load_pem_x509_csr(_read(request).encode()).public_bytes(Encoding.DER)
    except ValueError as err:
        raise Invalid("LM1616", path=str(request), reason="it holds no request in PEM") from err
    answer = upstream.mint(csr, now)
    pems = (x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in (*answer.chain, *answer.roots))
    _write(out, b"".join(pems), 0o644)
    return answer


def _write(path: pathlib.Path, data: bytes, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as err:
        raise Conflict("LM1621", path=str(path)) from err
    except OSError as err:
        raise Invalid("LM1616", path=str(path), reason=err.strerror or type(err).__name__) from err
