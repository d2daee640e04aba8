import datetime as dt
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mesh.clock import SystemClock

pytestmark = pytest.mark.system


def agent(state: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limen", "--state", str(state), "agent", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_first_start_needs_a_token(tmp_path: pathlib.Path) -> None:
    done = agent(tmp_path, "--join", "https://127.0.0.1:1")
    assert done.returncode == 2
    assert "LM3445" in done.stderr


def test_a_token_of_another_server_is_refused(
    installation: Any, make_installation: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    other = make_installation()
    token = other.json("token", "create")["token"]
    url = installation.address("server", "tls")
    done = agent(tmp_path, "--join", url, "--token", token)
    assert done.returncode == 4
    assert "LM3442" in done.stderr
    assert token not in done.stderr


def test_a_second_host_joins_serves_and_leaves(
    installation: Any, tmp_path: pathlib.Path, until: Callable[..., Any]
) -> None:
    found = installation.json("token", "create")
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "limen",
            "--state",
            str(tmp_path),
            "agent",
            "--join",
            installation.address("server", "tls"),
            "--token",
            found["token"],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready agent\n"
        until(lambda: len([row for row in installation.json("status")["agents"] if row["is_connected"]]) == 2)
        process.terminate()
        assert process.wait(timeout=100) == 0
    assert not (tmp_path / "agent.sock").exists()
    until(lambda: len([row for row in installation.json("status")["agents"] if row["is_connected"]]) == 1)


PIN = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--attest", "nonsense"], "LM3448"),
        (["--attest", "oidc:env=NOT_SET"], "LM3452"),
        (["--attest", "oidc:env=NOT_SET", "--server-key", PIN], "LM3452"),
        (["--attest", "oidc:env=NOT_SET", "--server-key", PIN, "--reviewers", "sha256:0"], "LM3452"),
        (["--attest", "oidc:env=NOT_SET", "--server-key", PIN, "--reviewers", PIN], "LM3443"),
    ],
    ids=["no-method", "no-pins", "no-reviewers", "no-pin", "nobody-there"],
)
def test_an_attestation_without_pins_asks_nobody(tmp_path: pathlib.Path, options: list[str], code: str) -> None:
    done = agent(tmp_path, "--join", "https://127.0.0.1:1", *options)
    assert done.returncode in {2, 3}
    assert code in done.stderr


def test_a_certified_host_comes_in_and_another_server_than_the_pinned_one_does_not_get_it(
    make_installation: Callable[..., Any], tmp_path: pathlib.Path, until: Callable[..., Any]
) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from tests.pki import make, usage

    installation = make_installation()
    now = SystemClock().now()
    times: Any = {"begin": now - dt.timedelta(hours=1), "end": now + dt.timedelta(hours=1)}
    ca = make(subject="machines", ca=True, key_usage=usage(key_cert_sign=True), extended=None, **times)
    host = make(issuer=ca, subject="web-1", key_usage=usage(digital_signature=True), **times)
    (tmp_path / "crt").write_bytes(host.pem)
    (tmp_path / "key").write_bytes(host.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (installation.state / "ca.pem").write_bytes(ca.pem)
    (installation.state / "attestors.yaml").write_text("attestors:\n- {name: vm, type: x509pop, ca: ca.pem}\n")
    until(lambda: "vm" in installation.limen("audit", "tail", "-o", "jsonl").stdout)
    pins = installation.json("node", "pins")
    options = ["--join", pins["url"], "--attest", f"x509pop:cert={tmp_path}/crt,key={tmp_path}/key", "--reviewers"]
    done = agent(tmp_path / "a", *options, pins["reviewers"], "--server-key", PIN)
    assert (done.returncode, "LM3442" in done.stderr) == (4, True)
    command = [sys.executable, "-m", "limen", "--state", str(tmp_path / "b"), "agent", *options, pins["reviewers"]]
    with subprocess.Popen(
        [*command, "--server-key", pins["server"]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready agent\n"
        assert "vm.web-1" in {row["node"] for row in installation.json("node", "list")}
        process.terminate()
        assert process.wait(timeout=100) == 0
