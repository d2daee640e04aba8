"""A trace from end to end: a caller, two sidecars, an application, and a collector that is told of it."""

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.audit.receivers import collector
from tests.ports import free_port
from tests.system.test_audit_disk import APP, shop

pytestmark = [pytest.mark.system, pytest.mark.peer]
# answers with the fields of the trace context as they came
ECHOES = APP.replace("self.send_response(200);", "said = str(self.headers.get_all('traceparent')).encode();").replace(
    'self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"hi")',
    'self.send_response(200); self.send_header("content-length", str(len(said))); self.end_headers(); '
    "self.wfile.write(said)",
)
ALLOWED, DENIED, SILENT = (digit * 32 for digit in "abc")
PARENT = "00f067aa0ba902b7"


def test_a_trace_goes_through_both_sidecars_and_a_collector_shows_what_was_decided(
    make_installation: Callable[..., Any],
    until: Callable[..., Any],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    monkeypatch.setenv("LIMEN_TRACE_TO", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("LIMEN_TRACE_RATIO", "0")
    (tmp_path / "shop").mkdir()
    with (
        collector(tmp_path, port) as received,
        shop(make_installation(), tmp_path / "shop", until, ECHOES) as found,
    ):
        silent = found.ask("/open", f"traceparent: 00-{SILENT}-{PARENT}-00")
        allowed = found.ask("/open", f"traceparent: 00-{ALLOWED}-{PARENT}-01")
        denied = found.ask("/closed", f"traceparent: 00-{DENIED}-{PARENT}-01")
        assert denied.startswith(b"HTTP/1.1 403 ")
        assert silent.endswith(f"['00-{SILENT}-{PARENT}-00']".encode())
        until(lambda: received.exists() and DENIED in received.read_text() and ALLOWED in received.read_text(), 200)
        spans = {
            trace: next(part for part in received.read_text().split("Span #") if trace in part)
            for trace in (ALLOWED, DENIED)
        }
        assert SILENT not in received.read_text()
    # the application's parent is the span that the collector has, and that one's is the caller's
    name = next(
        line.split(":")[1].strip() for line in spans[ALLOWED].splitlines() if line.split(":")[0].strip() == "ID"
    )
    assert allowed.endswith(f"['00-{ALLOWED}-{name}-01']".encode())
    for trace, words in (
        (ALLOWED, ("limen.decision: Str(allow)", "http.response.status_code: Int(200)")),
        (DENIED, ("limen.decision: Str(deny)", "Status code : Error", "Status message : LM2302")),
    ):
        said = " ".join(spans[trace].split())
        for word in (f"Parent ID : {PARENT}", "limen.peer: Str(spiffe://test.limen/cart)", *words):
            assert word in said, said
