"""`--fix`: the smallest fix of a question written into the policy tree that was asked, and the plan of the change."""

from __future__ import annotations

import difflib
import pathlib

from limen.cli import render
from limen.cli.plan import show as show_plan
from limen.explained import Json
from limen.files import replace_file
from mesh.clock import SystemClock
from mesh.problems import Invalid
from mesh.request import Request
from policyengine.analysis import plan
from policyengine.explain import Explanation
from policyengine.fixing import Fixed, fixed
from policyengine.model import PolicySet
from policyengine.treefiles import read_files


def write_fix(
    tree: pathlib.Path, policies: PolicySet, request: Request, explained: Explanation, output: str
) -> tuple[int, Json]:
    """Write the fix of a request that the rules deny; the exit status, and what the JSON object says of it.

    0 is written, or allowed already; 1 is what no change of a rule allows, or cannot be written: the reason is said.
    """
    if explained.fix is None:
        is_allowed = explained.decision.is_allowed
        if not is_allowed:
            render.say(str(Invalid("LM2206", reason="no change of a rule would allow it")))
        return (0 if is_allowed else 1), {"fixed": None}
    before = {file.path: file.text for file in read_files(tree)[0]}
    try:
        done = fixed(tree, read_files(tree)[0], policies, request, explained.fix)
    except Invalid as problem:
        render.say(str(problem))
        return 1, {"fixed": None, "not_fixed": {"code": problem.code, "message": problem.message}}
    _write(done)
    found = plan(policies, done.policies, (), SystemClock().now())
    if output != "json":
        for file in done.files:
            lines = difflib.unified_diff(
                before[file.path].splitlines(keepends=True), file.text.splitlines(keepends=True), str(file.path),
                f"{file.path} (fixed)", n=1,
            )  # fmt: skip
            render.line("".join(lines).rstrip("\n"))
        show_plan(found, output)
    return 0, {"fixed": {"files": [str(file.path) for file in done.files], "plan": found.to_json()}}


def _write(done: Fixed) -> None:
    """Write the files.

    Raises Invalid LM2713 when one cannot be written.
    """
    for file in done.files:
        try:
            replace_file(file.path, file.text.encode())
        except OSError as err:
            raise Invalid("LM2713", file=str(file.path), reason=err.strerror or "it cannot be written") from err
