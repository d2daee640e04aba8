"""Federation with a real SPIRE server, both ways by https_spiffe, while its root rotates."""

import json
import pathlib
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ca.upstream.stepca import binary
from tests.ports import free_port

pytestmark = [pytest.mark.system, pytest.mark.peer, pytest.mark.slow]
CONFIG = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/server.sock"
  trust_domain = "spire.test"
  data_dir = "{folder}/data"
  log_level = "DEBUG"
  federation {{
    bundle_endpoint {{ address = "127.0.0.1" port = {endpoint} refresh_hint = "10s" profile "https_spiffe" {{}} }}
    federates_with "test.limen" {{
      bundle_endpoint_url = "{url}"
      bundle_endpoint_profile "https_spiffe" {{ endpoint_spiffe_id = "spiffe://test.limen/limen/server" }}
    }}
  }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/data/data.sqlite3" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
}}
"""


class SpireServer:
    def __init__(self, folder: pathlib.Path, url: str) -> None:
        self.folder, self.endpoint = folder, free_port()
        (folder / "data").mkdir()
        text = CONFIG.format(folder=folder, port=free_port(), endpoint=self.endpoint, url=url)
        (folder / "server.conf").write_text(text)
        self.log = (folder / "log").open("wb")
        command = [binary("spire-server"), "run", "-config", str(folder / "server.conf")]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def call(self, *words: str, given: str | None = None) -> str:
        command = [binary("spire-server"), *words, "-socketPath", f"{self.folder}/server.sock"]
        done = subprocess.run(command, check=False, capture_output=True, timeout=120, text=True, input=given)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def is_up(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
        command = [binary("spire-server"), "healthcheck", "-socketPath", f"{self.folder}/server.sock"]
        return subprocess.run(command, check=False, capture_output=True, timeout=120).returncode == 0

    def authority(self, state: str) -> str:
        found = json.loads(self.call("localauthority", "x509", "show", "-output", "json"))
        return str(found[state]["authority_id"])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture
def spire(installation: Any, tmp_path: pathlib.Path, until: Callable[..., Any]) -> Iterator[SpireServer]:
    found = SpireServer(tmp_path, installation.address("server", "federation"))
    until(found.is_up, 200)
    yield found
    found.close()


def roots(document: str) -> list[str]:
    return [item["x5c"][0] for item in json.loads(document)["keys"] if item["use"] == "x509-svid"]


def test_a_real_spire_server_and_limen_believe_each_other_through_a_rotation(
    installation: Any, spire: SpireServer, tmp_path: pathlib.Path, until: Callable[..., Any]
) -> None:
    # SPIRE reads our endpoint: it begins with a document without a number, and comes back with ours
    document = installation.limen("bundle", "show").stdout
    first = {"keys": [item for item in json.loads(document)["keys"] if item["use"] == "x509-svid"]}
    spire.call("bundle", "set", "-format", "spiffe", "-id", "spiffe://test.limen", given=json.dumps(first))
    spire.call("federation", "refresh", "-id", "test.limen")
    until(lambda: "Bundle refreshed" in (spire.folder / "log").read_text(), 200)
    held = spire.call("bundle", "list", "-id", "spiffe://test.limen", "-format", "spiffe")
    assert roots(held) == roots(document)
    assert json.loads(held)["spiffe_refresh_hint"] == json.loads(document)["spiffe_refresh_hint"]

    # we read SPIRE's
    (tmp_path / "spire.json").write_text(spire.call("bundle", "show", "-format", "spiffe"))
    command = ("federation", "add", "spire.test", "--url", f"https://127.0.0.1:{spire.endpoint}")
    more = ("--profile", "https_spiffe", "--endpoint-id", "spiffe://spire.test/spire/server")
    found = json.loads(
        installation.limen(*command, *more, "--bundle", str(tmp_path / "spire.json"), "-o", "json").stdout
    )
    assert (found["failed_polls"], found["x509_authorities"], found["refresh_hint_s"]) == (0, 1, 10)

    def refresh() -> dict[str, Any]:
        return dict(json.loads(installation.limen("federation", "refresh", "spire.test", "-o", "json").stdout))

    try:
        # SPIRE's root rotates: published, then used, then the old one tainted and revoked
        spire.call("localauthority", "x509", "prepare")
        assert refresh()["x509_authorities"] == 2
        spire.call("localauthority", "x509", "activate", "-authorityID", spire.authority("prepared"))
        assert refresh()["failed_polls"] == 0
        old = spire.authority("old")
        spire.call("localauthority", "x509", "taint", "-authorityID", old)
        until(lambda: refresh()["failed_polls"] == 0, 200)
        spire.call("localauthority", "x509", "revoke", "-authorityID", old)
        until(lambda: (now := refresh())["failed_polls"] == 0 and now["x509_authorities"] == 1, 200)
        kept = installation.limen("federation", "show", "spire.test", "--bundle").stdout
        assert roots(kept) == roots(spire.call("bundle", "show", "-format", "spiffe"))
        # the endpoint of somebody else of that domain is not the endpoint
        wrong = ("--profile", "https_spiffe", "--endpoint-id", "spiffe://spire.test/other", "--replace", "-o", "json")
        assert json.loads(installation.limen(*command, *wrong).stdout)["code"] == "LM1510"
    finally:
        installation.limen("federation", "remove", "spire.test")
