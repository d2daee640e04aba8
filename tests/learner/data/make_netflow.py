"""Writes the golden samples of NetFlow v5, v9 and IPFIX: softflowd exports the conversations of a capture.

python tests/learner/data/make_netflow.py: needs softflowd. A sample is the exported messages, one after the other.
"""

import pathlib
import socket
import subprocess

HERE = pathlib.Path(__file__).parent
NAMES = {"5": "v5.bin", "9": "v9.bin", "10": "ipfix.bin"}


def main() -> None:
    for version, name in NAMES.items():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
            door.bind(("127.0.0.1", 0))
            door.settimeout(2)
            target = f"127.0.0.1:{door.getsockname()[1]}"
            command = ["softflowd", "-r", "loopback-tcpdump.pcap", "-n", target, "-v", version, "-D", "-c", "none"]
            subprocess.run(command, check=True, timeout=60, cwd=HERE)
            data = b""
            try:
                while True:
                    data += door.recv(65536)
            except TimeoutError:
                (HERE / "netflow" / name).write_bytes(data)


if __name__ == "__main__":
    main()
