import os
import subprocess
import sys

CODE = """
import os
from limen.privileges import CAP_NET_RAW, keep_only
def sets():
    text = open("/proc/thread-self/status").read()
    lines = dict(line.split(":\\t", 1) for line in text.splitlines() if ":\\t" in line)
    print(*(int(lines[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")), lines["NoNewPrivs"])
print(*sorted(keep_only({CAP_NET_RAW, 60})))
sets()
print(*sorted(keep_only()))
sets()
print(*sorted(keep_only({CAP_NET_RAW})))
"""


def run() -> list[str]:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_what_is_kept_is_kept_alone_and_what_was_given_up_does_not_come_back() -> None:
    # who has nothing keeps nothing
    raw, said = (1 << 13, "13") if os.geteuid() == 0 else (0, "")
    assert run() == [said, f"0 {raw} {raw} 0 1", "", "0 0 0 0 1", ""]
