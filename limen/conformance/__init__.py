"""Checks anybody's SPIFFE Workload API from outside, statement by statement."""
