#!/bin/sh
# Writes the golden samples of socket listings: real connections in a network namespace of their own.
#
# unshare -n sh tests/learner/data/make_sockets.sh
set -eu
cd "$(dirname "$0")/sockets"
ip link set lo up
ip addr add 10.0.0.1/32 dev lo
ip addr add 10.0.0.2/32 dev lo
python3 - <<'END'
import pathlib
import socket
import subprocess


def listen(family, where, port):
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((where, port))
    found.listen()
    return found


servers = [listen(socket.AF_INET, "10.0.0.2", 5432), listen(socket.AF_INET6, "::", 8080)]
clients = []
for port in (40001, 40002):
    client = socket.socket()
    client.bind(("10.0.0.1", port))
    client.connect(("10.0.0.2", 5432))
    clients.append((client, servers[0].accept()))
client = socket.socket()
client.bind(("10.0.0.1", 40003))
client.connect(("10.0.0.2", 8080))
clients.append((client, servers[1].accept()))
for name, command in {"ss.txt": ["ss", "-tan"], "ss-extended.txt": ["ss", "-tanHoe"], "ss-users.txt": ["ss", "-tunap"]}.items():
    pathlib.Path(name).write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
for name in ("tcp", "tcp6"):
    pathlib.Path(f"proc-net-{name}").write_bytes(pathlib.Path(f"/proc/net/{name}").read_bytes())
END
