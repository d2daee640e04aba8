"""Which certificate the public TLS port shows: by the name that a client asks for (SNI), chosen in one place.

Agents ask for `limen-server` and pin the key behind it, whatever else this port serves. Other doors register the names
that they have a certificate for; a client that asks for none of them, or for no name, gets the default: the configured
web certificate, and without one the pinned one. Keys reach OpenSSL through memory, never a disk. This module reads no
request and verifies nobody.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from mesh.problems import Invalid

SERVER_NAME = "limen-server"
# Mozilla "intermediate" (Federation §5.2.1.1 and §5.2.2.1 ask for no less); TLS 1.3's own suites are always on
CIPHERS = ":".join(
    f"{exchange}-{cipher}"
    for exchange, ciphers in (
        (
            "ECDHE",
            (
                "ECDSA-AES128-GCM-SHA256",
                "RSA-AES128-GCM-SHA256",
                "ECDSA-AES256-GCM-SHA384",
                "RSA-AES256-GCM-SHA384",
                "ECDSA-CHACHA20-POLY1305",
                "RSA-CHACHA20-POLY1305",
            ),
        ),
        ("DHE", ("RSA-AES128-GCM-SHA256", "RSA-AES256-GCM-SHA384", "RSA-CHACHA20-POLY1305")),
    )
    for cipher in ciphers
)


class TlsPort:
    """The certificates of one TLS port, by name. ``context`` is what the listener is given, once."""

    def __init__(self, pinned: ssl.SSLContext) -> None:
        self._by_name = {SERVER_NAME: pinned}
        self._default = pinned
        self.context = server_side()
        self.context.sni_callback = self._choose

    def serve(self, names: Iterable[str], context: ssl.SSLContext) -> None:
        """Show a certificate to clients that ask for one of these DNS names, from the next connection on.

        Raises ValueError for the name that agents pin the server by.
        """
        asked = {name.lower().rstrip(".") for name in names}
        if SERVER_NAME in asked:
            raise ValueError("that name is the pinned key's")
        self._by_name = {**self._by_name, **dict.fromkeys(asked, context)}

    def serve_default(self, context: ssl.SSLContext) -> None:
        """Show a certificate to clients that ask for a name nobody registered, or for none."""
        self._default = context

    def forget(self, names: Iterable[str]) -> None:
        """Show the default to clients that ask for one of these names."""
        asked = {name.lower().rstrip(".") for name in names} - {SERVER_NAME}
        self._by_name = {name: found for name, found in self._by_name.items() if name not in asked}

    def _choose(self, tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        del context
        # no answer but the choice: a client that asks for an unknown name may still like what it is shown
        tls.context = self._by_name.get((name or "").lower().rstrip("."), self._default)


def server_side() -> ssl.SSLContext:
    """A server's context with nothing to show yet: TLS 1.2 or newer, Mozilla's intermediate suites, no resumption."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    harden(context)
    # a ticket of one name must not resume under another's certificate
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    return context


def harden(context: ssl.SSLContext) -> None:
    """Allow no less than Mozilla's intermediate configuration does."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION


def web_context(key_pem: bytes, chain_pem: bytes) -> ssl.SSLContext:
    """A server's context that shows a web certificate that somebody configured.

    Raises Invalid LM1516 for a key or chain that cannot be read or do not belong together.
    """
    try:
        return context_of(key_pem, chain_pem)
    except TypeError as err:
        raise Invalid("LM1516", reason="the key is locked by a passphrase") from err
    except (ValueError, UnsupportedAlgorithm) as err:
        raise Invalid("LM1516", reason="the key cannot be read") from err
    except ssl.SSLError as err:
        raise Invalid("LM1516", reason=err.reason or "they do not belong together") from err


def context_of(key_pem: bytes, chain_pem: bytes) -> ssl.SSLContext:
    """A server's context that shows this chain, leaf first.

    Raises TypeError, ValueError or ssl.SSLError for a key or chain that cannot be read or do not belong together.
    """
    # a key that is locked would make OpenSSL ask for a passphrase on the terminal
    serialization.load_pem_private_key(key_pem, None)
    context = server_side()
    handle = os.memfd_create("limen-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as out:
            out.write(key_pem.rstrip(b"\n") + b"\n" + chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
    return context
