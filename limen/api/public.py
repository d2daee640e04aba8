"""The API on the TLS port: joining, revocation documents, and nothing that an anonymous caller could misuse."""

from __future__ import annotations

from concurrent.futures import Executor

from fastapi import FastAPI

from ca.revocation import MAX_OCSP_BYTES
from limen.api import acme, authorities, authzen, nodes, opabundles, problems
from limen.api.bodies import BoundedBodies
from limen.app import App


def public_api(app: App, worker: Executor) -> FastAPI:
    """Build the API."""
    api = FastAPI(title="Limen", docs_url=None, redoc_url=None, openapi_url=None)
    problems.mount(api)
    nodes.mount_public(api, app, worker)
    acme.mount_public(api, app.acme, worker)
    authorities.mount_public(api, app, worker)
    opabundles.mount_public(api, app.policy_bundles, worker)
    authzen.mount_public(api, app.authzen, worker)
    api.add_middleware(BoundedBodies, prefix=authzen.PREFIX, limit=authzen.MAX_BODY_BYTES, admits=authzen.admits())
    api.add_middleware(authzen.RequestIds)
    api.add_middleware(BoundedBodies, prefix="/v1/node/", limit=nodes.MAX_BODY_BYTES, admits=nodes.admits())
    api.add_middleware(BoundedBodies, prefix="/v1/bundles/", limit=0, admits=opabundles.admits())
    # each answer may cost a signature
    revocation = authorities.admits()
    api.add_middleware(BoundedBodies, prefix="/ocsp", limit=MAX_OCSP_BYTES, admits=revocation)
    api.add_middleware(BoundedBodies, prefix="/crl/", limit=0, admits=revocation)
    return api
