"""An agent's delivery and a server's log in one process, killed by SIGKILL before its Nth write to the disk.

Each run is a process of its own, in a folder of its own, begun as a copy of TEMPLATE (a server's database). Afterwards
both begin again in that folder, without a bomb, and deliver what is left. Prints one JSON line a run: the ids whose
records were taken (`take` returned), and what the log says then. Usage: crashing_delivery.py TEMPLATE DIRECTORY
"""

import asyncio
import json
import os
import pathlib
import shutil
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.log import Log
from audit.masking import Masking
from audit.reader import Reader
from audit.spool import Spool
from audit.verify import verify_log
from enforcer.delivery import Delivery
from limen.ingest import Ingest
from mesh.clock import ManualClock
from mesh.database import open_database, sqlite_url
from tests.audit.crashing import Bomb
from tests.audit.making import KEY, ORIGIN, START, make

AGENT = "spiffe://tests.test/limen/agent/n1"
AGENT_KEY = Ed25519PrivateKey.from_private_bytes(bytes([7] * 32))
BATCHES = (2, 1, 258)


class Both:
    """What stands on both sides, in one folder; the agent's node is the server itself."""

    def __init__(self, folder: pathlib.Path) -> None:
        clock = ManualClock(START)
        self.log = Log.open(folder / "audit", key=KEY, origin=ORIGIN)
        self.delivery = Delivery(
            Spool(folder / "spool", segment_bytes=4000), AGENT_KEY, AGENT, Masking(bytes(32)), clock=clock
        )
        self.engine = open_database(sqlite_url(folder / "limen.sqlite"))
        self._ingest = Ingest(
            engine=self.engine, log=self.log, trust_domain="tests.test", clock=clock, random=os.urandom
        )

    async def push_records(self, batch: object) -> None:
        found: dict[str, object] = {name: getattr(batch, name) for name in ("sequence", "signature", "key")}
        self._ingest.push("n1", records=[*batch.records], **found)  # type: ignore[attr-defined,arg-type]

    async def deliver(self) -> None:
        while await self.delivery.push_once(self):  # type: ignore[arg-type]  # what it needs of a node
            continue


async def live(folder: pathlib.Path, said: int, write: object) -> None:
    both, number = Both(folder), 0
    for size in BATCHES:
        await both.delivery.take([json.loads(make(index)) for index in range(number, number + size)])
        number += size
        write(said, f"{number}\n".encode())  # type: ignore[operator]
        # one that is full waits for the next, as when more comes in while a batch is on its way
        if size != 1:
            await both.deliver()
    both.delivery.close()
    both.log.close()


def after(folder: pathlib.Path) -> dict[str, object]:
    """Begin again, deliver what is left, and say what the log holds."""
    both = Both(folder)
    asyncio.run(both.deliver())
    both.delivery.close()
    both.log.close()
    both.engine.dispose()
    key = (folder / "audit" / "key.pub").read_text()
    rows = [json.loads(data) for _, data in Reader(folder / "audit", key).records()]
    return {
        "numbers": [row["n"] for row in rows if row["kind"] == "decision"],
        "findings": [item.code for item in verify_log(folder / "audit", key).findings],
    }


def main(template: pathlib.Path, directory: pathlib.Path) -> None:
    point = 0
    while True:
        folder = directory / str(point)
        shutil.copytree(template, folder)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            write = os.write
            Bomb(point)
            asyncio.run(live(folder, writer, write))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as said:
            lines = said.read().split()
        _, status = os.waitpid(child, 0)
        is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        row = {"point": point, "killed": is_killed, "status": status, "taken": int(lines[-1]) if lines else 0}
        sys.stdout.write(json.dumps(row | after(folder)) + "\n")
        sys.stdout.flush()
        shutil.rmtree(folder)
        if not is_killed:
            sys.exit(status)
        point += 1


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
