"""The memory of a process, as the kernel counts it."""

import subprocess
import sys

from tests.enforcer.native.harness import ROOT

# in a process of its own: what other tests left in this one's heap would be used first
PROGRAM = """
from enforcer.native.memory import give_back_memory, resident_bytes
before = resident_bytes()
filled = [b"x" * 65_536 for _ in range(1024)]
full = resident_bytes()
del filled
give_back_memory()
print(full - before, full - resident_bytes())
"""


def test_memory_that_is_used_is_counted_and_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    grown, given_back = (int(word) for word in done.stdout.split())
    assert grown > 48 * 1024 * 1024
    assert given_back > 32 * 1024 * 1024
