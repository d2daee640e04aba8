"""Another Limen as the authority above ours: this server is a member of it, as an agent is, but a server below.

It joins once with a token that people made for it by name, which pins the other's key; after that it proves itself
with the key of its last SVID, after any time off. Its node state is kept as an agent's is, wrapped. What it is given is
checked like every upstream's answer, and what the other trusts is believed by the signature of its pinned key.
"""

from __future__ import annotations

import datetime as dt
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from cryptography import x509

from ca.upstream.chain import Upstreamed
from ca.upstream.local import read_secret
from enforcer import join, nodestate
from enforcer.membership import Membership
from enforcer.node import CALL_WITHIN_S, OPTIONS, Node, credentials_of
from enforcer.nodestate import NodeState
from enforcer.skew import ServerClock
from mesh.clock import Clock
from mesh.problems import Forbidden, Invalid, Problem, Unavailable
from mesh.proto import node_pb2 as pb
from mesh.proto import node_pb2_grpc
from mesh.spiffe import TrustDomain
from mesh.truststate import TrustState, read_trust_state
from mesh.wrapping import WrappingKey

_REFUSED = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
)


class Above:
    """Our membership of the server above. ``node`` is the way to it while this server serves."""

    def __init__(
        self, folder: pathlib.Path, state: NodeState, wrapping: WrappingKey, trust_domain: TrustDomain, clock: Clock
    ) -> None:
        self.name = f"limen:{state.url}"
        self._folder, self._state, self._wrapping = folder, state, wrapping
        self._trust_domain, self._clock = trust_domain, clock
        # what `mint` uses on another thread: replaced whole
        self._credentials = credentials_of(state)

    def mint(self, csr: bytes, now: dt.datetime) -> Upstreamed:
        """Ask for an issuing certificate.

        Raises Unavailable LM1613, Forbidden LM1612, Invalid LM1614.
        """
        del now
        try:
            with grpc.secure_channel(self._state.node_api, self._credentials, options=OPTIONS) as channel:
                stub = node_pb2_grpc.DownstreamStub(channel)  # type: ignore[no-untyped-call]  # generated
                answer = stub.NewX509Ca(pb.NewX509CaRequest(csr=csr), timeout=CALL_WITHIN_S)
        except grpc.RpcError as err:
            code = err.code() if isinstance(err, grpc.Call) else grpc.StatusCode.UNKNOWN
            said = f"{code.name}: {err.details() if isinstance(err, grpc.Call) else ''}"[:300]
            if code in _REFUSED:
                raise Forbidden("LM1612", upstream=self.name, reason=said) from err
            raise Unavailable("LM1613", upstream=self.name, reason=said) from err
        return Upstreamed(
            chain=tuple(bytes(der) for der in answer.chain),
            roots=tuple(bytes(der) for der in answer.roots),
            trust=bytes(answer.trust),
            state=self.read(bytes(answer.trust)),
        )

    def read(self, trust: bytes) -> TrustState:
        """Read a trust state that the server above signed. Raises Invalid LM1614."""
        try:
            return read_trust_state(trust, self._trust_domain, self._state.server_certificate)
        except Problem as err:
            raise Invalid("LM1614", upstream=self.name, reason=f"{err.code}: {err.message}") from err

    def connect(self) -> tuple[AboveNode, Membership]:
        """The way to the server above, and what keeps our SVID there alive; both for the event loop."""
        clock = ServerClock(self._clock)
        node = AboveNode(self._state, clock, self._adopt)
        return node, Membership(self._folder, self._state, self._wrapping, api=node, clock=clock)

    def _adopt(self) -> None:
        self._credentials = credentials_of(self._state)


class AboveNode(Node):
    """Calls to the server above."""

    def __init__(self, state: NodeState, clock: ServerClock, adopted: Callable[[], None]) -> None:
        super().__init__(state, clock)
        self._adopted = adopted

    async def adopt(self) -> None:
        """Go on with the state's SVID."""
        self._adopted()
        await super().adopt()

    async def follow(self, trust: bytes = b"") -> AsyncIterator[pb.Standing]:
        """How we stand, now and after every change, until the stream breaks (then Unavailable); ``trust`` is held."""
        request = pb.FollowRequest(trust=trust)
        async for found in self.stream(lambda: self._below.Follow(request, wait_for_ready=True)):
            yield found

    async def publish(self, request: pb.PublishRequest) -> bool:
        """Say what this server is; whether the other lost a trust state and asks to be shown it."""
        return bool((await self.ask(self._below.Publish, request)).wants_trust)

    @property
    def _below(self) -> Any:  # noqa: ANN401  generated
        return node_pb2_grpc.DownstreamStub(self._channel)  # type: ignore[no-untyped-call]  # generated


def open_above(
    folder: pathlib.Path,
    wrapping: WrappingKey,
    *,
    url: str,
    token: pathlib.Path | None,
    trust_domain: TrustDomain,
    clock: Clock,
) -> Above:
    """Our membership: the one that is kept, or a new one by a join token.

    1. A kept one goes on; one whose SVID has ended comes back by its last key, if the server above answers now. Where
       that key is known no more and a token is given, it joins again.
    2. The key that is to be certified is on the disk before it is sent.
    3. The server above is of the same trust domain.

    Raises Invalid LM1630 when there is neither, Forbidden LM1612 for (3), LM1616 and LM1607 for the file, and what
    joining raises.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # (1)
    state = nodestate.load(folder, wrapping)
    if state is not None:
        state.url = url
        has_ended = x509.load_der_x509_certificate(state.chain[0]).not_valid_after_utc <= clock.now()
        if token is None or not token.exists():
            if has_ended:
                _come_back(folder, state, wrapping)
            return Above(folder, state, wrapping, trust_domain, clock)
        if _come_back(folder, state, wrapping):
            return Above(folder, state, wrapping, trust_domain, clock)
    if token is None:
        raise Invalid("LM1630", url=url)
    text = read_secret(token).decode("ascii", "replace").strip()
    # (2)
    state = join.join(url, text, nodestate.pending_key(folder, wrapping))
    # (3)
    if state.trust_domain != str(trust_domain):
        reason = f"it is of `{state.trust_domain}`, and this server of `{trust_domain}`"
        raise Forbidden("LM1612", upstream=f"limen:{url}", reason=reason)
    nodestate.save(folder, state, wrapping)
    return Above(folder, state, wrapping, trust_domain, clock)


def _come_back(folder: pathlib.Path, state: NodeState, wrapping: WrappingKey) -> bool:
    """Come back by the last key; False when the server above does not know it."""
    key = nodestate.pending_key(folder, wrapping, other_than=state.key)
    try:
        admission = join.readmit(state, key)
    except Problem as problem:
        # the membership tries again while the server serves, and says why it fails
        return problem.code != "LM1242"
    admission.into(state)
    nodestate.save(folder, state, wrapping)
    return True
