"""The caller of the enforcer's soak: `python soakclient.py PORT KIND FILE`, until its stdin speaks.

KIND `cart` is allowed what the policies say; KIND `thief` is allowed nothing. Every second one line of JSON says how
much was counted; the last line has all. FILE gets a line for each request whose answer hangs on the snapshot: which
path, status, and from when to when. A failure is an answer that never comes, is cut, or belongs to another request;
a wrong decision is one that no snapshot gives.
"""

import asyncio
import base64
import hashlib
import itertools
import json
import os
import sys
import time

import uvloop

PORT, KIND, FILE = int(sys.argv[1]), sys.argv[2], sys.argv[3]
CHUNKS = 20
PATIENCE_S = 90
# refused before any rule, or resolved to what nobody may call
AMBIGUOUS = (
    "/ok/..%2fdeny", "/ok;x=1/7", "/ok/%00", "/ok\\deny", "/ok/%5c..%5cdeny", "/ok/..;/deny", "/ok/%2e%2e/deny",
    "/ok/../deny", "/%6fk/../deny/1", "//deny", "/ok/%zz", "/ok/\xff",
)  # fmt: skip
# another way to write what is allowed
SAME = (("/ok/./7", "/ok/7"), ("/ok/x/../7", "/ok/7"), ("/%6f%6b/7", "/ok/7"), ("//ok//7", "/ok/7"))
numbers = itertools.count()
counts: dict[str, int] = {}
failed: list[str] = []
wrong: list[str] = []
is_over = asyncio.Event()
rows = open(FILE, "w", encoding="ascii")  # noqa: SIM115  one file for the whole life


def count(kind):
    counts[kind] = counts.get(kind, 0) + 1


async def connect():
    return await asyncio.open_connection("127.0.0.1", PORT)


async def ask(reader, writer, target, *, method="GET", body=b"", close=False):
    """One exchange; its status, its body, and whether the connection goes on."""
    head = f"{method} {target} HTTP/1.1\r\nHost: db\r\n"
    head += f"Content-Length: {len(body)}\r\n" if body else ""
    head += "Connection: close\r\n" if close else ""
    writer.write(head.encode("latin-1") + b"\r\n" + body)
    return await answer(reader)


async def answer(reader):
    async with asyncio.timeout(PATIENCE_S):
        return await _answer(reader)


async def _answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    goes_on = "connection: close" not in head
    if "transfer-encoding: chunked" in head:
        data = b""
        while size := int((await reader.readuntil(b"\r\n")), 16):
            data += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return status, data, goes_on
    size = head.partition("content-length:")[2].split("\r\n")[0]
    return status, await reader.readexactly(int(size or 0)), goes_on


def check(target, status, body, *, wanted, method="GET", sent=b""):
    """Hold an answer against what it should be."""
    if status != wanted:
        # 5xx is no decision: somebody could not serve
        (failed if status >= 500 else wrong).append(f"{KIND} {method} {target}: {status} {body[:300]!r}")
    elif status == 200:
        text = f"{method} {target} {hashlib.sha256(sent).hexdigest() if sent else ''}".encode()
        if body != text:
            wrong.append(f"{KIND} {method} {target}: the answer of another: {body[:300]!r}")


ALLOWED = 200 if KIND == "cart" else 403


async def one_of_several(reader, writer, turn):
    """A request of the kept-alive mix; whether the connection goes on."""
    number = next(numbers)
    kind = turn % 10
    if kind < 6:
        target = f"/ok/{number}"
        status, body, goes_on = await ask(reader, writer, target)
        check(target, status, body, wanted=ALLOWED)
        count("allowed" if KIND == "cart" else "denied caller")
    elif kind < 7:
        target = f"/deny/{number}"
        status, body, goes_on = await ask(reader, writer, target)
        check(target, status, body, wanted=403)
        count("denied by rule")
    elif kind < 9:
        letter = "ab"[kind - 7]
        target = f"/{letter}/{number}"
        begin = time.monotonic()
        status, body, goes_on = await ask(reader, writer, target)
        if status not in (200, 403) or KIND != "cart":
            check(target, status, body, wanted=403)
        elif status == 200:
            check(target, status, body, wanted=200)
        if KIND == "cart":
            rows.write(f"{letter} {status} {begin:.4f} {time.monotonic():.4f}\n")
        count("of the snapshot")
    else:
        target, sent = f"/ok/{number}", os.urandom(3000)
        status, body, goes_on = await ask(reader, writer, target, method="POST", body=sent)
        check(target, status, body, wanted=ALLOWED, method="POST", sent=sent)
        count("with a body")
    return goes_on


async def kept():
    """Requests over one connection until it is to end, and over the next one."""
    while not is_over.is_set():
        reader, writer = await connect()
        try:
            for turn in range(5000):
                if not await one_of_several(reader, writer, turn) or is_over.is_set():
                    break
        finally:
            writer.close()


async def one_shot():
    """A connection for each request."""
    for turn in itertools.count():
        if is_over.is_set():
            return
        reader, writer = await connect()
        try:
            number = next(numbers)
            if turn % 3 == 0:
                target = f"/ok/{number}"
                status, body, _ = await ask(reader, writer, target, close=True)
                check(target, status, body, wanted=ALLOWED)
                count("one-shot")
            elif turn % 3 == 1:
                target = AMBIGUOUS[turn // 3 % len(AMBIGUOUS)]
                status, body, _ = await ask(reader, writer, target, close=True)
                if status not in (400, 403):
                    check(target, status, body, wanted=400)
                count("ambiguous")
            else:
                target, same = SAME[turn // 3 % len(SAME)]
                status, body, _ = await ask(reader, writer, target, close=True)
                check(same, status, body, wanted=ALLOWED)
                count("written otherwise")
        finally:
            writer.close()


async def stream():
    while not is_over.is_set():
        reader, writer = await connect()
        try:
            target = f"/ok/stream/{next(numbers)}"
            status, body, _ = await ask(reader, writer, target, close=True)
            wanted = b"".join(f"{target} {number}\n".encode() for number in range(CHUNKS))
            if status != ALLOWED or (status == 200 and body != wanted):
                (failed if status == ALLOWED or status >= 500 else wrong).append(
                    f"{KIND} {target}: {status} {body[-99:]!r}"
                )
            count("streams")
        finally:
            writer.close()
        if KIND == "thief":
            await asyncio.sleep(0.2)


async def websocket():
    key = base64.b64encode(os.urandom(16)).decode()
    head = "GET /ok/ws HTTP/1.1\r\nHost: db\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    while not is_over.is_set():
        reader, writer = await connect()
        try:
            writer.write(head.encode())
            async with asyncio.timeout(PATIENCE_S):
                status = int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
            if KIND != "cart":
                if status == 101:
                    wrong.append("a WebSocket was opened by one who may not")
                count("WebSockets denied")
                await asyncio.sleep(0.2)
                continue
            if status != 101:
                (failed if status >= 500 else wrong).append(f"a WebSocket was answered {status}")
                continue
            for number in range(40):
                text = f"frame {number} of {key}".encode()
                mask = os.urandom(4)
                masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
                writer.write(bytes([0x82, 0x80 | len(text)]) + mask + masked)
                # a frame that never comes is a failure, and not the end of the run
                async with asyncio.timeout(PATIENCE_S):
                    came = await reader.readexactly(2 + len(text))
                if came != bytes([0x82, len(text)]) + text:
                    wrong.append("a WebSocket's frame came back as another")
                count("WebSocket frames")
                await asyncio.sleep(0.1)
            count("WebSockets")
        finally:
            writer.close()


async def forever(work):
    """Go on after a failure, which is counted."""
    while not is_over.is_set():
        try:
            await work()
        except (OSError, asyncio.IncompleteReadError, ValueError) as err:
            failed.append(f"{KIND} {work.__name__} at {time.monotonic():.1f}: {err!r}")
            await asyncio.sleep(0.05)


async def tell():
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, is_over.set)
    while not is_over.is_set():
        print(json.dumps({"count": sum(counts.values()), "failed": len(failed), "wrong": len(wrong)}), flush=True)
        try:
            await asyncio.wait_for(is_over.wait(), 1.0)
        except TimeoutError:
            continue
    loop.remove_reader(sys.stdin)


async def main():
    works = (
        [kept] * 8 + [one_shot] * 2 + [stream] * 2 + [websocket] * 2 if KIND == "cart" else [kept, one_shot, websocket]
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tell())
        for work in works:
            tasks.create_task(forever(work))
    rows.close()
    found = {"requests": counts, "count": sum(counts.values()), "failed": len(failed), "wrong": len(wrong)}
    print(json.dumps({**found, "failures": failed[:40], "wrong_decisions": wrong[:40]}), flush=True)


uvloop.run(main())
