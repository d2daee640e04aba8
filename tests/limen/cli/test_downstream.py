import os
import pathlib
import stat
from typing import Any

import pytest

pytestmark = pytest.mark.system


def test_a_server_is_allowed_by_a_token_in_a_file_for_its_owner_alone(
    installation: Any, tmp_path: pathlib.Path
) -> None:
    token = tmp_path / "token"
    done = installation.limen("identity", "downstream", "allow", "cli", "--life", "12h", "--out", str(token))
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(os.stat(token).st_mode) == 0o600
    assert token.read_text().count(".") == 2
    assert token.read_text().strip() not in done.stdout + done.stderr
    (row,) = [row for row in installation.json("identity", "downstream", "list") if row["name"] == "cli"]
    assert (row["life_s"], row["is_connected"]) == (12 * 3600, False)
    dry = installation.limen("identity", "downstream", "remove", "cli", "--dry-run")
    assert "would be removed" in dry.stdout
    assert installation.limen("identity", "downstream", "remove", "cli").returncode == 0
    again = installation.limen("identity", "downstream", "remove", "cli")
    assert (again.returncode, "LM1624" in again.stderr) == (2, True)


def test_a_life_that_is_none_is_refused(installation: Any) -> None:
    for life in ("1y", "30m", "100d"):
        done = installation.limen("identity", "downstream", "allow", "cli", "--life", life)
        assert done.returncode == 2, done.stderr
