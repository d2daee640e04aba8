"""The called service of the enforcer's soak: `python soakapp.py PORT`. It answers with what it was asked."""

import asyncio
import base64
import hashlib
import sys

import uvloop

CHUNKS = 20


async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            line, *rows = head.decode("latin-1").split("\r\n")
            method, target, _ = line.split(" ")
            fields = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rows)}
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            if "sec-websocket-key" in fields:
                await websocket(reader, writer, fields["sec-websocket-key"])
                return
            if target.startswith("/ok/stream/"):
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                for number in range(CHUNKS):
                    part = f"{target} {number}\n".encode()
                    writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                    await writer.drain()
                    await asyncio.sleep(0.2)
                writer.write(b"0\r\n\r\n")
                continue
            text = f"{method} {target} {hashlib.sha256(body).hexdigest() if body else ''}".encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def websocket(reader, writer, key):
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: "
        + base64.b64encode(digest) + b"\r\n\r\n"
    )  # fmt: skip
    # what comes is a masked frame of six bytes and up to 125: it goes back as it was before the mask
    while True:
        first, size = await reader.readexactly(2)
        mask = await reader.readexactly(4)
        data = await reader.readexactly(size & 0x7F)
        plain = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        writer.write(bytes([first, len(plain)]) + plain)
        await writer.drain()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    async with server:
        await server.serve_forever()


uvloop.run(main())
