"""The built-in data plane: one small process per workload."""
