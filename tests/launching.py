"""A launch as `limen run` and the agent do it together, in one process."""

import subprocess

from enforcer.attest import Launch
from enforcer.launch import Order, begin, hash_opened, held, prepare, record
from mesh.problems import Problem


def launch(order: Order) -> tuple[subprocess.Popen[bytes], Launch]:
    """Launch a program and record it; when that fails, nothing of it is left."""
    prepared = prepare(order)
    try:
        executable = hash_opened(prepared.executable)
        script = hash_opened(prepared.script) if prepared.script is not None else None
        child = begin(order, prepared)
        try:
            with held(child.pid):
                return child, record(child.pid, order.uid, executable, script)
        except Problem:
            child.kill()
            child.wait()
            raise
    finally:
        prepared.close()
