import json
import subprocess
import sys
import urllib.request

from mesh.telemetry import redact, serve_metrics


def test_secrets_are_removed_and_names_of_keys_are_not() -> None:
    event = {
        "token": "s",
        "private_key": "s",
        "key_id": "k1",
        "Authorization": "s",
        "spiffe_id": "x",
        "token_hash": "h",
    }
    found = redact(None, "info", dict(event))
    assert {name for name, value in found.items() if value == "[removed]"} == {"token", "private_key", "Authorization"}


def test_a_log_line_is_json_on_stderr_without_the_secret() -> None:
    program = (
        "import structlog; from mesh import telemetry; telemetry.configure();"
        "structlog.get_logger().info('svid issued', spiffe_id='spiffe://td/a', token='hunter2')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    row = json.loads(done.stderr)
    assert (row["event"], row["spiffe_id"], row["level"]) == ("svid issued", "spiffe://td/a", "info")
    assert "hunter2" not in done.stderr
    assert done.stdout == ""


def test_metrics_are_served_on_loopback() -> None:
    program = (
        "import urllib.request; from mesh.telemetry import serve_metrics; port = serve_metrics();"
        "print(urllib.request.urlopen(f'http://127.0.0.1:{port}/metrics').status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "200\n"
    assert callable(serve_metrics)
    assert urllib.request is not None
