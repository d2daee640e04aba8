from typing import Any

import pytest

pytestmark = pytest.mark.system


def test_the_status_is_readable_and_machine_readable(installation: Any) -> None:
    found = installation.json("status")
    assert found["trust_domain"] == "test.limen"
    # others may have joined this installation and left again
    assert [row["is_connected"] for row in found["agents"]].count(True) == 1
    text = installation.limen("status").stdout
    assert "trust domain  test.limen" in text
    assert all(row["node"] in text for row in found["agents"])


def test_a_service_that_only_observes_is_said(make_installation: Any, tmp_path: Any, until: Any) -> None:
    found = make_installation()
    (tmp_path / "x.yaml").write_text(
        "apiVersion: limen.dev/v1\nkind: Service\nmetadata: {name: db, owner: t}\nspec:\n"
        '  identities: ["spiffe://test.limen/db"]\n  ports: [{port: 1, protocol: http}]\n'
        "  mode: observe\n  until: 2030-01-01T00:00:00Z\n"
    )
    done = found.limen("policy", "publish", "--policies", str(tmp_path))
    assert done.returncode == 0, done.stderr
    until(lambda: found.json("status")["agents"][0]["is_current"])
    assert "db only observes until 2030" in found.limen("status").stdout
    checked = found.limen("check")
    assert "LM5256" in checked.stdout
    assert checked.returncode == 0
    assert found.limen("check", "--strict").returncode == 1
