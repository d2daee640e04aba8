"""Makes policy true beside each workload: the agent and its data planes."""
