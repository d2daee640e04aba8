"""`limen policy`: evaluate requests; the other verbs are loaded by name when they are asked for."""

from __future__ import annotations

import functools
import importlib
import json
import keyword
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import click

from limen.cli import render
from limen.cli.context import tree_option
from limen.decisions import RequestError, decision_to_json, name_of, request_from_json
from mesh.clock import SystemClock
from mesh.request import Decision, Effect, NearestMiss, Request

_HERE = {"eval": "Decide requests, one JSON object a line."}
_ELSEWHERE = {
    "lint": ("limen.cli.lint", "Check a policy tree."),
    "explain": ("limen.cli.policyexplain", "Explain a request, or a recorded decision."),
    "plan": ("limen.cli.plan", "Show what a change newly allows and denies."),
    "reach": ("limen.cli.reach", "Say who reaches a service, or what an identity reaches."),
    "rollout": ("limen.cli.reach", "Say what a mix of old and new policies opens."),
    "publish": ("limen.cli.plan", "Propose, approve with the local key, and activate."),
    "import": ("limen.cli.interchange", "Translate the policies of Istio, Consul or Kubernetes."),
    "export": (
        "limen.cli.interchange",
        "Write policies for Istio, Kubernetes, Cilium, Consul, Linkerd, nftables, OPA or Envoy.",
    ),
    "fmt": ("limen.cli.policyfmt", "Format policy files and keep their comments."),
    "test": ("limen.cli.policytest", "Run the tests that stand beside the policies."),
    "compile": ("limen.cli.policycompile", "Compile a tree as publish would, without a server."),
    "push": ("limen.cli.opa", "Push policies into a running OPA."),
}


class _Verbs(click.Group):
    """The verbs of `limen policy`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs that work."""
        del ctx
        return [*_HERE, *_ELSEWHERE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One verb, imported when it lives elsewhere."""
        if cmd_name in _ELSEWHERE:
            name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) or cmd_name == "compile" else cmd_name
            found = getattr(importlib.import_module(_ELSEWHERE[cmd_name][0]), name)
            assert isinstance(found, click.Command)
            return found
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([*_HERE.items(), *((name, text) for name, (_, text) in _ELSEWHERE.items())])


@click.group(cls=_Verbs)
def policy() -> None:
    """Lint, evaluate, plan and publish policies."""


Engine = Callable[[Request], Decision]
MAX_LINE_BYTES = 1 << 20
"""The longest line that is read as a request."""
_ROOM = 50


@policy.command("eval")
@tree_option()
@click.option(
    "--engine",
    type=click.Choice(["index", "reference", "rego", "opa", "envoy"]),
    default="index",
    help="What decides.",
)
@click.option("--nearest", is_flag=True, help="Name the nearest miss of every denial (slow).")
@click.pass_context
def evaluate(ctx: click.Context, tree: pathlib.Path, engine: str, *, nearest: bool) -> None:
    """Decide requests from stdin, one JSON object a line.

    A line that cannot be read gives an object with an error, and exit status 2 at the end.
    """
    from limen.cli.can import usable_tree  # noqa: PLC0415  the verbs that follow are heavy
    from limen.engines import open_engine  # noqa: PLC0415
    from policyengine.explain import nearest_miss  # noqa: PLC0415

    policies = usable_tree(tree)
    miss = functools.partial(nearest_miss, policies) if nearest else None
    with open_engine(engine, policies, name_of(policies)) as decide:
        status = _answer(_lines(sys.stdin.buffer), decide, miss)
    ctx.exit(status)


def _answer(lines: Iterable[bytes], decide: Engine, miss: Callable[[Request], NearestMiss | None] | None) -> int:
    """Answer each line with one row, at once; the exit status says whether every line could be read."""
    clock, status = SystemClock(), 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        identifier: object = None
        try:
            row = _read(line)
            identifier = _id_of(row)
            request = request_from_json(row, now=clock.now())
        except (RequestError, ValueError, RecursionError) as err:
            reason = str(err) if isinstance(err, RequestError) else "it is not JSON"
            render.row({"id": identifier, "error": {"code": "LM2200", "line": number, "reason": reason}})
            status = 2
            continue
        decision = decide(request)
        is_denied = decision.policy_effect is not Effect.ALLOW
        nearest = miss(request) if miss is not None and is_denied else None
        render.row({"id": identifier, **decision_to_json(decision, nearest=nearest)})
        sys.stdout.flush()  # whoever asks line by line waits for the answer
    return status


def _read(line: bytes) -> object:
    """The value of a line.

    Raises RequestError, ValueError, RecursionError.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RequestError(f"a line has {MAX_LINE_BYTES} bytes at most")
    return json.loads(line.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once)


def _id_of(row: object) -> object:
    """The id of a line, which an answer says again.

    Raises RecursionError for one that cannot be written with room to spare: an answer is written further up the stack.
    """
    found = row.get("id") if isinstance(row, dict) else None
    if isinstance(found, (dict, list)):
        json.dumps(functools.reduce(lambda inner, _: [inner], range(_ROOM), found))
    return found


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a stream; of one that is too long the beginning, which is too long as well."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES + 1)
        yield line


def _finite(text: str) -> float:
    """A number that JSON can say again."""
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(text)
    return found


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object whose keys stand once: of two sources, nobody knows which was meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RequestError("a key stands once in its object")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(name)
