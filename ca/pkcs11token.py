"""One token behind PKCS#11, and keys that never leave it: the only door to `python-pkcs11`.

What it hands out are `ca.tokenkeys`. A session that the token forgot is opened again, once; a PIN that was refused is
never tried again, for tokens lock themselves. A call into the token's library can hang, and nothing here can end it.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca.keys import KeyAlgorithm, SigningKey, algorithm_of
from ca.pkcs11uri import TokenUri, read_pin
from ca.tokenkeys import EcTokenKey, RsaTokenKey
from mesh.problems import Forbidden, Invalid, NotFound, Problem, Unavailable

if TYPE_CHECKING:
    import pkcs11

_T = TypeVar("_T")
_TIDY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_CURVES = {KeyAlgorithm.P256: "secp256r1", KeyAlgorithm.P384: "secp384r1"}
_BITS = {KeyAlgorithm.RSA_2048: 2048, KeyAlgorithm.RSA_3072: 3072, KeyAlgorithm.RSA_4096: 4096}


class Token:
    """A token with one session, which is opened when it is first needed and in every process anew."""

    def __init__(self, uri: TokenUri) -> None:
        """Remember which token. Raises Invalid LM1609 when the Python library is not installed."""
        try:
            import pkcs11  # noqa: PLC0415  an extra: only those who have a token need it
        except ImportError as err:
            raise Invalid("LM1609") from err
        self._pkcs11 = pkcs11
        self.uri = uri
        self._lock = threading.RLock()
        self._session: pkcs11.Session | None = None
        self._process = 0
        self._refused = False

    def find(self, label: str) -> SigningKey | None:
        """The key with a label; None when there is none. Raises Invalid LM1604, Unavailable LM1603."""
        return self._with_session(lambda session: self._find(session, label))

    def generate(self, label: str, algorithm: KeyAlgorithm) -> SigningKey:
        """Make a key in the token, that it never gives away. Raises Invalid LM1606, Unavailable LM1603."""
        return self._with_session(lambda session: self._generate(session, label, algorithm))

    def destroy(self, label: str) -> None:
        """Forget the key with a label, if there is one. Raises Unavailable LM1603."""

        def act(session: pkcs11.Session) -> None:
            for found in list(session.get_objects({self._pkcs11.Attribute.LABEL: label})):
                found.destroy()

        self._with_session(act)

    def labels(self) -> list[str]:
        """The labels of all private keys. Raises Unavailable LM1603."""
        at = self._pkcs11.Attribute
        wanted = {at.CLASS: self._pkcs11.ObjectClass.PRIVATE_KEY}
        return self._with_session(lambda session: [str(item[at.LABEL]) for item in list(session.get_objects(wanted))])

    def close(self) -> None:
        """Log out."""
        with self._lock, contextlib.suppress(self._pkcs11.PKCS11Error):
            if self._session is not None and self._process == os.getpid():
                self._session.close()
            self._session = None

    def sign(self, label: str, data: bytes, mechanism: str) -> bytes:
        """The token's raw signature with the key of a label. Raises NotFound LM1600, Unavailable LM1603."""

        def act(session: pkcs11.Session) -> bytes:
            # all of them: the search has to be over before the session does something else
            for found in list(session.get_objects(self._private(label))):
                return bytes(found.sign(data, mechanism=self._pkcs11.Mechanism[mechanism]))  # type: ignore[attr-defined]  # a private key signs
            raise NotFound("LM1600", name=label, source="pkcs11")

        return self._with_session(act)

    # -- inside a session

    def _private(self, label: str) -> dict[Any, Any]:
        at = self._pkcs11.Attribute
        return {at.CLASS: self._pkcs11.ObjectClass.PRIVATE_KEY, at.LABEL: label}

    def _find(self, session: pkcs11.Session, label: str) -> SigningKey | None:
        at, classes = self._pkcs11.Attribute, self._pkcs11.ObjectClass
        private = list(session.get_objects(self._private(label)))
        public = list(session.get_objects({at.CLASS: classes.PUBLIC_KEY, at.LABEL: label}))
        if not private and not public:
            return None
        if len(private) != 1 or len(public) != 1:
            raise Invalid("LM1604", name=label, reason="the token has not exactly one private and one public key of it")
        # INVARIANT: a key that the token would give away is never used
        if private[0][at.EXTRACTABLE] or not private[0][at.SENSITIVE]:
            raise Invalid("LM1604", name=label, reason="the token would give it away (it is extractable)")
        return self._key(label, public[0])

    def _key(self, label: str, public: Any) -> SigningKey:  # noqa: ANN401  an object of the token
        at, types = self._pkcs11.Attribute, self._pkcs11.KeyType
        try:
            if public[at.KEY_TYPE] == types.RSA:
                modulus, exponent = (int.from_bytes(public[item], "big") for item in (at.MODULUS, at.PUBLIC_EXPONENT))
                found: rsa.RSAPublicKey | ec.EllipticCurvePublicKey = rsa.RSAPublicNumbers(
                    exponent, modulus
                ).public_key()
            elif public[at.KEY_TYPE] == types.EC:
                encoded = self._pkcs11.util.ec.encode_ec_public_key(public)
                read = serialization.load_der_public_key(encoded)
                if not isinstance(read, ec.EllipticCurvePublicKey):
                    raise Invalid("LM1604", name=label, reason="it is of a kind that no authority signs with")
                found = read
            else:
                raise Invalid("LM1604", name=label, reason="it is of a kind that no authority signs with")
        except (ValueError, TypeError, UnsupportedAlgorithm) as err:
            raise Invalid("LM1604", name=label, reason="its public half cannot be read") from err
        algorithm_of(found)
        if isinstance(found, rsa.RSAPublicKey):
            return SigningKey(RsaTokenKey(self, label, found))
        return SigningKey(EcTokenKey(self, label, found))

    def _generate(self, session: pkcs11.Session, label: str, algorithm: KeyAlgorithm) -> SigningKey:
        at, types = self._pkcs11.Attribute, self._pkcs11.KeyType
        kept = {at.SENSITIVE: True, at.EXTRACTABLE: False, at.PRIVATE: True, at.SIGN: True}
        more: dict[str, Any] = {"store": True, "label": label, "id": os.urandom(8), "private_template": kept}
        if algorithm in _BITS:
            made = session.generate_keypair(types.RSA, _BITS[algorithm], **more)
        elif algorithm in _CURVES:
            named = self._pkcs11.util.ec.encode_named_curve_parameters(_CURVES[algorithm])
            curve = session.create_domain_parameters(types.EC, {at.EC_PARAMS: named}, local=True)
            made = curve.generate_keypair(**more)
        else:
            raise Invalid(
                "LM1606", source="pkcs11", algorithm=str(algorithm), reason="no token that was tried has such keys"
            )
        del made
        found = self._find(session, label)
        if found is None:
            raise Unavailable("LM1603", source="pkcs11", reason="the token forgot a key that it had just made")
        return found

    # -- the session

    def _with_session(self, act: Callable[[pkcs11.Session], _T]) -> _T:
        """Do something in the session; once more, in a new one, when the token forgot the first."""
        gone = (
            self._pkcs11.SessionHandleInvalid,
            self._pkcs11.SessionClosed,
            self._pkcs11.UserNotLoggedIn,
            self._pkcs11.DeviceRemoved,
            self._pkcs11.ObjectHandleInvalid,
        )
        with self._lock, self._reported():
            try:
                try:
                    return act(self._open())
                except gone:
                    self._session = None
                    return act(self._open())
            finally:
                _forget_errors()

    def _open(self) -> pkcs11.Session:
        if self._session is not None and self._process == os.getpid():
            return self._session
        if self._refused:
            raise Forbidden("LM1605", token=self.uri.token or self.uri.serial)
        pin = read_pin(self.uri.pin_source) if self.uri.pin_source else None
        library = self._pkcs11.lib(str(self.uri.module))
        if self._process and self._process != os.getpid():
            # PKCS#11 §5.4: a forked process has to begin anew
            library.reinitialize()
        wanted = {"token_label": self.uri.token} if self.uri.token else {"token_serial": self.uri.serial.encode()}
        token = library.get_token(**wanted)
        try:
            self._session = token.open(rw=True, user_pin=pin)
        except self._pkcs11.UserAlreadyLoggedIn:
            # another session of this process is logged in, and so is this one
            self._session = token.open(rw=True)
        self._process = os.getpid()
        return self._session

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        refused = (self._pkcs11.PinIncorrect, self._pkcs11.PinLocked, self._pkcs11.PinInvalid, self._pkcs11.PinExpired)
        try:
            yield
        except Problem:
            raise
        except refused as err:
            self._refused = True
            raise Forbidden("LM1605", token=self.uri.token or self.uri.serial) from err
        except (self._pkcs11.PKCS11Error, RuntimeError) as err:
            reason = f"{type(err).__name__} {err}".strip()[:200]
            raise Unavailable("LM1603", source=f"pkcs11:{self.uri.module}", reason=reason) from err


def _forget_errors() -> None:
    """Empty this thread's queue of OpenSSL errors.

    A token's library may use the same OpenSSL as Python's `ssl`. What it leaves in the queue, SoftHSM's "no such
    engine" for one, would be reported as the failure of the next certificate that `ssl` loads. Every attempt to load
    a chain, this one too, begins with an empty queue.
    """
    with contextlib.suppress(OSError):
        _TIDY.load_cert_chain("")
