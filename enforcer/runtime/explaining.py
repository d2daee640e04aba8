"""What an agent tells people of a process and of the runtimes that it asks (`limen identity explain`, `check`)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from enforcer.attest import Launch
from enforcer.process import read_process
from enforcer.runtime.container import Facts
from enforcer.runtime.containers import Containers, Found, source_of
from enforcer.runtime.options import places
from mesh.problems import Invalid

Message = dict[str, object]


async def explained(pid: object, launched: Sequence[Launch], containers: Containers, node: Facts) -> Message:
    """The facts of a process, of whom they are, and which could not be found out.

    A launched workload is described by its launch alone.

    Raises Invalid or NotFound.
    """
    if type(pid) is not int:
        raise Invalid("LM3002", reason="`pid` is a whole number")
    process = await asyncio.to_thread(read_process, pid)
    own = next((found.facts for found in launched if (found.pid, found.start) == (pid, process.start)), None)
    found = await containers.facts_of(process) if own is None else Found()
    facts = [*(own or process.facts()), *found.facts, *node]
    return {
        "type": "explained",
        "facts": [list(item) for item in facts],
        "sources": {name: source for name, _ in facts if (source := source_of(name, found.sources))},
        "missing": {"code": found.problem.code, "reason": str(found.problem)} if found.problem is not None else None,
    }


async def runtimes_status(containers: Containers) -> Message:
    """Which runtimes are asked and whether they can be, and who is asked about pods."""
    found = await asyncio.to_thread(places, [(runtime.kind, runtime.path) for runtime in containers.runtimes])
    return {
        "runtimes": [dataclasses.asdict(place) for place in found],
        "pods": containers.pods.source if containers.pods is not None else None,
    }
