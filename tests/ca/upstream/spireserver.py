"""A real SPIRE server and agent in a temporary directory."""

import contextlib
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator

from tests.ca.upstream.stepca import binary
from tests.ports import free_port

SERVER = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/server.sock"
  trust_domain = "corp.test"
  data_dir = "{folder}/server"
  log_level = "DEBUG"
  ca_ttl = "24h"
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/server/data.sqlite3" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
}}
"""
AGENT = """
agent {{
  data_dir = "{folder}/agent"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{folder}/agent.sock"
  trust_bundle_path = "{folder}/bundle.pem"
  trust_domain = "corp.test"
  log_level = "DEBUG"
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""


class Spire:
    """The two processes. `entry` makes one identity for this user's processes."""

    def __init__(self, folder: pathlib.Path, port: int) -> None:
        self.folder, self.port = folder, port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def workload_api(self) -> str:
        return f"unix://{self.folder}/agent.sock"

    def server(self, *words: str) -> str:
        command = [binary("spire-server"), *words, "-socketPath", f"{self.folder}/server.sock"]
        return subprocess.run(command, check=True, capture_output=True, timeout=120, text=True).stdout

    def entry(self, path: str, *more: str) -> None:
        self.server(
            *("entry", "create", "-spiffeID", f"spiffe://corp.test{path}", "-parentID", "spiffe://corp.test/host"),
            *("-selector", f"unix:uid:{os.getuid()}", *more),
        )


def _wait(process: subprocess.Popen[bytes], command: list[str], log: pathlib.Path) -> None:
    for _ in range(600):
        if subprocess.run(command, check=False, capture_output=True, timeout=120).returncode == 0:
            return
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


@contextlib.contextmanager
def running_spire(folder: pathlib.Path) -> Iterator[Spire]:
    """Start server and agent; end both."""
    server, agent = binary("spire-server"), binary("spire-agent")
    found = Spire(folder, free_port())
    for name in ("server", "agent"):
        (folder / name).mkdir()
    (folder / "server.conf").write_text(SERVER.format(folder=folder, port=found.port))
    (folder / "agent.conf").write_text(AGENT.format(folder=folder, port=found.port))
    with contextlib.ExitStack() as stack:

        def start(*command: str, log: str) -> subprocess.Popen[bytes]:
            out = stack.enter_context((folder / log).open("wb"))
            process = subprocess.Popen(command, stdout=out, stderr=out)
            stack.callback(process.wait, 100)
            stack.callback(process.terminate)
            return process

        first = start(server, "run", "-config", str(folder / "server.conf"), log="server.log")
        _wait(first, [server, "healthcheck", "-socketPath", f"{folder}/server.sock"], folder / "server.log")
        (folder / "bundle.pem").write_text(found.server("bundle", "show"))
        made = found.server("token", "generate", "-spiffeID", "spiffe://corp.test/host", "-output", "json")
        token = json.loads(made)["value"]
        second = start(*(agent, "run", "-config", str(folder / "agent.conf"), "-joinToken", token), log="agent.log")
        _wait(second, [agent, "healthcheck", "-socketPath", f"{folder}/agent.sock"], folder / "agent.log")
        yield found
