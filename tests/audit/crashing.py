"""Runs a scenario again and again and kills it, by SIGKILL, before its first, second, third … write to the disk.

Each run is a process of its own. Prints one JSON line a run: what was acknowledged before the kill. Usage:
crashing.py log|spool DIRECTORY
"""

import functools
import json
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from audit.spool import Spool
from tests.audit.making import make, open_log

BATCHES = (2, 253, 1, 3, 300)


class Bomb:
    """Counts the system calls that change the disk and kills the process before (or in the middle of) one."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.write, self.pwrite = os.write, os.pwrite
        for name in ("fsync", "fdatasync", "replace", "unlink", "rmdir", "mkdir", "ftruncate"):
            setattr(os, name, self.guard(getattr(os, name)))
        os.write = self.torn_write  # type: ignore[assignment]
        os.pwrite = self.torn_pwrite  # type: ignore[assignment]

    def guard(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            return call(*args, **kwargs)

        return guarded

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def torn_write(self, file: int, data: bytes) -> int:
        if self.left <= 0:
            self.write(file, bytes(data)[: len(data) * 2 // 3])
        self.tick()
        return self.write(file, data)

    def torn_pwrite(self, file: int, data: bytes, at: int) -> int:
        if self.left <= 0:
            self.pwrite(file, bytes(data)[: len(data) * 2 // 3], at)
        self.tick()
        return self.pwrite(file, data, at)


def log_scenario(directory: pathlib.Path, acknowledge: Callable[[int], None]) -> None:
    # the journal's turns are so short that some end, and are settled, meanwhile
    log = open_log(directory, room=40_000)
    number = 0
    for size in BATCHES:
        log.append([make(index) for index in range(number, number + size)])
        number += size
        acknowledge(number)


def spool_scenario(directory: pathlib.Path, acknowledge: Callable[[int], None]) -> None:
    spool = Spool(directory, segment_bytes=2000)
    for number in range(12):
        spool.append([make(number), make(100 + number)])
        acknowledge(number + 1)
        if number % 4 == 3:
            cursor, records = spool.read(5)
            spool.ack(cursor, sequence=spool.sequence + 1, previous=f"{len(records)}")


def say(write: Callable[[int, bytes], int], target: int, number: int) -> None:
    write(target, f"{number}\n".encode())


def main(what: str, directory: pathlib.Path) -> None:
    scenario = {"log": log_scenario, "spool": spool_scenario}[what]
    point = 0
    while True:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            acknowledge = functools.partial(say, os.write, writer)
            Bomb(point)
            scenario(directory / str(point), acknowledge)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as said:
            lines = said.read().split()
        _, status = os.waitpid(child, 0)
        is_killed = os.WIFSIGNALED(status)
        acknowledged = int(lines[-1]) if lines else 0
        sys.stdout.write(json.dumps({"point": point, "killed": is_killed, "acknowledged": acknowledged}) + "\n")
        if not is_killed:
            sys.exit(status)
        point += 1


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
