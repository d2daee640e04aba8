import json
import pathlib
import secrets
from typing import Any

import pytest

from limen.__main__ import run
from tests.pki import Pki

pytestmark = pytest.mark.system


def test_a_relationship_from_add_to_remove(installation: Any, tmp_path: pathlib.Path) -> None:
    domain = f"{secrets.token_hex(4)}.test"
    first = tmp_path / "b.pem"
    first.write_bytes(Pki(domain).root.pem)
    command = ["federation", "add", domain, "--profile", "https_spiffe", "--endpoint-id", f"spiffe://{domain}/x"]
    # nobody listens there: the relationship stands, and says so
    done = installation.limen(*command, "--url", "https://127.0.0.1:1/x", "--bundle", str(first), "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["code"], found["x509_authorities"], found["is_changed"]) == ("LM1508", 1, False)
    assert domain in [row["trust_domain"] for row in installation.json("federation", "list")]
    assert domain in installation.limen("federation", "list").stdout
    assert "LM1508" in installation.limen("federation", "show", domain).stdout
    assert len(json.loads(installation.limen("federation", "show", domain, "--bundle").stdout)["keys"]) == 1
    assert installation.limen("federation", "refresh", domain).returncode == 1
    reached = installation.json("federation", "reach", f"spiffe://{domain}/db", "127.0.0.9", "8443")
    assert reached["endpoints"] == [[f"spiffe://{domain}/db", "127.0.0.9", 8443]]
    assert "LM1503" in installation.limen(*command, "--url", "https://127.0.0.1:1/x", "--bundle", str(first)).stderr
    assert "nothing was changed" in installation.limen("federation", "remove", domain, "--dry-run").stderr
    assert installation.json("federation", "remove", domain)["is_removed"] is True
    gone = installation.limen("federation", "remove", domain)
    assert gone.returncode == 2
    assert "LM1504" in gone.stderr


def test_a_file_that_cannot_be_read_is_said(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["federation", "add", "b.test", "--url", "https://b.test/", "--profile", "https_web", "--bundle"]
    assert run([*command, str(tmp_path / "none")]) == 2
    assert "LM1519" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "place"),
    [('{"keys": [', ":1:11: "), ('{\n "keys": x}', ":2:10: "), ('{"a":' * 9000, "")],
    ids=["short", "word", "deep"],
)
def test_a_bundle_that_is_no_json_is_named_by_line_and_column(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], text: str, place: str
) -> None:
    bad = tmp_path / "b.json"
    bad.write_text(text)
    words = ["--url", "https://b.example/", "--profile", "https_spiffe", "--endpoint-id", "spiffe://b.example/x"]
    assert run(["federation", "add", "b.example", *words, "--bundle", str(bad)]) == 2
    found = capsys.readouterr()
    assert (found.out, "LM1519" in found.err, f"{bad}{place}" in found.err) == ("", True, True)
