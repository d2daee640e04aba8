"""A Workload API with real certificates and tokens that breaks the one statement that a test names."""

import contextlib
import datetime as dt
import json
import pathlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.jwtmint import JwtSigner, mint_jwt_svid
from ca.keys import new_key
from ca.trustmaking import public_jwk
from mesh.bundle import TrustBundle
from mesh.clock import SystemClock
from mesh.jwtsvid import verify_jwt_svid
from mesh.problems import Problem
from mesh.proto import workload_pb2 as pb
from mesh.proto import workload_pb2_grpc
from mesh.spiffe import SpiffeId, TrustDomain
from tests.pki import Pki

DOMAIN = TrustDomain.parse("corp.test")
NAME = "spiffe://corp.test/ns/web/sa/front"


class Workloads(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    def __init__(self, broken: str) -> None:
        self.broken = broken
        now = SystemClock().now()
        window = {"begin": now - dt.timedelta(minutes=1), "end": now + dt.timedelta(hours=1)}
        pki = Pki()
        self.root = pki.signer(subject="root", **window)
        self.leaf = pki.leaf("/ns/web/sa/front", issuer=self.root, **window)
        self.other = pki.leaf("/ns/web/sa/other", issuer=pki.signer(subject="other", **window), **window)
        self.signer = JwtSigner(kid="k1", key=new_key())
        self.jwk = public_jwk("k1", self.signer.key.public_key())  # type: ignore[arg-type]

    def check(self, context: Any) -> None:
        said = [value for name, value in context.invocation_metadata() if name == "workload.spiffe.io"]
        wanted = {"E-4": [["true"], []], "E-3": [["true"], ["True"]]}.get(self.broken, [["true"]])
        if said not in wanted:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "header")

    def serve(self, message: Any, context: Any) -> Iterator[Any]:
        self.check(context)
        yield message
        while self.broken != "W-4" and context.is_active():
            time.sleep(0.01)

    def FetchX509SVID(self, request: Any, context: Any) -> Iterator[Any]:
        chain = self.other if self.broken == "X-16" else self.leaf
        key = chain.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        svid = pb.X509SVID(
            spiffe_id="spiffe://corp.test/else" if self.broken == "W-8" else NAME,
            x509_svid=chain.der,
            x509_svid_key=b"x" if self.broken == "W-9" else key,
            bundle=b"-----BEGIN" if self.broken == "W-10" else self.root.der,
            hint="h",
        )
        count = {"W-7": 0, "W-11": 2}.get(self.broken, 1)
        yield from self.serve(pb.X509SVIDResponse(svids=[svid] * count), context)

    def FetchX509Bundles(self, request: Any, context: Any) -> Iterator[Any]:
        name = "corp.test" if self.broken == "W-13" else "spiffe://corp.test"
        yield from self.serve(pb.X509BundlesResponse(bundles={name: self.root.der}), context)

    def FetchJWTSVID(self, request: Any, context: Any) -> Any:
        self.check(context)
        if not request.audience and self.broken != "W-6":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience")
        if request.spiffe_id not in {"", NAME} and self.broken != "W-16":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not yours")
        token, _ = mint_jwt_svid(
            SpiffeId.parse(NAME + "x" if self.broken == "J-9" else NAME),
            list(request.audience) or ["x"],
            self.signer,
            now=SystemClock().now(),
            life=dt.timedelta(minutes=5),
            jti="1",
        )
        if self.broken == "J-1":
            token = json.dumps({"payload": token})
        return pb.JWTSVIDResponse(svids=[pb.JWTSVID(spiffe_id=NAME, svid=token)])

    def FetchJWTBundles(self, request: Any, context: Any) -> Iterator[Any]:
        key = {**json.loads(self.jwk), "use": "sig" if self.broken == "J-17" else "jwt-svid"}
        if self.broken == "J-18":
            del key["kid"]
        data = json.dumps({"keys": [key]}).encode()
        yield from self.serve(pb.JWTBundlesResponse(bundles={"spiffe://corp.test": data}), context)

    def ValidateJWTSVID(self, request: Any, context: Any) -> Any:
        self.check(context)
        bundle = TrustBundle(trust_domain=DOMAIN, jwt_authorities=(self.jwk,))
        answer = pb.ValidateJWTSVIDResponse(spiffe_id=NAME)
        try:
            found = verify_jwt_svid(request.svid, request.audience, {DOMAIN: bundle}, SystemClock().now())
        except Problem as problem:
            if self.broken != "W-17":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(problem))
            return answer
        answer.claims.update(found.claims)
        return answer


@contextlib.contextmanager
def serving(folder: pathlib.Path, service: Workloads) -> Iterator[str]:
    with ThreadPoolExecutor(16) as threads:
        server = grpc.server(threads)
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        path = folder / "api.sock"
        server.add_insecure_port(f"unix:{path}")
        server.start()
        try:
            yield f"unix://{path}"
        finally:
            server.stop(0).wait()


def served(folder: pathlib.Path, broken: str = "") -> contextlib.AbstractContextManager[str]:
    return serving(folder, Workloads(broken))
