"""Letting nodes in by what other people certified of them: wires attestors, nonces and key sets to `limen.nodes`.

Nothing is written before a proof holds. Verifying is in `ca.attestation`; this module chooses who verifies, and only
`keys_for` may block.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ca import keys as ca_keys
from ca.attestation import k8s, oidc, tpm, x509pop
from ca.attestation.evidence import Attested, node_name
from ca.attestorfile import Attestor
from limen.attestorsfile import AttestorsFile
from limen.nodes import Nodes
from mesh import nodeproof
from mesh.clock import Clock
from mesh.jwks import JwtKey
from mesh.jwtproof import kid_of
from mesh.keysets import KeySets, Source
from mesh.problems import Forbidden, NotFound

Json = Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a node sends: the attestor's name or type, the nonce, its new key, and the parts of its proof."""

    attestor: str
    nonce: str
    spki: bytes
    is_fresh: bool
    token: str = ""
    chain: tuple[bytes, ...] = ()
    parts: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    def part(self, name: str) -> bytes:
        """A part of the proof, empty when it was not sent."""
        return self.parts.get(name, b"")


class Attestation:
    """The server's attestors at work."""

    def __init__(
        self,
        *,
        nodes: Nodes,
        file: AttestorsFile,
        server_pin: str,
        clock: Clock,
        random: Callable[[int], bytes],
        key_sets: KeySets | None = None,
    ) -> None:
        self._nodes, self._file, self._server_pin = nodes, file, server_pin
        self._clock, self._random = clock, random
        self._key_sets = key_sets or KeySets()

    def refresh(self) -> bool:
        """Look at attestors.yaml again; return whether it changed."""
        return self._file.refresh()

    def report(self) -> Json:
        """How attestors.yaml stands."""
        return self._file.report()

    def list(self) -> Json:
        """The attestors by name, with their types."""
        return [{"name": item.name, "type": item.type, "node": item.node} for item in self._file.attestors]

    def challenge(self, attestor: str, *, ek: bytes, ak: bytes, certificate: bytes) -> Json:
        """A nonce, and a secret that only this TPM opens. Raises NotFound LM1245, Forbidden LM1247."""
        found = self._find(attestor)
        if not isinstance(found, tpm.Tpm):
            raise Forbidden("LM1247", attestor=found.name, reason="it attests no TPMs")
        keys = tpm.Keys(ek=ek, ak=ak, certificate=certificate)
        answer = self._nodes.nonce()
        secret = self._nodes.nonces.secret_for(keys.purpose, str(answer["nonce"]))
        credential = tpm.challenge(found, keys, secret=secret, seed=self._random(32), now=self._clock.now())
        return {**answer, "credential": base64.b64encode(credential).decode()}

    def keys_for(self, evidence: Evidence) -> tuple[JwtKey, ...]:
        """The keys that a token of these may be signed with; may ask its issuer, so not on the server's one thread.

        Raises NotFound LM1245, Unavailable LM1249.
        """
        found = self._find(evidence.attestor)
        if not isinstance(found, k8s.K8s | oidc.Oidc):
            return ()
        place = found.keys if "://" in found.keys else str(self._file.folder / found.keys)
        token = str(self._file.folder / found.keys_token) if found.keys_token else ""
        source = Source(place=place, ca=found.keys_ca, token_path=token)
        return self._key_sets.get(source, kid_of(evidence.token))

    def attest(self, evidence: Evidence, keys: tuple[JwtKey, ...]) -> Json:
        """Let a node in that proves itself.

        1. The nonce is ours, not expired, and used up by this; the new key can be certified.
        2. The attestor's verifier accepts the proof.
        3. The node has the name that the attestor's template gives.
        4. It is let in: recorded, then answered.

        Raises Forbidden LM1240, LM1242, LM1243, LM1246 to LM1248, NotFound LM1245, Invalid LM1203.
        """
        # (1)
        now = self._clock.now()
        self._nodes.nonces.use(evidence.nonce, now)
        ca_keys.parse_spki(evidence.spki)
        found = self._find(evidence.attestor)
        # (2)
        attested = self._verify(found, evidence, keys)
        # (3)
        name = node_name(found.name, found.node, attested.facts)
        # (4)
        facts = (("node:method", found.type), *attested.facts)
        return self._nodes.admit(
            name,
            attestor=found.name,
            facts=facts,
            spki=evidence.spki,
            is_fresh=evidence.is_fresh,
            proof=(attested.proof_id, attested.expires) if attested.proof_id else None,
        )

    def _verify(self, found: Attestor, evidence: Evidence, keys: tuple[JwtKey, ...]) -> Attested:
        now = self._clock.now()
        data = nodeproof.statement(
            "attest", server_pin=self._server_pin, nonce=evidence.nonce, name=evidence.attestor, spki=evidence.spki
        )
        match found:
            case x509pop.X509Pop():
                return x509pop.verify(
                    found, chain=[*evidence.chain], signature=evidence.part("signature"), data=data, now=now
                )
            case tpm.Tpm():
                shown = tpm.Keys(
                    ek=evidence.part("ek"), ak=evidence.part("ak"), certificate=evidence.part("certificate")
                )
                return tpm.verify(
                    found,
                    keys=shown,
                    secret=evidence.part("secret"),
                    expected=self._nodes.nonces.secret_for(shown.purpose, evidence.nonce),
                    quote=evidence.part("quote"),
                    signature=evidence.part("signature"),
                    data=data,
                    now=now,
                )
            case k8s.K8s():
                return k8s.verify(found, token=evidence.token, keys=keys, now=now)
            case oidc.Oidc():
                return oidc.verify(found, token=evidence.token, keys=keys, now=now)

    def _find(self, name: str) -> Attestor:
        found = self._file.find(name)
        if found is None:
            raise NotFound("LM1245", given=name[:64])
        return found
