"""What becomes of connections while listeners take turns: reset with one way of sharing a port, served with another.

    python benchmarks/taketurns.py --rounds 200 --save benchmarks/results/taketurns.json

A child process takes connections from a port, and is killed and followed by another one, again and again; meanwhile
clients connect, send four bytes and wait for them to come back. The ways of docs/adr/0039-sidecars-take-turns.md:

* `opens`: each child opens the port itself with SO_REUSEPORT, the next one before the last is gone;
* `held`: the parent holds one socket, which every child inherits;
* `places`: the parent holds two sockets on the port (SO_REUSEPORT), a child for each.

What a child had taken when it was killed is cut in every way: one connection a turn at most. Nothing of this is
Limen's code: it is the kernel that is looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from mesh.clock import SystemClock

CLIENTS = 8


def listener(port: int, *, shares: bool) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shares:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(1024)
    return sock


def child(sock: socket.socket | None, port: int) -> int:
    """A process that echoes; it opens the port itself without a socket. Its pid, once it listens."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        found = sock or listener(port, shares=True)
        os.write(told, b".")
        while True:
            connection, _ = found.accept()
            # a moment in which the next one waits in the queue
            time.sleep(0.0005)
            connection.sendall(connection.recv(4))
            connection.close()
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Load:
    """Clients, each with one connection after the other, and what became of them."""

    def __init__(self, port: int) -> None:
        self._port, self._is_over = port, threading.Event()
        self.served = self.refused = self.cut = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            served = refused = cut = 0
            try:
                sock = socket.create_connection(("127.0.0.1", self._port), 30)
            except OSError:
                refused = 1
            else:
                with sock:
                    try:
                        sock.sendall(b"ping")
                        served = int(sock.recv(4) == b"ping")
                    except OSError:
                        served = 0
                    cut = 1 - served
            with self._lock:
                self.served, self.refused, self.cut = self.served + served, self.refused + refused, self.cut + cut

    def stop(self) -> dict[str, int]:
        """End, and say what became of all connections."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        return {"served": self.served, "refused": self.refused, "cut": self.cut}


def measure(way: str, rounds: int) -> dict[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    places = 2 if way == "places" else 1
    socks = [None] if way == "opens" else [listener(port, shares=places > 1) for _ in range(places)]
    pids = [child(sock, port) for sock in socks]
    load = Load(port)
    for turn in range(rounds):
        place = turn % places
        if way == "opens":
            after = child(None, port)
            end(pids[place])
        else:
            end(pids[place])
            after = child(socks[place], port)
        pids[place] = after
        time.sleep(0.01)
    found = load.stop()
    for pid in pids:
        end(pid)
    for sock in socks:
        if sock is not None:
            sock.close()
    return {"turns": rounds, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--save", type=pathlib.Path)
    options = parser.parse_args()
    found = {way: measure(way, options.rounds) for way in ("opens", "held", "places")}
    for way, row in found.items():
        print(f"{way:8} " + "  ".join(f"{name} {value}" for name, value in row.items()))
    if options.save:
        command = ["git", "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        row = {"commit": commit, "date": SystemClock().now().date().isoformat(), "linux": os.uname().release, **found}
        options.save.write_text(json.dumps(row, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
