import asyncio
import os
import pathlib

import uvicorn
from fastapi import FastAPI, Request

from limen.api.peer import PeerProtocol
from limen.client import Client
from limen.serve import _listen_unix, _uvicorn


def test_the_kernel_says_who_asks(tmp_path: pathlib.Path) -> None:
    api = FastAPI()

    @api.get("/who")
    async def who(request: Request) -> dict[str, int]:
        peer = request.state.peer
        return {"pid": peer.pid, "uid": peer.uid, "gid": peer.gid}

    async def run() -> object:
        server: uvicorn.Server = _uvicorn(api, protocol=PeerProtocol)
        task = asyncio.ensure_future(server.serve(sockets=[_listen_unix(tmp_path / "s")]))
        async with asyncio.timeout(60):
            while not server.started:
                await asyncio.sleep(0)
        found = await asyncio.to_thread(Client(tmp_path / "s").call, "GET", "/who")
        server.should_exit = True
        await task
        return found

    assert asyncio.run(run()) == {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}
