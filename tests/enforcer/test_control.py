import asyncio
import os
import pathlib
import socket
import stat

import pytest

from enforcer.control import Conversation, ask, connect, listen, send_with_handles
from mesh.problems import Invalid, Unavailable


def test_nobody_listening_is_unavailable(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unavailable, match="LM3450"):
        ask(tmp_path / "none", {"type": "status"})
    with pytest.raises(Invalid, match="LM5001"):
        listen(pathlib.Path("/" + "x" * 200))


def test_a_question_is_answered_and_the_peer_is_known(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "c"

    async def run() -> object:
        listener = listen(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        asking = asyncio.ensure_future(asyncio.to_thread(ask, path, {"type": "status", "x": 1}))
        sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        talk = Conversation(sock)
        assert (talk.uid, talk.pid) == (os.getuid(), os.getpid())
        assert await talk.receive() == {"type": "status", "x": 1}
        await talk.send({"type": "answer"})
        found = await asking
        assert await talk.receive() is None
        talk.close()
        listener.close()
        return found

    assert asyncio.run(run()) == {"type": "answer"}


def test_streams_arrive_with_a_message_of_any_size(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "c"

    async def run() -> None:
        listener = listen(path)
        client = await asyncio.to_thread(connect, path)
        out, inner = os.pipe()
        big = {"type": "launch", "env": "x" * 200_000}
        sending = asyncio.ensure_future(asyncio.to_thread(send_with_handles, client, big, (0, inner, 2)))
        sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        talk = Conversation(sock)
        message = await talk.receive()
        await sending
        assert message == big
        assert len(talk.handles) == 3
        os.write(talk.handles[1], b"hello")
        assert os.read(out, 5) == b"hello"
        assert not any(os.get_inheritable(handle) for handle in talk.handles)
        talk.close()
        for item in (client, listener):
            item.close()
        os.close(out)
        os.close(inner)

    asyncio.run(run())


def test_junk_ends_the_conversation() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        talk = Conversation(theirs)
        ours.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(Invalid, match="LM3001"):
            await talk.receive()
        ours.close()
        talk.close()

    asyncio.run(run())
