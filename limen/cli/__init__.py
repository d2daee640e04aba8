"""The `limen` command: parse, call, render."""
