import json
from typing import Any

import pytest
from click.testing import CliRunner

from limen import client
from limen.cli.main import cli


@pytest.mark.parametrize(
    ("words", "path", "answer"),
    [
        (["status"], "/v1/acme/status", {"binding": "required", "names": ["a", "b"]}),
        (["accounts"], "/v1/acme/accounts", []),
        (["orders"], "/v1/acme/orders", []),
        (["eab", "create"], "/v1/acme/bindings", {"kid": "k", "hmac_key": "h"}),
        (["revoke", "ab"], "/v1/acme/certificates/ab/revoke", {"serial": "ab"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else "",
)
@pytest.mark.parametrize("output", ["json", "table"])
def test_commands_ask_the_server(
    words: list[str], path: str, answer: object, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def call(method: str, found: str, body: Any = None) -> object:
        asked.append(found)
        return answer

    monkeypatch.setattr(client, "call", call)
    result = CliRunner().invoke(cli, ["acme", *words, "-o", output])
    assert result.exit_code == 0, result.output
    assert asked == [path]
    if output == "json":
        assert json.loads(result.stdout) == answer


def test_the_root_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "call", lambda *_: {"pem": "PEM\n"})
    assert CliRunner().invoke(cli, ["acme", "root"]).stdout == "PEM\n"
