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
