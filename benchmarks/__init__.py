"""Measurements: ours and our peers' in one run, interleaved. Numbers in documents come from here, with the command."""
