import os
import signal
import socket

from enforcer.holders import holders, is_complete
from enforcer.sockdiag import SockDiag


def test_everybody_who_holds_a_socket_is_found() -> None:
    diag = SockDiag()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        inode = diag.find(client.getsockname(), server.getsockname()).inode
        assert holders(inode) == {os.getpid()}
        pid = os.fork()
        if pid == 0:
            signal.pause()
        assert holders(inode) == {os.getpid(), pid}
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    diag.close()
    assert holders(inode) == frozenset()


def test_only_root_sees_everybody() -> None:
    assert is_complete() is (os.geteuid() == 0)
