"""The API on the TLS port: joining, and nothing that an anonymous caller could read of this installation."""

from __future__ import annotations

import asyncio
import base64
import binascii
from concurrent.futures import Executor
from typing import Any

from fastapi import FastAPI

from limen.api import problems
from limen.api.schemas import JoinBody
from limen.app import App
from mesh.problems import Invalid


def public_api(app: App, worker: Executor) -> FastAPI:
    """Build the API."""
    api = FastAPI(title="Limen", docs_url=None, redoc_url=None, openapi_url=None)
    problems.mount(api)

    @api.post("/v1/node/join")
    async def join(body: JoinBody) -> Any:  # noqa: ANN401  JSON
        try:
            spki = base64.b64decode(body.spki, validate=True)
        except (binascii.Error, ValueError) as err:
            raise Invalid("LM5213") from err
        return await asyncio.get_running_loop().run_in_executor(worker, lambda: app.join(body.token, spki))

    return api
