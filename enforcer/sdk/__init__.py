"""Limen inside a Python application, without a proxy: the sidecar's verifier, decisions and records in this process.

`connect` asks the agent of `limen run --sdk` for this program's SVID, bundles and policies and keeps them current.
What is made of them: TLS contexts (`Limen.server_context`, `Limen.client_context`), ASGI (`enforcer.sdk.asgi`,
`enforcer.sdk.uvicornserver`), httpx (`enforcer.sdk.httpxtransport`) and gRPC (`enforcer.sdk.grpcaio`). Only the last
one loads grpc; nothing here loads protobuf, pydantic or YAML.
"""

from enforcer.sdk.runtime import Limen as Limen
from enforcer.sdk.runtime import connect as connect
