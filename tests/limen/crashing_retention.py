"""A server's pruning by age, killed by SIGKILL before its Nth write to the disk. Usage: crashing_retention.py DIRECTORY

Each run is a process of its own over a copy of one log. Afterwards the server begins again, an hour passes, and it
prunes what is left. Prints one JSON line a run: what a verifier finds right after the kill, what it finds then, and
which of the first bundles still stand.
"""

import datetime as dt
import json
import os
import pathlib
import shutil
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from audit.log import Log
from audit.record import record, to_bytes
from audit.tiles import entries_path
from audit.verify import verify_log
from limen.retaining import REST, Retaining
from mesh.clock import ManualClock
from tests.audit.crashing import Bomb
from tests.audit.making import START, make_log, open_log

RECORDS = 1000
KEEP = dt.timedelta(days=30)
# when the first two bundles are older than that, and the third is not
NOW = START + KEEP + dt.timedelta(seconds=600)


class Keeping:
    """A log with its retention, as a server has it; its clock is moved by hand."""

    def __init__(self, directory: pathlib.Path, clock: ManualClock) -> None:
        self.log: Log = open_log(directory)
        self.clock = clock
        self.retaining = Retaining(self.log, clock=clock, random=bytes, record=self._record, keep=KEEP)

    def _record(self, kind: str, actor: str, **fields: object) -> None:
        random = self.log.size.to_bytes(10, "big")
        made = record(kind, now=self.clock.now(), random=random, source="server:t", actor=actor, **fields)
        self.log.append([to_bytes(made)])

    def live(self) -> None:
        """Run until the hour after the start is over, and prune."""
        self.retaining.step()
        self.clock.advance(REST)
        self.retaining.step()
        self.log.close()


def found(directory: pathlib.Path) -> list[list[object]]:
    """What a verifier finds, with the records that it is about."""
    said = verify_log(directory, (directory / "key.pub").read_text())
    return [[item.code, item.facts.get("first"), item.facts.get("last")] for item in said.findings]


def main(directory: pathlib.Path) -> None:
    make_log(directory / "whole", RECORDS)
    point = 0
    while True:
        folder = directory / str(point)
        shutil.copytree(directory / "whole", folder)
        child = os.fork()
        if child == 0:
            Bomb(point)
            Keeping(folder, ManualClock(NOW - REST)).live()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        again = open_log(folder)
        row: dict[str, object] = {"point": point, "killed": is_killed, "size": again.size}
        again.close()
        row["killed_found"] = found(folder)
        Keeping(folder, ManualClock(NOW - REST)).live()
        row["found"] = found(folder)
        row["stand"] = [(folder / entries_path(bundle)).exists() for bundle in range(RECORDS // 256)]
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
        shutil.rmtree(folder)
        if not is_killed:
            sys.exit(status)
        point += 1


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
