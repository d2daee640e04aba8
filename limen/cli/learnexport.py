"""A proposal as objects of another system, from the same command: the compilers are those of `limen policy export`."""

from __future__ import annotations

import pathlib

from limen.cli.interchange import compile_for, domain_for, status_of, write_files
from mesh.clock import SystemClock
from mesh.spiffe import SpiffeId
from policyengine.compile.export import Workload
from policyengine.model import PolicySet

TARGETS = ("istio", "kubernetes", "cilium", "consul", "linkerd")


def export_to(
    target: str, policies: PolicySet, out: pathlib.Path, workloads: pathlib.Path | None, trust_domain: str
) -> dict[str, object]:
    """Write a tree's objects for a system beside the tree; what became of each service.

    Workloads that are Kubernetes objects have identities of the trust domain.

    Raises Invalid LM2515 when the services are of several trust domains.
    """
    from limen.workloads import read_workloads  # noqa: PLC0415

    known: dict[SpiffeId, Workload] = {}
    if workloads is not None:
        known = read_workloads(workloads, SystemClock().now(), trust_domain)
    found = compile_for(target, policies, domain_for(policies, None), known)
    directory = out.with_name(f"{out.name}-{target}")
    written = write_files(directory, list(found.files), force=True)
    return {
        "target": target,
        "directory": str(directory),
        "written": written,
        "services": [
            {"service": name, "status": status_of(items), "findings": [item.to_json() for item in items]}
            for name, items in found.findings.items()
        ],
    }
