import subprocess
import sys

import pytest


@pytest.mark.system
def test_a_closed_process_has_no_core_no_new_privileges_and_is_not_dumpable() -> None:
    script = (
        "import ctypes, resource\nfrom mesh.hardening import harden\nharden()\n"
        "libc = ctypes.CDLL(None)\n"
        "print(libc.prctl(3, 0, 0, 0, 0), libc.prctl(39, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["0", "1", "0", "0"]
