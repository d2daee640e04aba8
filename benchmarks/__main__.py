"""`make bench`: every measurement, one after the other; what cannot run here is said, never left out in silence.

python -m benchmarks [NAME...]
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
# name -> the arguments that keep it short, and the programs it needs
SCRIPTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pcap": ((), ()),
    "live": (("--rounds", "1"), ("ip", "tcpdump", "tcpreplay")),
    "decide": ((), ()),
    "plan": (("--rounds", "1"), ()),
    "impact": (("--flows", "1000000"), ()),
    "recompile": ((), ()),
    "lint": ((), ()),
    "issuance": ((), ()),
    "batch": ((), ()),
    "newprocess": ((), ()),
    "entries": ((), ()),
    "change": ((), ()),
    "audit": ((), ()),
    "records": ((), ()),
    "learn": ((), ()),
    "tls_stack": ((), ()),
    "envoymatch": (("--rounds", "2"), ()),
    "pair": ((), ("wrk",)),
}


def main(names: list[str]) -> int:
    """Run the named measurements, or all of them; the worst exit status is ours."""
    worst = 0
    for name in names or list(SCRIPTS):
        arguments, programs = SCRIPTS[name]
        missing = [program for program in programs if shutil.which(program) is None]
        if missing:
            print(f"== {name}: left out, it needs {', '.join(missing)}")
            continue
        command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
        print(f"== {name}: python benchmarks/{name}.py {' '.join(arguments)}".rstrip(), flush=True)
        worst = max(worst, subprocess.run(command, check=False, cwd=HERE.parent).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
