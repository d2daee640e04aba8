"""Watches traffic, then proposes policies with a stated risk."""
