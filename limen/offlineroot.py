"""The offline root's requests in a state, for the command line: which wait, and what answers them."""

from __future__ import annotations

import datetime as dt
import pathlib

from cryptography import x509

from ca.upstream.offline import OfflineUpstream
from limen.sources import FOLDER
from mesh.problems import Invalid, NotFound
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
