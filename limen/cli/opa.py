"""`limen policy push`: the policies into a running OPA."""

from __future__ import annotations

import pathlib

import click

from limen.cli import render
from limen.cli.can import usable_tree
from limen.cli.context import output_option, tree_option
from limen.decisions import name_of
from mesh.clock import SystemClock
from mesh.problems import Invalid
from policyengine.compile.rego import compile_rego

_FILE = click.Path(dir_okay=False, path_type=pathlib.Path)


@click.command()
@tree_option()
@click.option("--opa", "url", required=True, help="The OPA to push to: http(s)://HOST:PORT.")
@click.option("--token-file", type=_FILE, help="A file with OPA's bearer token.")
@click.option("--ca", type=_FILE, help="The authority of OPA's certificate, PEM.")
@click.option("--cert", type=_FILE, help="A client certificate, PEM.")
@click.option("--key", type=_FILE, help="The key of `--cert`, PEM.")
@output_option("table", "json")
def push(
    tree: pathlib.Path,
    url: str,
    token_file: pathlib.Path | None,
    ca: pathlib.Path | None,
    cert: pathlib.Path | None,
    key: pathlib.Path | None,
    output: str,
) -> None:
    """Push the policies into a running OPA, and check on probes that it decides as Limen does."""
    from limen import opapush  # noqa: PLC0415  its client is heavy

    policies = usable_tree(tree)
    snapshot = name_of(policies)
    target = opapush.Target(
        url=url,
        token=_token(token_file),
        ca=ca,
        certificate=(cert, key) if cert is not None and key is not None else None,
    )
    with opapush.connect(target) as client:
        opapush.push(client, compile_rego(policies, snapshot), url)
        probes = opapush.compare(client, policies, snapshot, SystemClock().now(), url)
    if output == "json":
        render.data({"snapshot": snapshot, "probes": probes})
    else:
        render.line(f"pushed {snapshot}; OPA decides {probes} probes as Limen does")


def _token(path: pathlib.Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise Invalid("LM2204", what="a token file", expected="text", value=str(path)) from err
