import prometheus_client

from enforcer import agentmetrics


def test_the_numbers_have_their_public_names() -> None:
    agentmetrics.CLOCK_SKEW.set(-3)
    text = prometheus_client.generate_latest().decode()
    assert "limen_agent_clock_skew_seconds -3.0" in text
    assert "limen_agent_node_svid_expiry_timestamp_seconds" in text
    assert "limen_agent_svid_expiry_timestamp_seconds" in text
