"""A SPIRE server as the authority above ours: this server is a nested one, as SPIRE calls it.

Who we are is proved by an SVID of a downstream entry, which the SPIRE agent of this machine gives us over the
Workload API; who the server is, by its own SVID `spiffe://TRUST-DOMAIN/spire/server`. Both trust domains are one.
Written for SPIRE 1.15 (`spire.api.server.svid.v1.SVID/NewDownstreamX509CA`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TypeVar

import grpc
from cryptography import x509

from ca.upstream.chain import Upstreamed
from ca.upstream.splice import TIMEOUT_S, channel_over, connect
from ca.upstream.stepca import printable
from mesh.bundle import TrustBundle
from mesh.clock import Clock
from mesh.problems import Forbidden, Invalid, Problem, Unavailable
from mesh.proto import spire_pb2, spire_pb2_grpc, workload_pb2, workload_pb2_grpc
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain
from mesh.x509svid import X509Svid, split_chain

_T = TypeVar("_T")
SERVER_PATH = "/spire/server"
_REFUSED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT)


class SpireUpstream:
    """One SPIRE server, reached with what the agent of this machine gives us."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        *,
        address: str,
        workload_api: str,
        clock: Clock,
        spiffe_id: str = "",
        life: dt.timedelta | None = None,
    ) -> None:
        """Raises Invalid LM1610 for addresses that are none."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise Invalid("LM1610", given=address, reason="`address` is HOST:PORT")
        if not workload_api.startswith("unix:/"):
            raise Invalid("LM1610", given=workload_api, reason="`workload-api` is unix:///PATH of the agent's socket")
        self.name = f"spire:{address}"
        self._address = (host.strip("[]"), int(port))
        self._trust_domain, self._workload_api = trust_domain, workload_api
        self._spiffe_id, self._clock = spiffe_id, clock
        self._life_s = 0 if life is None else int(life.total_seconds())

    def mint(self, csr: bytes, now: dt.datetime) -> Upstreamed:
        """Ask for a downstream CA. Raises Unavailable LM1613, Forbidden LM1612, Invalid LM1614."""
        del now
        svid, bundle = self._identity()
        expected = SpiffeId(trust_domain=self._trust_domain, path=SERVER_PATH)
        secured = connect(self._address, svid, {self._trust_domain: bundle}, expected, self._clock, upstream=self.name)
        request = spire_pb2.NewDownstreamX509CARequest(csr=csr, preferred_ttl=self._life_s)
        with channel_over(secured) as channel:
            stub = spire_pb2_grpc.SVIDStub(channel)  # type: ignore[no-untyped-call]  # generated
            answer = self._reported(lambda: stub.NewDownstreamX509CA(request, timeout=TIMEOUT_S))
        return Upstreamed(
            chain=tuple(bytes(der) for der in answer.ca_cert_chain),
            roots=tuple(bytes(der) for der in answer.x509_authorities),
        )

    def _identity(self) -> tuple[X509Svid, TrustBundle]:
        """Our own SVID and bundle, of the machine's agent: the one that was named, or the only one."""
        with grpc.insecure_channel(self._workload_api, options=(("grpc.enable_http_proxy", 0),)) as channel:
            stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)  # type: ignore[no-untyped-call]  # generated

            def first() -> workload_pb2.X509SVIDResponse:
                mark = (("workload.spiffe.io", "true"),)
                stream = stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=mark, timeout=TIMEOUT_S)
                try:
                    found: workload_pb2.X509SVIDResponse = next(iter(stream))
                finally:
                    stream.cancel()
                return found

            answer = self._reported(first)
        fitting = [item for item in answer.svids if not self._spiffe_id or item.spiffe_id == self._spiffe_id]
        if len(fitting) != 1:
            named = self._spiffe_id or "which one, by `spiffe-id`"
            given = ", ".join(printable(item.spiffe_id) for item in answer.svids)
            raise Forbidden(
                "LM1612", upstream=self._workload_api, reason=f"it gives {given or 'nothing'}; name {named}"
            )
        return self._read(fitting[0])

    def _read(self, given: workload_pb2.X509SVID) -> tuple[X509Svid, TrustBundle]:
        try:
            chain, roots = split_chain(given.x509_svid), split_chain(given.bundle)
            svid = X509Svid(
                spiffe_id=SpiffeId.parse(given.spiffe_id),
                chain_der=chain,
                key_pkcs8_der=bytes(given.x509_svid_key),
                not_after=x509.load_der_x509_certificate(chain[0]).not_valid_after_utc,
            )
        except (Problem, SpiffeIdError, ValueError, IndexError) as err:
            raise Invalid("LM1614", upstream=self._workload_api, reason="its SVID cannot be read") from err
        if svid.spiffe_id.trust_domain != self._trust_domain:
            reason = f"its SVID is `{svid.spiffe_id}`, and this server's trust domain is `{self._trust_domain}`"
            raise Forbidden("LM1612", upstream=self._workload_api, reason=reason)
        return svid, TrustBundle(trust_domain=self._trust_domain, x509_authorities=roots)

    def _reported(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except StopIteration as err:
            raise Unavailable("LM1613", upstream=self.name, reason="the stream ended without an answer") from err
        except grpc.RpcError as err:
            code, said = _status(err)
            if code in _REFUSED:
                raise Forbidden("LM1612", upstream=self.name, reason=said) from err
            raise Unavailable("LM1613", upstream=self.name, reason=said) from err


def _status(err: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    code = err.code() if isinstance(err, grpc.Call) else grpc.StatusCode.UNKNOWN
    details = err.details() if isinstance(err, grpc.Call) else ""
    return code, printable(f"{code.name}: {details or ''}")
