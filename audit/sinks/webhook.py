"""An HTTPS webhook, signed as Standard Webhooks 1.0.0 says: `webhook-id`, `webhook-timestamp`, `webhook-signature`.

The signature is HMAC-SHA-256 in base64 over `ID.TIMESTAMP.BODY`, written `v1,…`; the secret is `whsec_` and base64, or
bytes as they are. The id is the same when a batch comes again, the timestamp is of the try: a receiver refuses old
ones. Redirects are not followed: where records go stands in the settings.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import pathlib
import ssl
from collections.abc import Callable, Sequence

import httpx2

from audit.destination import Destination, Options
from audit.formats.forms import FORMS
from mesh.problems import Invalid, Unavailable

_TIMEOUT_S = 30.0
_PREFIX = "whsec_"
_LEAST_SECRET = 24
_MAX_SECRET_FILE = 4096


class WebhookSink:
    """An address that batches are posted to."""

    most, linger_s = 500, 0.2

    def __init__(self, destination: Destination, origin: str, now: Callable[[], dt.datetime]) -> None:
        """Read the secret, if there is one. Raises Invalid LM6100 for one that cannot be used."""
        self._to, self._now, self._origin = destination, now, origin
        self._form = FORMS[destination.form]
        options = destination.options
        self._secret = read_secret(options.secret_file, destination.url) if options.secret_file is not None else None
        self._client = client_of(destination)

    def send(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Post one batch; a 2xx says that it was taken.

        Raises Unavailable LM6101 for every other answer, and for none.
        """
        body = b"".join(self._form.lines(records))
        name = hashlib.sha256(f"{self._origin} {records[0][0]} {records[-1][0]}".encode()).hexdigest()[:32]
        headers = {"content-type": self._form.media_type, "webhook-id": f"msg_{name}"}
        if self._secret is not None:
            stamp = str(int(self._now().timestamp()))
            headers |= {"webhook-timestamp": stamp, "webhook-signature": sign(self._secret, f"msg_{name}", stamp, body)}
        post(self._client, self._to.url, body, headers)

    def close(self) -> None:
        """Close connections."""
        self._client.close()


def sign(secret: bytes, name: str, stamp: str, body: bytes) -> str:
    """The signature of a message: what the receiver computes itself."""
    made = hmac.digest(secret, f"{name}.{stamp}.".encode() + body, "sha256")
    return "v1," + base64.b64encode(made).decode()


def read_secret(path: pathlib.Path, url: str) -> bytes:
    """The bytes of a signing secret.

    Raises Invalid LM6100 for a file that cannot be read, or a secret shorter than 24 bytes.
    """
    text = read_text(path, url)
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True) if text.startswith(_PREFIX) else None
    except (binascii.Error, ValueError) as err:
        raise Invalid("LM6100", to=url, reason=f"`{path}` holds no base64 after `{_PREFIX}`") from err
    secret = text.encode() if secret is None else secret
    if len(secret) < _LEAST_SECRET:
        raise Invalid("LM6100", to=url, reason=f"the secret in `{path}` is shorter than {_LEAST_SECRET} bytes")
    return secret


def read_text(path: pathlib.Path, url: str) -> str:
    """A secret's file, without white space around it. Raises Invalid LM6100."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SECRET_FILE).decode().strip()
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or "it is no text"
        raise Invalid("LM6100", to=url, reason=f"`{path}` cannot be read: {reason}") from err


def tls_of(options: Options, url: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, towards a server whose certificate and name are verified.

    Raises Invalid LM6100 for files that cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=str(options.ca) if options.ca is not None else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if options.cert is not None and options.cert_key is not None:
            context.load_cert_chain(options.cert, options.cert_key)
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or str(err)
        raise Invalid("LM6100", to=url, reason=f"its certificates cannot be used: {reason}") from err
    return context


def client_of(destination: Destination) -> httpx2.Client:
    """A client for an HTTP destination. Raises Invalid LM6100 for files that cannot be used."""
    options, headers = destination.options, {"user-agent": "limen"}
    if options.token_file is not None:
        token = read_text(options.token_file, destination.url)
        # Splunk's collector has a word of its own for it: whoever needs it writes it into the file
        headers["authorization"] = token if " " in token else f"Bearer {token}"
    return httpx2.Client(
        verify=tls_of(options, destination.url),
        headers=headers,
        timeout=_TIMEOUT_S,
        follow_redirects=False,
        trust_env=False,
    )


def post(client: httpx2.Client, url: str, body: bytes, headers: dict[str, str]) -> httpx2.Response:
    """Post a body. Raises Unavailable LM6101 for any answer but 2xx, and for none."""
    try:
        answer = client.post(url, content=body, headers=headers)
    except httpx2.HTTPError as err:
        raise Unavailable("LM6101", to=url, reason=str(err) or type(err).__name__) from err
    if not 200 <= answer.status_code < 300:
        raise Unavailable("LM6101", to=url, reason=f"it answered {answer.status_code}")
    return answer
