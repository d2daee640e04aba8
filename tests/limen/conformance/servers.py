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
import jwt
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from google.protobuf import descriptor_pb2, descriptor_pool, struct_pb2
from grpc_reflection.v1alpha import reflection

from ca.jwtmint import JwtSigner
from ca.keys import new_key
from ca.trustmaking import public_jwk
from mesh.bundle import TrustBundle
from mesh.clock import SystemClock
from mesh.jwtsvid import verify_jwt_svid
from mesh.problems import Problem
from mesh.proto import workload_pb2 as pb
from mesh.proto import workload_pb2_grpc
from mesh.spiffe import TrustDomain
from tests.pki import Pki, usage

DOMAIN = TrustDomain.parse("corp.test")
NAME = "spiffe://corp.test/ns/web/sa/front"


LEAVES: dict[str, dict[str, Any]] = {
    "X-1": {"uris": (NAME, "spiffe://corp.test/else")},
    "X-2": {"uris": ("spiffe://corp.test",)},
    "X-3": {"san_critical": False},
    "X-6": {"ca": True},
    "X-8": {"usage_critical": False},
    "X-10": {"key_usage": usage(key_agreement=True)},
    "X-11": {"key_usage": usage(digital_signature=True, crl_sign=True)},
    "X-12": {"extended": None},
    "X-13": {"extended": (ExtendedKeyUsageOID.SERVER_AUTH,)},
}
SIGNERS: dict[str, dict[str, Any]] = {
    "X-4": {"uris": ("spiffe://corp.test/with/path",)},
    "X-5": {"uris": ("spiffe://other.test",)},
    "X-7": {"ca": False},
    "X-8-signer": {"usage_critical": False},
    "X-9": {"key_usage": usage(crl_sign=True)},
}
HEADS: dict[str, dict[str, Any]] = {"J-3": {"jku": "https://evil.test/"}, "J-8": {"typ": "at+jwt"}}
CLAIMS: dict[str, dict[str, Any]] = {
    "J-9": {"sub": NAME + "x"},
    "J-10": {"aud": None},
    "J-13": {"exp": None},
    "J-15": {"exp": 1},
    "W-16-audience": {"aud": ["else"]},
}


class Guard(grpc.ServerInterceptor):  # type: ignore[misc]
    """Demands the header of every call, also of one for what is not there."""

    def __init__(self, broken: str) -> None:
        self.wanted = {"E-4": [["true"], []], "E-3": [["true"], ["True"]]}.get(broken, [["true"]])

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        said = [value for name, value in details.invocation_metadata if name == "workload.spiffe.io"]
        if said in self.wanted:
            return continuation(details)

        def refuse(_: Any, context: Any) -> Any:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "header")

        return grpc.stream_stream_rpc_method_handler(refuse)


class HalfWit(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Serves one of the WIT methods, and not the other."""

    def service(self, details: Any) -> Any:
        if details.method != "/SpiffeWorkloadAPI/FetchWITSVID":
            return None
        return grpc.unary_stream_rpc_method_handler(lambda _request, _context: iter([b""]))


class Workloads(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    def __init__(self, broken: str) -> None:
        self.broken = broken
        now = SystemClock().now()
        window = {"begin": now - dt.timedelta(minutes=1), "end": now + dt.timedelta(hours=1)}
        pki = Pki()
        self.root = pki.signer(subject="root", **{**window, **SIGNERS.get(broken, {})})
        self.middle = pki.signer(self.root, subject="middle", **window)
        self.leaf = pki.leaf("/ns/web/sa/front", issuer=self.root, **{**window, **LEAVES.get(broken, {})})
        self.other = pki.leaf("/ns/web/sa/other", issuer=pki.signer(subject="other", **window), **window)
        self.asked = 0
        self.signer = JwtSigner(kid="k1", key=new_key())
        self.jwk = public_jwk("k1", self.signer.key.public_key())  # type: ignore[arg-type]

    def check(self, context: Any) -> None:
        """For a server that looks at every call."""

    def serve(self, message: Any, context: Any) -> Iterator[Any]:
        self.check(context)
        yield message
        while self.broken != "W-4" and context.is_active():
            time.sleep(0.01)

    def FetchX509SVID(self, request: Any, context: Any) -> Iterator[Any]:
        self.asked += 1
        chain = self.other if self.broken == "X-16" else self.leaf
        form = PrivateFormat.TraditionalOpenSSL if self.broken == "W-9" else PrivateFormat.PKCS8
        svid = pb.X509SVID(
            spiffe_id={"W-8": "spiffe://corp.test/else", "ID-1": "spiffe://corp.test/a//b"}.get(self.broken, NAME),
            x509_svid=chain.der,
            x509_svid_key=b""
            if self.broken == "W-6-fields"
            else chain.key.private_bytes(Encoding.DER, form, NoEncryption()),
            bundle={"W-10": b"-----BEGIN", "X-28": self.middle.der}.get(self.broken, self.root.der),
            hint="h" * (1025 if self.broken == "W-11-long" else 1),
        )
        found = [svid] * {"W-7": 0, "W-11": 2}.get(self.broken, 1)
        if self.broken == "W-11-order":
            found.insert(self.asked % 2, pb.X509SVID(spiffe_id="spiffe://corp.test/b"))
        message = pb.X509SVIDResponse(svids=found)
        if self.broken == "W-10-names":
            message.federated_bundles["other.test"] = self.root.der
        if self.broken == "W-2":
            # field 9, a varint
            message.MergeFromString(b"\x48\x01")
        yield from self.serve(message, context)

    def FetchX509Bundles(self, request: Any, context: Any) -> Iterator[Any]:
        name = "corp.test" if self.broken == "W-13" else "spiffe://corp.test"
        yield from self.serve(pb.X509BundlesResponse(bundles={name: self.root.der}), context)

    def FetchJWTSVID(self, request: Any, context: Any) -> Any:
        self.check(context)
        if not request.audience and self.broken != "W-6":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience")
        if request.spiffe_id not in {"", NAME} and self.broken != "W-16":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not yours")
        now = int(SystemClock().now().timestamp())
        claims = {"sub": NAME, "aud": list(request.audience) or ["x"], "exp": now + 300, **CLAIMS.get(self.broken, {})}
        claims = {name: value for name, value in claims.items() if value is not None}
        key, alg = ("s" * 32, "HS256") if self.broken == "J-4" else (self.signer.key, "ES256")
        token = jwt.encode(claims, key, alg, {"kid": "k1", **HEADS.get(self.broken, {})})  # type: ignore[arg-type]
        if self.broken == "J-1":
            token = json.dumps({"payload": token})
        return pb.JWTSVIDResponse(svids=[pb.JWTSVID(spiffe_id=NAME, svid=token)])

    def FetchJWTBundles(self, request: Any, context: Any) -> Iterator[Any]:
        key = {**json.loads(self.jwk), "use": "sig" if self.broken == "J-17" else "jwt-svid"}
        if self.broken == "J-18":
            del key["kid"]
        if self.broken == "J-20":
            key |= json.loads(public_jwk("k1", new_key().public_key()))
        if self.broken == "no-use":
            del key["use"]
        if self.broken == "B-9":
            del key["kty"]
        data = json.dumps({"B-1": [key], "B-6": {}}.get(self.broken, {"keys": [key]})).encode()
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


def handlers_of(broken: str) -> list[Any]:
    return [HalfWit()] if broken == "W-1" else []


def pool_of(broken: str) -> Any:
    """What reflection tells of the service, with a method more when that is what is broken."""
    pool = descriptor_pool.DescriptorPool()
    for file in (struct_pb2.DESCRIPTOR, pb.DESCRIPTOR):
        found = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(found)
        if file is pb.DESCRIPTOR and broken == "E-13":
            found.service[0].method.append(found.service[0].method[0])
            found.service[0].method[-1].name = "FetchEverything"
        pool.Add(found)
    return pool


@contextlib.contextmanager
def serving(folder: pathlib.Path, service: Workloads) -> Iterator[str]:
    with ThreadPoolExecutor(16) as threads:
        server = grpc.server(threads, handlers_of(service.broken), [Guard(service.broken)])
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        if service.broken != "E-14":
            pool = pool_of(service.broken)
            reflection.enable_server_reflection(["SpiffeWorkloadAPI"], server, pool)
        path = folder / "api.sock"
        server.add_insecure_port(f"unix:{path}")
        server.start()
        try:
            yield f"unix://{path}"
        finally:
            server.stop(0).wait()


def served(folder: pathlib.Path, broken: str = "") -> contextlib.AbstractContextManager[str]:
    return serving(folder, Workloads(broken))
