"""Who may call whom, and why: load, decide, explain, plan, review."""
