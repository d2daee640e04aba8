import json
import pathlib

from tests.learner.sources.accounts import read_text, seen


def row(source: str, sport: int, destination: str, dport: int, **connection: object) -> dict[str, object]:
    """One record by the fields of Google's documentation."""
    return {
        "insertId": "x",
        "jsonPayload": {
            "bytes_sent": "3001",
            "connection": {
                "dest_ip": destination, "dest_port": dport, "protocol": 6, "src_ip": source, "src_port": sport
            } | connection,
            "start_time": "2026-05-01T10:00:00.123456789Z",
            "end_time": "2026-05-01T10:00:04.123456789Z",
            "packets_sent": "3",
            "reporter": "SRC",
            "src_gke_details": {"pod": {"pod_name": "web-1", "pod_namespace": "shop"}},
        },
        "logName": "projects/p/logs/compute.googleapis.com%2Fvpc_flows",
    }  # fmt: skip


def test_both_directions_of_several_callers_tell_the_callee(tmp_path: pathlib.Path) -> None:
    rows = [
        row("10.0.0.1", 40000, "10.0.0.9", 443),
        row("10.0.0.9", 443, "10.0.0.1", 40000),
        row("10.0.0.2", 40000, "10.0.0.9", 443),
        row("10.0.0.9", 443, "10.0.0.2", 40000),
        row("10.0.0.5", 1, "10.0.0.6", 2),
        row("10.0.0.5", 1, "10.0.0.6", 2, protocol=1),
        row("10.0.0.5", 1, "nowhere", 2),
    ]
    flows, account = read_text(tmp_path, "\n".join(json.dumps(item) for item in rows))
    assert account.source == "gcp"
    assert [seen(flow) for flow in flows] == ["10.0.0.1 > 10.0.0.9:443 tcp yes", "10.0.0.2 > 10.0.0.9:443 tcp yes"]
    assert flows[0].replica == "web-1"
    assert (account.ambiguous, account.unreadable, account.seen) == (1, 1, 7)
    assert account.skipped["neither TCP nor UDP"] == 1


def test_they_are_sampled_and_do_not_say_how(tmp_path: pathlib.Path) -> None:
    document = json.dumps([row("10.0.0.1", 40000, "10.0.0.9", 443)], indent=1)
    _, account = read_text(tmp_path, document)
    assert account.source == "gcp"
    assert account.sampled == 0
    assert any("does not say" in text for text in account.limits())
