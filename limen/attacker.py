"""A stranger at `agent.sock`: asks for an X.509-SVID as any program could, and prints what it got.

`python -m limen.attacker SOCKET` runs in a process of its own, so that the agent sees a process of its own.
"""

from __future__ import annotations

import json
import re
import sys

import grpc

from mesh.proto import workload_pb2 as pb
from mesh.proto import workload_pb2_grpc

_CODE = re.compile(r"LM\d{4}")


def ask(socket_path: str) -> dict[str, object]:
    """Ask once; return the SPIFFE IDs that came, or the refusal's code."""
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)  # type: ignore[no-untyped-call]  # generated
        call = stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=(("workload.spiffe.io", "true"),), timeout=8)
        try:
            found = next(iter(call))
        except grpc.RpcError as err:
            code = _CODE.search(err.details() or "")
            return {"ids": [], "code": code.group() if code else "", "status": err.code().name}
        finally:
            call.cancel()
        return {"ids": [item.spiffe_id for item in found.svids]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(ask(sys.argv[1])))
