"""One HTTP GET: bounded in size and time, without redirects, proxies or anything else from the environment."""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Mapping
from typing import Any


async def get(
    url: str,
    *,
    limit: int,
    within_s: float,
    socket: str | None = None,
    tls: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
    server_name: str = "",
) -> tuple[int, bytes]:
    """Ask, and return the status and the body. ``limit`` is in bytes; ``socket`` is a Unix socket to ask at.

    A connection serves one request: nothing is kept that could belong to somebody else by then.

    Raises OSError when nobody answers in time, ValueError for an answer that is too long or no HTTP.
    """
    # 8 MB and a third of a second that only agents with containers pay, and not while they serve others
    http: Any = await asyncio.to_thread(importlib.import_module, "httpx2")
    more: Any = {"uds": socket} if socket is not None else {"verify": tls}
    transport = http.AsyncHTTPTransport(http2=False, trust_env=False, **more)
    try:
        async with (
            asyncio.timeout(within_s),
            http.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=within_s) as client,
            client.stream(
                "GET",
                url,
                headers={"accept": "application/json", "accept-encoding": "identity", **(headers or {})},
                extensions={"sni_hostname": server_name} if server_name else {},
            ) as response,
        ):
            if "content-encoding" in response.headers:
                raise ValueError("it is compressed, which was not asked for")
            found = bytearray()
            async for part in response.aiter_raw():
                found += part
                if len(found) > limit:
                    raise ValueError(f"it is longer than {limit} bytes")
            return int(response.status_code), bytes(found)
    except (TimeoutError, http.TimeoutException) as err:
        raise TimeoutError(f"no answer within {within_s:g} s") from err
    except http.ProtocolError as err:
        raise ValueError(f"it is no HTTP: {err}") from err
    except http.HTTPError as err:
        raise OSError(str(err) or type(err).__name__) from err
