"""The demo's shop as a target of attacks, and what the audit log says about them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import pathlib
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from enforcer import control
from limen.attacks import Attack
from limen.client import Client
from limen.demo.place import TRUST_DOMAIN, Place
from limen.demo.processes import Program
from mesh.clock import Clock
from mesh.problems import Unavailable

RECORD_WITHIN_S = 60.0


class Shop:
    """A running shop: `limen.attacks.Target`."""

    def __init__(self, place: Place, programs: dict[str, Program], client: Client, clock: Clock) -> None:
        self.state = place.state
        self.trust_domain = TRUST_DOMAIN
        self._place = place
        self._programs = programs
        self._client = client
        self._clock = clock
        self._ids = itertools.count(1)

    @property
    def now(self) -> dt.datetime:
        """The present moment."""
        return self._clock.now()

    def inbound(self, service: str) -> tuple[str, int]:
        """Where a service's sidecar listens for mutual TLS."""
        return "127.0.0.1", self._place.inbound[service]

    def application(self, service: str) -> tuple[str, int]:
        """Where the program itself listens on loopback."""
        return "127.0.0.1", self._place.application[service]

    def outbound(self, workload: str, service: str) -> int:
        """The loopback port that leads from a workload to a service."""
        return self._place.outbound[workload, service]

    def script(self, service: str) -> pathlib.Path:
        """The genuine program of a service."""
        return self._place.program(service)

    def environment(self, service: str) -> dict[str, str]:
        """The genuine program's environment."""
        return self._place.environment(service)

    async def send_as(self, workload: str, service: str, data: str) -> str:
        """Have a launched workload send bytes to a service; return all bytes that came back."""
        number = f"{service}-{next(self._ids)}-{id(self)}"
        await self._programs[workload].write({"id": number, "service": service, "bytes": data})
        row = await self._programs[workload].until_row("id", number)
        return str(row["answer"])

    def issuing(self) -> tuple[list[x509.Certificate], ec.EllipticCurvePrivateKey]:
        """The issuing chain and key, as a thief with the server's files would have them."""
        from limen.opening import stolen_issuer  # noqa: PLC0415  only this attack opens the authority

        return stolen_issuer(self.state)

    async def missing_guards(self) -> dict[str, str]:
        """What this host cannot guard, with the reason, as the agent says it."""
        answer = await asyncio.to_thread(control.ask, self.state / "control.sock", {"type": "status"})
        left_out = answer["left_out"]
        assert isinstance(left_out, dict)
        return {str(name): str(reason) for name, reason in left_out.items()}

    async def last_record(self) -> int:
        """How many records the log holds now."""
        return int((await self._call("/v1/status"))["records"])

    async def refusal_since(self, index: int, attack: Attack) -> str:
        """The code of the first refusal recorded after an attack began; empty when none came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECORD_WITHIN_S):
                while True:
                    rows = await self._call(f"/v1/records?after={index}&kind=decision")
                    for row in rows:
                        if row.get("decision") == "deny" and row.get("code") in attack.codes:
                            return str(row["code"])
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            await asyncio.Event().wait()
        return ""

    async def one_denial(self) -> str:
        """The id of one recorded denial.

        Raises Unavailable when the log holds none.
        """
        for row in await self._call("/v1/records?after=0&kind=decision"):
            if row.get("decision") == "deny":
                return str(row["id"])
        raise Unavailable("LM5223", what="a recorded denial")

    async def _call(self, path: str) -> Any:  # noqa: ANN401  JSON
        return await asyncio.to_thread(self._client.call, "GET", path)
