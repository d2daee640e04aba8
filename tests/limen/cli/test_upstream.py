import json
import pathlib

from click.testing import CliRunner

from limen.cli.main import cli
from mesh.clock import SystemClock
from tests.ca.upstream.chains import DAY, root
from tests.ca.upstream.test_offline import chain_file
from tests.limen.test_offlineroot import ask


def test_a_request_is_printed_and_its_answer_imported(tmp_path: pathlib.Path) -> None:
    run = CliRunner()
    words = ["--state", str(tmp_path), "identity", "upstream"]
    assert run.invoke(cli, [*words, "csr"], standalone_mode=False).return_value == 1
    request = ask(tmp_path)
    shown = run.invoke(cli, [*words, "csr"], standalone_mode=False)
    assert (shown.return_value, shown.stdout) == (0, request.read_text())
    assert json.loads(run.invoke(cli, [*words, "csr", "-o", "json"]).stdout)[0]["path"] == str(request)
    now = SystemClock().now().replace(microsecond=0)
    life = {"begin": now - DAY, "end": now + DAY}
    answer = chain_file(tmp_path / "chain.pem", root(**life), **life)
    done = run.invoke(cli, [*words, "import", str(answer)], standalone_mode=False)
    assert done.exception is None
    assert str(request) in done.stderr
    assert run.invoke(cli, [*words, "csr"], standalone_mode=False).return_value == 1


def test_the_roots_side_is_two_commands(tmp_path: pathlib.Path) -> None:
    run = CliRunner()
    words = ["--state", str(tmp_path), "identity", "upstream"]
    root_, key, chain = (str(tmp_path / name) for name in ("root.pem", "root.key", "chain.pem"))
    domain = ["--trust-domain", "corp.test"]
    request = ask(tmp_path)
    for more in (
        ["root", *domain, "--key", key, "--out", root_, "--algorithm", "p384"],
        ["sign", str(request), *domain, "--cert", root_, "--key", key, "--out", chain, "--life", "30d"],
        ["import", chain],
    ):
        done = run.invoke(cli, [*words, *more], standalone_mode=False)
        assert done.exception is None, done.exception
    for more in (["root", "--trust-domain", "A b", "--key", key, "--out", root_],):
        assert "LM5214" in str(run.invoke(cli, [*words, *more], standalone_mode=False).exception)
