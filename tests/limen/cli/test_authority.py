import pathlib
import stat
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.tools import needs

pytestmark = pytest.mark.system


def rows(installation: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in installation.json("identity", "authorities")["authorities"]:
        found.setdefault(f"{row['kind']} {row['state']}", []).append(row["id"])
    return found


def openssl(folder: pathlib.Path, *command: str) -> int:
    return subprocess.run(["openssl", *command], cwd=folder, capture_output=True, check=False).returncode


def test_every_kind_rotates_while_an_agent_follows_and_an_old_one_is_tainted_and_revoked(
    make_installation: Callable[..., Any], until: Callable[..., Any]
) -> None:
    installation = make_installation()
    first = rows(installation)
    for kind in ("issuing", "root", "jwt"):
        done = installation.json("identity", "rotate", kind)
        assert (done["state"], done["agents"]) == ("active", 1)
    found = rows(installation)
    assert not {*first["issuing active"], *first["root active"], *first["jwt active"]} & {
        *found["issuing active"],
        *found["root active"],
        *found["jwt active"],
    }
    (old,) = first["issuing active"]
    refused = installation.limen("identity", "revoke", old)
    assert refused.returncode == 2
    assert "LM1308" in refused.stderr
    assert "would be tainted" in installation.limen("identity", "taint", old, "--dry-run").stdout
    assert "is tainted" in installation.limen("identity", "taint", old).stdout
    assert installation.json("identity", "revoke", old, "--force")["state"] == "revoked"
    assert installation.limen("identity", "revoke", found["issuing active"][0], "--force").returncode == 2
    # the node's own SVID was of the revoked one: it comes back by itself
    until(lambda: installation.json("status")["agents"][0]["is_connected"], 60)
    until(lambda: installation.json("identity", "authorities")["agents_behind"] == [], 60)


@pytest.mark.peer
@needs("openssl")
def test_an_svid_by_hand_is_good_for_openssl_until_it_is_revoked(installation: Any, tmp_path: pathlib.Path) -> None:
    domain = installation.json("status")["trust_domain"]
    name = f"spiffe://{domain}/ci/job"
    found = installation.json("identity", "issue", name, "--out", str(tmp_path / "out"), "--dns", "ci.test")
    assert stat.S_IMODE((tmp_path / "out" / "key.pem").stat().st_mode) == 0o600
    check = ("verify", "-CAfile", "out/bundle.pem", "-untrusted", "out/svid.pem", "out/svid.pem")
    assert openssl(tmp_path, *check) == 0
    assert installation.limen("identity", "show", found["serial"]).returncode == 0
    assert "nothing was revoked" in installation.limen("identity", "revoke", name, "--dry-run").stderr
    assert installation.limen("identity", "revoke", found["serial"], "--reason", "lost").returncode == 0
    shown = installation.limen("identity", "show", name)
    assert shown.returncode == 1
    assert "lost" in shown.stdout
    assert "LM1311" in installation.limen("identity", "show", "ff").stderr


@pytest.mark.peer
@needs("openssl")
def test_a_request_is_answered_with_its_own_key_and_a_token_is_printed(
    installation: Any, tmp_path: pathlib.Path
) -> None:
    domain = installation.json("status")["trust_domain"]
    name = f"spiffe://{domain}/ci/request"
    made = openssl(
        tmp_path, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", "k.pem", "-out", "r.pem", "-subj", "/CN=x",
    )  # fmt: skip
    assert made == 0
    assert installation.limen("identity", "issue", name, "--csr", str(tmp_path / "r.pem")).stdout.count("BEGIN") >= 2
    (tmp_path / "bad.pem").write_text("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")
    for file, reason in (("bad.pem", "no PKCS#10 request"), ("gone.pem", "No such file")):
        refused = installation.limen("identity", "issue", name, "--csr", str(tmp_path / file)).stderr
        assert "LM1617" in refused
        assert reason in refused
    assert installation.limen("identity", "issue", name).returncode == 2
    assert installation.limen("identity", "issue", name, "--audience", "a").stdout.count(".") == 2
    assert "LM1315" in installation.limen("identity", "issue", "spiffe://other.test/a", "--audience", "a").stderr
