"""Bytes from one stream to another until it ends, and then the end too."""

from __future__ import annotations

import asyncio
import contextlib

CHUNK_BYTES = 65536


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand on what comes; a side that is gone ends it. A slow taker is waited for."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()
            writer.close()
