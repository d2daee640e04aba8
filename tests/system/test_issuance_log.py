"""The issuance log from outside: a proof for what was issued, and a name for what a stolen key signed."""

import datetime as dt
import json
import pathlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from audit.verify import verify_proof
from ca.keys import new_key
from ca.mint import Issuer, mint_svid
from limen.opening import stolen_issuer
from mesh.clock import SystemClock
from mesh.spiffe import SpiffeId

pytestmark = pytest.mark.system


def test_what_was_issued_is_proved_and_what_a_stolen_key_signed_is_named(
    installation: Any, tmp_path: pathlib.Path
) -> None:
    domain = installation.json("status")["trust_domain"]
    issued = installation.json("identity", "issue", f"spiffe://{domain}/ci/job", "--out", str(tmp_path / "out"))
    done = installation.limen("identity", "prove", issued["serial"])
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout)
    assert json.loads(proof["record"])["serial"] == issued["serial"]
    assert verify_proof(proof, (installation.state / "audit" / "key.pub").read_text().strip())
    assert "LM6056" in installation.limen("identity", "prove", "ff").stderr
    # the whole chain that a peer shows is known
    good = installation.limen("audit", "watch-issuance", str(tmp_path / "out" / "svid.pem"))
    assert (good.returncode, good.stdout.count("logged")) == (0, 2)
    # a thief with the key cannot write into the log
    chain, key = stolen_issuer(installation.state)
    forged = mint_svid(
        SpiffeId.parse(f"spiffe://{domain}/ci/job"),
        new_key().public_key(),
        Issuer(certificate=chain[0], key=key),
        serial=int(issued["serial"], 16),
        now=SystemClock().now(),
        life=dt.timedelta(hours=1),
    )
    pem = x509.load_der_x509_certificate(forged).public_bytes(Encoding.PEM)
    (tmp_path / "forged.pem").write_bytes(pem)
    bad = installation.limen("audit", "watch-issuance", "--cert", str(tmp_path / "forged.pem"))
    assert bad.returncode == 1
    assert "LM6058" in bad.stderr + bad.stdout
    assert "LM6057" in installation.limen("audit", "watch-issuance", str(tmp_path / "none")).stderr
    assert installation.limen("audit", "watch-issuance").returncode == 2
