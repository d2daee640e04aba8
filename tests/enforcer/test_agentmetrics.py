import subprocess
import sys

import prometheus_client

from enforcer import agentmetrics


def test_the_numbers_have_their_public_names() -> None:
    agentmetrics.publish()
    agentmetrics.publish()
    agentmetrics.CLOCK_SKEW.set(-3)
    text = prometheus_client.generate_latest().decode()
    assert "limen_agent_clock_skew_seconds -3.0" in text
    assert "limen_agent_node_svid_expiry_timestamp_seconds" in text
    assert "limen_agent_svid_expiry_timestamp_seconds" in text
    assert "limen_agent_refused_releases" in text


def test_a_server_does_not_serve_an_agents_numbers() -> None:
    """`x - time() < 3600` would hold for a moment of 0 for ever."""
    program = "import limen.serve, prometheus_client as p; print(p.generate_latest().decode())"
    text = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "limen_authority_expiry_timestamp_seconds" in text
    assert "limen_agent" not in text
