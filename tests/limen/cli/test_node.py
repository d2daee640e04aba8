import re
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.system


def test_a_node_is_banned_and_comes_back_by_itself_when_allowed(
    make_installation: Callable[..., Any], until: Callable[..., Any]
) -> None:
    installation = make_installation()
    (row,) = installation.json("node", "list")
    assert (row["attestor"], row["banned"]) == ("join_token", None)
    pid = installation.pid("agent")

    def connected() -> bool:
        return bool(installation.json("status")["agents"][0]["is_connected"])

    assert connected()
    done = installation.limen("node", "ban", row["node"], "--reason", "a drill")
    assert done.returncode == 0, done.stderr
    until(lambda: not connected())
    assert "a drill" in installation.limen("node", "list", "-o", "json").stdout
    assert "since" in installation.limen("node", "list").stdout
    assert installation.limen("node", "allow", row["node"]).returncode == 0
    until(connected, 60)
    assert installation.pid("agent") == pid
    assert installation.limen("node", "ban", "nobody").returncode == 2


def test_the_pins_are_those_of_the_server(installation: Any) -> None:
    found = installation.json("node", "pins")
    assert set(found) == {"server", "reviewers", "url"}
    line = installation.limen("node", "pins").stdout
    assert re.search(r"--server-key sha256:[0-9a-f]{64} --reviewers sha256:[0-9a-f]{64}", line)
