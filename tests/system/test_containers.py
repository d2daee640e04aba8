"""A program in a real container asks the Workload API: its identity follows from what its engine says of it."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.enforcer.runtime import engines

pytestmark = [pytest.mark.system, pytest.mark.peer, pytest.mark.root, pytest.mark.slow]

NEEDS = engines.missing("podman", "runc", "conmon")
ROOT = pathlib.Path(__file__).parent.parent.parent
# asks once for each line that it reads
ASK = """
import sys
from spiffe import WorkloadApiClient
for line in sys.stdin:
    try:
        with WorkloadApiClient(socket_path=sys.argv[1]) as client:
            print(client.fetch_x509_svid().spiffe_id, flush=True)
    except Exception as err:
        print("refused", *str(err).split(), flush=True)
"""
RULES = """rules:
- id: container
  match: {"docker:image-digest": "@IMAGE", "docker:label:team": "*"}
  spiffe_id: "/team/{docker:label:team}"
  direct: true
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[engines.Engine]:
    if NEEDS:
        pytest.skip(NEEDS)
    with engines.folder() as folder, engines.podman(folder) as found:
        yield found


@contextlib.contextmanager
def asking(engine: engines.Engine, state: pathlib.Path, *options: str) -> Iterator[Callable[[], str]]:
    """A Python program in a container that has nothing of its own: the host's files are shown to it."""
    shown = {"/usr", "/lib", "/lib64", sys.base_prefix, str(ROOT), str(pathlib.Path(sys.prefix))}
    mounts = [part for path in sorted(shown) if pathlib.Path(path).is_dir() for part in ("-v", f"{path}:{path}:ro")]
    command = [
        *engine.command, "run", "-i", "--rm", "--network", "host", "--ulimit", "nofile=1024:1024",
        "--ulimit", "nproc=1024:1024", "--pids-limit", "0", *mounts, "-v", f"{state}:{state}", *options, engines.IMAGE,
        sys.executable, "-c", ASK, f"unix://{state}/agent.sock",
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask() -> str:
            # an engine that was slow is asked again
            for _ in range(50):
                stdin.write("\n")
                stdin.flush()
                if "LM3472" not in (answer := stdout.readline().strip()):
                    break
            return answer

        yield ask
        stdin.close()
        process.wait(timeout=200)


def test_a_container_gets_the_identity_of_its_image_and_labels(
    engine: engines.Engine, make_installation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMEN_DOCKER_SOCKET", engine.path)
    monkeypatch.setenv("LIMEN_CRI_SOCKET", "none")
    installation = make_installation()
    image = engines.run(*engine.command, "image", "inspect", engines.IMAGE, "--format", "{{.Id}}")
    installation.rules(RULES.replace("@IMAGE", f"sha256:{image.removeprefix('sha256:')}"))
    with asking(engine, installation.state, "--label", "team=checkout") as ask:
        assert ask() == "spiffe://test.limen/team/checkout"
        container = engines.run(*engine.command, "ps", "-q", "--no-trunc")
        (pid,) = engines.pids_of(container)
        explained = installation.json("identity", "explain", "--pid", str(pid))
        assert explained["spiffe_id"] == "spiffe://test.limen/team/checkout"
        assert explained["container_bound"] is True
        assert explained["sources"]["docker:label:team"] == f"docker at {engine.path}"
        # whoever is not in a container has none of that
        mine = json.loads(installation.limen("identity", "explain", "--pid", str(os.getpid()), "-o", "json").stdout)
        assert (mine["spiffe_id"], mine["missing"]) == (None, None)
    # another team is another identity, and a label that cannot stand in a path is none
    with asking(engine, installation.state, "--label", "team=ledger") as ask:
        assert ask() == "spiffe://test.limen/team/ledger"
    with asking(engine, installation.state, "--label", "team=../admin") as ask:
        assert "LM1212" in ask()
    rows = json.loads(installation.limen("check", "-o", "json").stdout)
    assert [row["level"] for row in rows if row["group"] == "containers"] == ["ok"]


def test_an_engine_that_is_away_gives_no_identity_and_says_so(
    engine: engines.Engine, make_installation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with engines.folder() as folder:
        away = folder / "away.sock"
        monkeypatch.setenv("LIMEN_DOCKER_SOCKET", str(away))
        monkeypatch.setenv("LIMEN_CRI_SOCKET", "none")
        installation = make_installation()
        installation.rules('rules:\n- id: all\n  match: {"unix:uid": "0"}\n  spiffe_id: "/host"\n  direct: true\n')
        with asking(engine, installation.state, "--label", "team=checkout") as ask:
            # a file that is no socket: somebody ought to be there, and nobody can be asked
            away.touch(mode=0o600)
            assert "LM3474" in ask()
            rows = json.loads(installation.limen("check", "-o", "json").stdout)
            assert [row["code"] for row in rows if row["group"] == "containers"] == ["LM3474"]
            away.unlink()
            away.symlink_to(engine.path)
            # what was refused is remembered for half a second only
            answers = [ask()]
            while "LM3474" in answers[-1] and len(answers) < 100:
                answers.append(ask())
            assert answers[-1] == "spiffe://test.limen/host"
