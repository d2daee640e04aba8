"""Where records are exported to, as people write it: `file:`, `https:`, `syslog+tls:`, `otlp+https:`, `nats:`, `s3:`.

A destination holds no secret: user names and passwords in an address are refused, and secrets are read from files that
it names. Nothing leaves the machine in the clear: without TLS only an address of this machine will do. This module
opens nothing.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import urllib.parse
from typing import Final

from audit.formats.forms import FORMS, NAMES
from mesh.problems import Invalid

# scheme: the forms that it takes, the usual one first, and its port
_SCHEMES: Final[dict[str, tuple[tuple[str, ...], int]]] = {
    "file": (NAMES, 0),
    "stdout": (tuple(FORMS), 0),
    "https": (tuple(FORMS), 443),
    "http": (tuple(FORMS), 80),
    "syslog+tls": (("syslog", "cef", "jsonl", "ocsf", "ecs"), 6514),
    "otlp+https": (("otlp",), 4318),
    "otlp+http": (("otlp",), 4318),
    "nats": (("jsonl", "ocsf", "ecs", "cef", "syslog"), 4222),
    "s3": (NAMES, 443),
}
_CLEAR = frozenset({"http", "otlp+http"})
_QUERIES = frozenset({"https", "http", "s3"})
SCHEMES = tuple(_SCHEMES)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Files beside the address: trusted authorities and a client's certificate (PEM), a secret, a bearer token.

    ``rotate_bytes`` is when a file is put aside for a new one.
    """

    ca: pathlib.Path | None = None
    cert: pathlib.Path | None = None
    cert_key: pathlib.Path | None = None
    secret_file: pathlib.Path | None = None
    token_file: pathlib.Path | None = None
    rotate_bytes: int = 256 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A destination that can be opened. ``path`` is a file's, a bucket's prefix, a subject, or an address's path."""

    url: str
    scheme: str
    form: str
    host: str = ""
    port: int = 0
    path: str = ""
    query: tuple[tuple[str, str], ...] = ()
    options: Options = dataclasses.field(default_factory=Options)

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine."""
        return is_local(self.host)

    @property
    def is_directory(self) -> bool:
        """Whether files are made below it, a day's in a directory of its own."""
        return self.scheme == "s3" or (self.scheme == "file" and self.path.endswith("/"))


def parse_destination(text: str, form: str | None = None, options: Options | None = None) -> Destination:
    """Read a destination; without a form it gets its scheme's usual one. `-` is stdout, a bare path a file.

    Raises Invalid LM6100.
    """
    options = options or Options()
    if text == "-":
        return _fit(Destination(url="-", scheme="stdout", form="", options=options), form)
    if "://" not in text and not text.startswith("file:"):
        return _fit(Destination(url=text, scheme="file", form="", path=text, options=options), form)
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        raise Invalid("LM6100", to=text[:200], reason="it cannot be read") from err
    scheme = parts.scheme.lower()
    if scheme not in _SCHEMES or scheme == "stdout":
        known = ", ".join(name for name in SCHEMES if name != "stdout")
        raise Invalid("LM6100", to=text[:200], reason=f"its scheme is one of {known}")
    path = urllib.parse.unquote(parts.path)
    if "@" in parts.netloc or parts.fragment or (parts.query and scheme not in _QUERIES):
        reason = "an address holds no user, password or fragment; secrets are files that the options name"
        raise Invalid("LM6100", to=_without_secrets(text), reason=reason)
    if scheme == "file" and (parts.netloc not in {"", "localhost"} or not path.startswith("/")):
        raise Invalid(
            "LM6100", to=text[:200], reason="a file is `file:///PATH`, one for each day below `file:///PATH/`"
        )
    if scheme != "file" and not host:
        raise Invalid("LM6100", to=text[:200], reason="it names no host")
    found = Destination(
        url=text,
        scheme=scheme,
        form="",
        host=host,
        port=port or _SCHEMES[scheme][1],
        path=path,
        query=tuple(urllib.parse.parse_qsl(parts.query)) if scheme == "s3" else (),
        options=options,
    )
    if scheme in _CLEAR and not found.is_local:
        raise Invalid("LM6100", to=text[:200], reason="records leave this machine over TLS alone")
    if scheme == "nats" and not path.strip("/"):
        raise Invalid("LM6100", to=text[:200], reason="it is `nats://HOST[:PORT]/SUBJECT`")
    return _fit(found, form)


def _fit(found: Destination, form: str | None) -> Destination:
    forms = _SCHEMES[found.scheme][0]
    chosen = form or forms[0]
    if chosen not in forms:
        reason = f"it takes the forms {', '.join(forms)}, not {chosen}"
        raise Invalid("LM6100", to=found.url[:200], reason=reason)
    if (found.options.cert is None) != (found.options.cert_key is None):
        raise Invalid("LM6100", to=found.url[:200], reason="a client's certificate and its key go together")
    return dataclasses.replace(found, form=chosen)


def is_local(host: str) -> bool:
    """Whether a host is this machine's own, by its name or its address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _without_secrets(text: str) -> str:
    """An address for a message: without what stands before an `@`."""
    scheme, _, rest = text.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"[:200]
