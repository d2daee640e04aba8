"""The rim of the ACME authority: its service on the worker's thread, its resolver and its validators."""
