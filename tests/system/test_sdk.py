"""Programs that enforce by themselves, under a real agent and server: uvicorn and gRPC called by httpx2 and a channel.

The caller is a program too, launched as its callee is; it does what the test says, line by line.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.enforcer.test_agent import free_port

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1500)]

SERVER = """
from enforcer.sdk import connect
from enforcer.sdk.uvicornserver import serve

async def app(scope, receive, send):
    if scope["type"] == "http":
        body = (scope["limen"]["caller"] + " " + scope["path"]).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

serve(app, connect(timeout_s=120), log_level="error", lifespan="off")
"""
GRPC = """
import asyncio, sys
import grpc
from enforcer.sdk import connect
from enforcer.sdk.grpcaio import ServerInterceptor, caller, server_credentials

class Methods(grpc.GenericRpcHandler):
    def service(self, details):
        async def answer(request, context):
            return caller.get().encode() + b" " + request
        return grpc.unary_unary_rpc_method_handler(answer)

async def main():
    limen = connect(timeout_s=120)
    server = grpc.aio.server(interceptors=[ServerInterceptor(limen)])
    server.add_generic_rpc_handlers((Methods(),))
    address, port = limen.serves[0]
    server.add_secure_port(f"{address}:{port}", server_credentials(limen))
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""
CALLER = """
import asyncio, json, sys
import grpc, httpx2
from enforcer.sdk import connect
from enforcer.sdk.grpcaio import channel
from enforcer.sdk.httpxtransport import async_transport

limen = connect(timeout_s=120)

async def get(client, path):
    try:
        found = await client.get("http://web" + path)
        return [found.status_code, found.text]
    except httpx2.TransportError as err:
        return [0, str(err)]

async def call(way, method):
    try:
        return ["OK", (await way.unary_unary(method)(b"x", timeout=60)).decode()]
    except grpc.aio.AioRpcError as err:
        return [err.code().name, err.details()]

async def rotated(client, way):
    # until this program has another SVID and has used it: how many requests, and those that failed
    before, count, failed, left = limen.workload.identity.svid, 0, [], 100
    while left:
        for found in (await get(client, "/orders"), await call(way, "/shop.Prices/Get")):
            count += 1
            if found[0] not in (200, "OK"):
                failed.append(found)
        left -= limen.workload.identity.svid is not before
    return [count, failed]

async def main():
    async with httpx2.AsyncClient(transport=async_transport(limen), timeout=60) as client:
        async with channel(limen, "prices") as way:
            while line := await asyncio.to_thread(sys.stdin.readline):
                kind, _, what = line.strip().partition(" ")
                found = (
                    await get(client, what) if kind == "get" else await call(way, what) if kind == "call"
                    else await rotated(client, way) if kind == "rotated" else limen.spiffe_id
                )
                print(json.dumps(found), flush=True)

asyncio.run(main())
"""
TREE = """apiVersion: limen.dev/v1
kind: Service
metadata: {{name: web, owner: t}}
spec:
  identities: ["spiffe://test.limen/server"]
  ports: [{{port: {web}, protocol: http}}]
---
apiVersion: limen.dev/v1
kind: Service
metadata: {{name: prices, owner: t}}
spec:
  identities: ["spiffe://test.limen/grpc"]
  ports: [{{port: {prices}, protocol: grpc}}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: web, owner: t}}
spec:
  service: web
  tier: app
  rules:
  - {{id: orders, effect: allow, from: ["spiffe://test.limen/{who}"], to: [{{methods: [GET], paths: ["/orders"]}}]}}
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: prices, owner: t}}
spec:
  service: prices
  tier: app
  rules:
  - {{id: get, effect: allow, from: ["spiffe://test.limen/caller"], to: [{{paths: ["/shop.Prices/Get"]}}]}}
"""


class Place:
    """An installation, its programs, and the one that does what the test says."""

    def __init__(self, installation: Any, folder: pathlib.Path) -> None:
        self.installation, self.folder = installation, folder
        self.web, self.prices = free_port(), free_port()
        self._running: list[subprocess.Popen[str]] = []
        for name, code in (("server", SERVER), ("grpc", GRPC), ("caller", CALLER)):
            (folder / name).write_text(code)
        installation.rules(
            f'rules:\n- id: scripts\n  match: {{"launch:script": "{folder}/*"}}\n'
            '  spiffe_id: "/{launch:script_basename}"\n  direct: true\n'
        )
        self.publish("caller")
        self.run("server", "--inbound", str(self.web))
        self.run("grpc", "--inbound", str(self.prices))
        self._caller = self.run("caller")

    def run(self, name: str, *words: str) -> "subprocess.Popen[str]":
        state = str(self.installation.state)
        command = [sys.executable, "-m", "limen", "--state", state, "run", "--sdk", *words]
        process = subprocess.Popen(
            [*command, "--", sys.executable, str(self.folder / name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._running.append(process)
        return process

    def publish(self, who: str) -> None:
        """Let somebody read orders."""
        tree = self.folder / "tree"
        tree.mkdir(exist_ok=True)
        (tree / "all.yaml").write_text(TREE.format(web=self.web, prices=self.prices, who=who))
        done = self.installation.limen("policy", "publish", "--policies", str(tree))
        assert done.returncode == 0, done.stderr

    def begin(self, line: str) -> None:
        assert self._caller.stdin is not None
        print(line, file=self._caller.stdin, flush=True)

    def end(self) -> Any:
        assert self._caller.stdout is not None
        return json.loads(self._caller.stdout.readline())

    def ask(self, line: str) -> Any:
        """Have the caller do something, and return what came of it."""
        self.begin(line)
        return self.end()

    def close(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(60)
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()

    def shown(self, record: str) -> dict[str, Any]:
        """A record of the audit log; empty before it is there."""
        done = self.installation.limen("audit", "show", record, "-o", "json")
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


@pytest.fixture
def place(make_installation: Callable[..., Any]) -> Iterator[Place]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="limen-sdk-"))
    found = Place(make_installation(), folder)
    yield found
    found.close()
    shutil.rmtree(folder)


def test_programs_without_a_sidecar_are_identified_decided_recorded_and_renewed(
    place: Place, until: Callable[..., Any]
) -> None:
    me = "spiffe://test.limen/caller"
    # allowed
    until(lambda: place.ask("get /orders") == [200, f"{me} /orders"], 200)
    until(lambda: place.ask("call /shop.Prices/Get") == ["OK", f"{me} x"], 200)
    # denied, with how to ask why, and the answer to that in the log
    status, text = place.ask("get /admin")
    said = json.loads(text)
    assert (status, said["why"]) == (403, f"limen audit show {said['decision']}")
    code, details = place.ask("call /shop.Prices/Set")
    assert code == "PERMISSION_DENIED"
    for record, called in ((said["decision"], "server"), (details.rpartition(" ")[2], "grpc")):
        found = until(lambda record=record: place.shown(record), 120)
        assert found["source"] == f"sdk:spiffe://test.limen/{called}"
        assert (found["caller"], found["destination"]) == (me, f"spiffe://test.limen/{called}")
        assert found["decision"] == "deny"
    # every program gets another SVID while requests go on, and none of them fails
    place.begin("rotated")
    for what in ("issuing", "--svids"):
        done = place.installation.limen("identity", "rotate", what)
        assert done.returncode == 0, done.stderr
    count, failed = place.end()
    assert failed == []
    assert count >= 200
    # another policy reaches what is connected
    place.publish("nobody")
    until(lambda: place.ask("get /orders")[0] == 403, 120)
    place.publish("caller")
    until(lambda: place.ask("get /orders")[0] == 200, 120)
    # the agent falls, and nothing else does; what was decided meanwhile is in the log when the next one is there
    agent = place.installation.pid("agent")
    os.kill(agent, signal.SIGKILL)
    assert place.ask("get /orders")[0] == 200
    status, text = place.ask("get /meanwhile")
    assert status == 403
    until(lambda: place.installation.pid("agent") != agent, 120)
    assert until(lambda: place.shown(json.loads(text)["decision"]), 200)["path"] == "/meanwhile"
    assert place.ask("get /orders")[0] == 200


def test_a_program_that_was_not_launched_is_refused_and_one_without_direct_does_not_run(place: Place) -> None:
    beside = subprocess.run(
        [sys.executable, str(place.folder / "server")],
        env={**os.environ, "LIMEN_SDK_SOCKET": str(place.installation.state / "sidecars.sock")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert beside.returncode == 1
    assert "LM3463" in beside.stderr
    place.installation.rules(
        f'rules:\n- id: scripts\n  match: {{"launch:script": "{place.folder}/*"}}\n  spiffe_id: "/x"\n'
    )
    done = place.installation.limen("run", "--sdk", "--", sys.executable, str(place.folder / "server"))
    assert done.returncode != 0
    assert "LM3504" in done.stderr
