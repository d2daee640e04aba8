"""Readers of captures and logs."""
