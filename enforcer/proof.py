"""How a host proves what it is, as `limen agent --attest` names it, and the conversation in which it does.

`TYPE` or `TYPE:name=value,…`; `name=` picks one of several attestors of a type on the server. Files are read anew each
time: a certificate or a token that was renewed since counts. The server proves itself first, with its pinned key.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import pathlib
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from enforcer.door import Door
from enforcer.join import Admission, read_admission, spki_of
from enforcer.nodestate import NodeState
from enforcer.tpm import open_tpm
from mesh import nodeproof
from mesh.certpath import read_pem
from mesh.problems import Forbidden, Invalid, Unavailable

_OPTIONS: dict[str, tuple[frozenset[str], ...]] = {
    # type: the sets of options that belong together, `name` aside
    "x509pop": (frozenset({"cert", "key"}),),
    "tpm": (frozenset(), frozenset({"tcti"})),
    "k8s": (frozenset({"token"}),),
    "oidc": (frozenset({"token"}), frozenset({"env"})),
}
_SHAPES = "x509pop:cert=FILE,key=FILE | tpm | k8s:token=FILE | oidc:token=FILE | oidc:env=NAME"
MAX_TOKEN_BYTES = 16 * 1024
MAX_FILE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to prove what this host is."""

    type: str
    options: Mapping[str, str]
    secret: str = dataclasses.field(default="", repr=False)

    @property
    def attestor(self) -> str:
        """What the server is asked for: an attestor's name, or its type."""
        return self.options.get("name", self.type)

    @classmethod
    def parse(cls, text: str) -> Method:
        """Read what `--attest` says.

        Raises Invalid LM3448.
        """
        kind, _, rest = text.partition(":")
        pairs = [item.partition("=") for item in rest.split(",")] if rest else []
        options = {name: value for name, _, value in pairs}
        known = _OPTIONS.get(kind)
        if known is None or len(options) != len(pairs) or not all(options.values()):
            raise Invalid("LM3448", given=text[:200], shapes=_SHAPES)
        if frozenset(options) - {"name"} not in known:
            raise Invalid("LM3448", given=text[:200], shapes=_SHAPES)
        return cls(type=kind, options=options)

    def settle(self) -> Method:
        """The same with its token taken out of the environment: nothing that this process starts has a use for it."""
        if "env" not in self.options:
            return self
        return dataclasses.replace(self, secret=os.environ.pop(self.options["env"], ""))


def attest(method: Method, door: Door, key: ec.EllipticCurvePrivateKey, *, is_fresh: bool) -> Admission:
    """Attest this host and have a key certified.

    1. The server gives a nonce, or for a TPM a challenge with one; it proves itself before either.
    2. The host proves what it is over that nonce and the new key.
    3. The answer certifies that key.

    Raises Unavailable LM3447 for a file or LM3449 for a TPM, and what `Door.post` and `read_admission` do.
    """
    spki = spki_of(key)
    body: dict[str, object] = {"attestor": method.attestor, "spki": _text(spki), "fresh": is_fresh}
    if method.type == "tpm":
        body |= _prove_tpm(method, door, spki)
    else:
        # (1)
        nonce = str(door.post("/v1/node/nonce", {}).get("nonce", ""))
        # (2)
        data = _statement(method, door, nonce, spki)
        proof = _prove_x509(method, data) if method.type == "x509pop" else {"token": _token(method)}
        body |= {"nonce": nonce, "proof": proof}
    # (3)
    return read_admission(door, door.post("/v1/node/attest", body), key)


def attest_again(method: Method, state: NodeState, key: ec.EllipticCurvePrivateKey) -> Admission:
    """Attest a host that was here before.

    Raises Forbidden LM3451 when it is now taken for another node than it was.
    """
    admission = attest(method, Door(state.url, state.server_pin), key, is_fresh=False)
    if (admission.spiffe_id, admission.trust_domain) != (state.spiffe_id, state.trust_domain):
        raise Forbidden("LM3451", url=state.url, reason=f"it names {admission.spiffe_id}")
    return admission


def _statement(method: Method, door: Door, nonce: str, spki: bytes) -> bytes:
    return nodeproof.statement("attest", server_pin=door.pin, nonce=nonce, name=method.attestor, spki=spki)


def _prove_x509(method: Method, data: bytes) -> dict[str, object]:
    try:
        chain = read_pem(_read(method.options["cert"]))
        key = load_pem_private_key(_read(method.options["key"]), password=None)
        signature = nodeproof.sign_statement(key, data)
    except (ValueError, TypeError) as err:
        raise Unavailable("LM3447", path=method.options["key"], reason="certificate or key cannot be read") from err
    return {"chain": [_text(item.public_bytes(Encoding.DER)) for item in chain], "signature": _text(signature)}


def _prove_tpm(method: Method, door: Door, spki: bytes) -> dict[str, object]:
    with open_tpm(method.options.get("tcti", "")) as chip:
        keys = chip.make_keys()
        shown = {"ek": _text(keys.ek), "ak": _text(keys.ak), "certificate": _text(keys.certificate)}
        # (1)
        challenge = door.post("/v1/node/challenge", {"attestor": method.attestor, **shown})
        nonce = str(challenge.get("nonce", ""))
        try:
            credential = base64.b64decode(str(challenge.get("credential", "")), validate=True)
        except ValueError as err:
            raise Unavailable("LM3443", url=door.url, reason="its answer cannot be read") from err
        # (2)
        secret = chip.open_challenge(credential)
        quote, signature = chip.quote(_statement(method, door, nonce, spki))
    proof = {**shown, "secret": _text(secret), "quote": _text(quote), "signature": _text(signature)}
    return {"nonce": nonce, "proof": proof}


def _token(method: Method) -> str:
    if "env" in method.options:
        found = method.secret or os.environ.get(method.options["env"], "")
        place = f"${method.options['env']}"
    else:
        place = method.options["token"]
        found = _read(place).decode("ascii", "replace")
    found = found.strip()
    if not found or len(found) > MAX_TOKEN_BYTES or not found.isascii():
        raise Unavailable("LM3447", path=place, reason="there is no token in it")
    return found


def _read(path: str) -> bytes:
    try:
        with pathlib.Path(path).open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as err:
        raise Unavailable("LM3447", path=path, reason=err.strerror or str(err)) from err


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
