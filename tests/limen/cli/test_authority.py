import pathlib
import ssl
import stat
import subprocess
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from limen.__main__ import run
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
    make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path
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
    assert refused.returncode == 1
    assert "LM1308" in refused.stderr
    assert "would be tainted" in installation.limen("identity", "taint", old, "--dry-run").stdout
    assert "is tainted" in installation.limen("identity", "taint", old).stdout
    # everything it signed is replaced, the agent's own SVID too: then nothing breaks, and nobody has to force it
    done = until(
        lambda: found if (found := installation.limen("identity", "revoke", old)).returncode == 0 else None, 60
    )
    assert "is revoked" in done.stdout
    assert installation.json("status")["agents"][0]["is_connected"]
    assert installation.limen("identity", "revoke", found["issuing active"][0], "--force").returncode == 1
    # what the replaced root signed for its successor stands in every chain, and is no stolen key's work
    installation.limen("identity", "issue", "spiffe://test.limen/x", "--out", str(tmp_path))
    assert (tmp_path / "svid.pem").read_text().count("BEGIN") == 3
    assert installation.limen("audit", "watch-issuance", str(tmp_path / "svid.pem")).returncode == 0
    # as OpenSSL prints a serial number
    (serial,) = {row["serial"] for row in installation.json("identity", "show", "spiffe://test.limen/x")}
    spelled = f"0{serial}" if len(serial) % 2 else serial
    spelled = ":".join(spelled[place : place + 2] for place in range(0, len(spelled), 2)).upper()
    assert installation.limen("identity", "prove", spelled).returncode == 0
    assert installation.json("identity", "revoke", spelled)["revoked"][0]["serial"] == serial
    assert installation.limen("identity", "show", spelled).returncode == 1
    assert serial not in installation.limen("identity", "list").stdout
    until(lambda: installation.json("identity", "authorities")["agents_behind"] == [], 200)


@pytest.mark.parametrize("verb", ["revoke", "taint", "show"])
def test_nothing_is_no_name(verb: str) -> None:
    assert run(["identity", verb, " "]) == 2


def fetch(installation: Any, path: str, body: bytes | None = None) -> bytes:
    """A public document of the server's TLS port, whose certificate is none of the web's."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    url = installation.address("server", "tls") + path
    headers = {"content-type": "application/ocsp-request"} if body else {}
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.urlopen(request, context=context, timeout=60) as answer:
        return bytes(answer.read())


def check_documents(installation: Any, folder: pathlib.Path) -> None:
    """OpenSSL reads in the list and in the OCSP answer, as they are served, that the SVID is revoked."""
    (authority,) = rows(installation)["issuing active"]
    (folder / "list.crl").write_bytes(fetch(installation, f"/crl/{authority}.crl"))
    leaf, issuing = (folder / "out" / "svid.pem").read_text().split("-----END CERTIFICATE-----\n", 1)
    (folder / "leaf.pem").write_text(leaf + "-----END CERTIFICATE-----\n")
    (folder / "issuing.pem").write_text(issuing)
    assert (
        openssl(folder, "crl", "-inform", "DER", "-in", "list.crl", "-out", "list.pem", "-CAfile", "issuing.pem") == 0
    )
    listed = ("verify", "-CAfile", "out/bundle.pem", "-untrusted", "issuing.pem", "-CRLfile", "list.pem")
    done = subprocess.run(
        ["openssl", *listed, "-crl_check", "leaf.pem"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "certificate revoked" in done.stderr
    asked = ("ocsp", "-issuer", "issuing.pem", "-cert", "leaf.pem", "-no_nonce", "-reqout", "ask.der")
    assert openssl(folder, *asked) == 0
    (folder / "answer.der").write_bytes(fetch(installation, "/ocsp", (folder / "ask.der").read_bytes()))
    done = subprocess.run(
        ["openssl", "ocsp", "-respin", "answer.der", "-issuer", "issuing.pem", "-cert", "leaf.pem", "-no_nonce",
         "-CAfile", "out/bundle.pem", "-verify_other", "issuing.pem", "-partial_chain"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "leaf.pem: revoked" in done.stdout, done.stderr
    assert "Response verify OK" in done.stderr


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
    check_documents(installation, tmp_path)
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
