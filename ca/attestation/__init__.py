"""Proofs of what a node is."""
