"""`limen can`: whether SOURCE may call SERVICE, by which rule, and if not, what is nearest to allowing it."""

from __future__ import annotations

import datetime as dt
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from limen.cli import render
from limen.cli.context import output_option
from limen.cli.explanations import files_of, show
from limen.decisions import name_of
from limen.explained import explanation_to_json, located
from mesh.clock import SystemClock
from mesh.problems import Diagnostic, Invalid, Severity
from mesh.request import Decision, Protocol, Request
from mesh.spiffe import SpiffePattern
from policyengine import model
from policyengine.atoms import TooLarge
from policyengine.attributes import identity_of
from policyengine.customrules import PATIENT_S, check_custom_rules, with_custom_rules
from policyengine.decide import Index
from policyengine.explain import explain
from policyengine.loader import KeptFiles, load_tree
from policyengine.reach import who_reaches
from policyengine.reading import did_you_mean
from policyengine.rows import Row

_MAX_PORT = 65535
_DIGITS = 6
"""One more than the largest port has."""
F = TypeVar("F", bound=Callable[..., Any])


def question_options(command: F) -> F:
    """Add what a question about a request may hold beside its four words."""
    options = (
        click.option(
            "--header", "headers", multiple=True, metavar="K=V", help="A header of the request; may be repeated."
        ),
        click.option(
            "--claims",
            type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
            help="A JSON file with the claims of the caller's verified token.",
        ),
        click.option(
            "--policies",
            type=click.Path(exists=True, path_type=pathlib.Path),
            help="A policy tree to ask instead of the active snapshot.",
        ),
        click.option(
            "--files",
            type=click.Path(exists=True, path_type=pathlib.Path),
            help="The tree that the active snapshot was made of: rules are named with its files and lines.",
        ),
        click.option(
            "--fix",
            "is_fix",
            is_flag=True,
            help="Write the smallest fix into the tree of --policies, comments kept, and show the plan of that change.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("source")
@click.argument("target", metavar="SERVICE[:PORT]")
@click.argument("method", required=False)
@click.argument("path", required=False)
@question_options
@click.option("--at", default=None, help="Ask about the release that was in force then, at that time (RFC 3339).")
@output_option("table", "json")
@click.pass_context
def can(
    ctx: click.Context,
    source: str,
    target: str,
    method: str | None,
    path: str | None,
    headers: tuple[str, ...],
    claims: pathlib.Path | None,
    policies: pathlib.Path | None,
    files: pathlib.Path | None,
    output: str,
    *,
    at: str | None,
    is_fix: bool,
) -> None:
    """Ask whether SOURCE may call SERVICE, and why.

    SOURCE is a SPIFFE ID or the name of a service. Exit status 0 is yes, 1 is no; with --fix, 0 is that the tree says
    yes now.
    """
    words = tuple(word for word in (source, target, method, path) if word is not None)
    ctx.exit(answer(words, headers, claims, policies, files, output, is_fix=is_fix, at=at))


def answer(
    words: tuple[str, ...],
    headers: tuple[str, ...],
    claims: pathlib.Path | None,
    policies: pathlib.Path | None,
    files: pathlib.Path | None,
    output: str,
    *,
    is_fix: bool = False,
    at: str | None = None,
) -> int:
    """Explain a request given by its words, SOURCE SERVICE[:PORT] [METHOD PATH]; the exit status is the answer."""
    if len(words) not in {2, 4}:
        raise click.UsageError("METHOD stands with a PATH")
    if is_fix and policies is None:
        raise click.UsageError("--fix changes a policy tree: name it with --policies")
    source, target = words[:2]
    method, path = words[2:] if len(words) == 4 else (None, None)
    if at is None:
        now = SystemClock().now()
        snapshot, found = _policies(policies)
    else:
        now, snapshot, found = _policies_at(at, policies)
    found = located(found, files_of(files))
    service, port = _target(found, target, has_request=method is not None)
    request = Request(
        service=service.name,
        port=port,
        protocol=service.protocol_of(port) or _undeclared_protocol(method),
        source=_source(found, source),
        method=method,
        path=_as_sent(path),
        headers=tuple(_header(text) for text in headers),
        claims=_claims(claims) if claims is not None else None,
        time=now,
    )
    with with_custom_rules(found, deadline_s=PATIENT_S) as evaluated:
        explained = explain(evaluated, request, snapshot=snapshot)
        requests = None if method is not None else _requests(evaluated, service, request)
        if output != "json":
            what = f"{method} {path}" if method else f"port {port}"
            show(explained, f"{source} → {target}   {what}", requests)
        done: dict[str, object] = {}
        status = 0 if explained.decision.is_allowed else 1
        if is_fix and policies is not None:
            from limen.cli.fixing import write_fix  # noqa: PLC0415  plans ask this module for trees

            status, done = write_fix(policies, evaluated, request, explained, output)
    if output == "json":
        candidate = _candidate(request) if policies is None and at is None else None
        more = {} if requests is None else {"requests": [row.to_json() for row in requests]}
        render.data({**explanation_to_json(explained, candidate=candidate), **more, **done})
    return status


def _requests(policies: model.PolicySet, service: model.Service, request: Request) -> tuple[Row, ...] | None:
    """What the caller may ask on a port where requests are read; None where a connection is all there is."""
    source = identity_of(request.source)
    if source is None or service.protocol_of(request.port) not in {"http", "grpc"}:
        return None
    callers = model.Principals(is_any=False, patterns=(SpiffePattern.parse(str(source)),))
    try:
        rows = who_reaches(policies, service.name, callers, None, SystemClock().now())
    except TooLarge:
        return None
    return tuple(row for row in rows if row.port == request.port)


def _policies(tree: pathlib.Path | None) -> tuple[str, model.PolicySet]:
    """The policy set to ask and its name: a tree, or the active snapshot of the server."""
    if tree is not None:
        found = usable_tree(tree)
        return name_of(found), found
    from limen import client  # noqa: PLC0415  only a command that asks the server pays for it

    name, active = client.active_policies()
    assert isinstance(active, model.PolicySet)
    return str(name), active


def _policies_at(at: str, tree: pathlib.Path | None) -> tuple[dt.datetime, str, model.PolicySet]:
    """A moment, and what was in force then: a tree that is named, or the release that the audit log names."""
    from limen.cli import context  # noqa: PLC0415  only this question reads the log
    from limen.cli.auditlog import moment  # noqa: PLC0415
    from limen.cli.auditreach import release_at  # noqa: PLC0415
    from limen.releases import Policies  # noqa: PLC0415

    when = moment("--at", at)
    assert when is not None
    if tree is not None:
        return (when, *_policies(tree))
    release = release_at(when, None, None)
    found = Policies(context.state()).snapshot(release.snapshot)
    return when, release.snapshot, model.policy_set_from_json(found["policies"])


def _candidate(request: Request) -> Decision | None:
    """What the server's candidate, if there is one, says of the same request."""
    from limen import client  # noqa: PLC0415  only a command that asks the server pays for it

    found = client.candidate_policies()
    if found is None:
        return None
    with with_custom_rules(found[1], deadline_s=PATIENT_S) as evaluated:
        return Index(evaluated, found[0]).decide(request)


def usable_tree(tree: pathlib.Path, kept: KeptFiles | None = None) -> model.PolicySet:
    """Load a policy tree, showing its errors; ``kept`` has the files that another tree has too.

    Raises Invalid (LM2203) when it has any, LM2602 for custom rules that may not run.
    """
    found, diagnostics = load_tree(tree, kept)
    usable(found, diagnostics, tree)
    return found


def usable(found: model.PolicySet, diagnostics: Sequence[Diagnostic], tree: pathlib.Path) -> None:
    """Show the errors of a tree that was loaded, all of them.

    Raises Invalid (LM2203) when it has any, LM2602 for custom rules that may not run.
    """
    errors = [item for item in diagnostics if item.severity is Severity.ERROR]
    if errors:
        render.diagnostics(diagnostics)
        raise Invalid("LM2203", path=str(tree), count=f"{len(errors)} error{'s' if len(errors) > 1 else ''}")
    check_custom_rules(found)


def _target(policies: model.PolicySet, text: str, *, has_request: bool) -> tuple[model.Service, int]:
    """The called service and port; the port may be left out where only one can be meant."""
    name, port = text, None
    before, colon, after = text.rpartition(":")
    if colon and after.isascii() and after.isdigit():
        # more digits than a port has are no port either, and may be more than `int` reads
        name, port = before, int(after[:_DIGITS])
    service = policies.service_for(name)
    if service is None:
        names = [found.name for found in policies.services]
        raise Invalid("LM2201", value=text, hint=did_you_mean(name, names), known=", ".join(sorted(names)))
    if port is not None and 0 < port <= _MAX_PORT:
        return service, port
    if port is not None:
        raise Invalid("LM2201", value=text, hint="", known=", ".join(_places(service)))
    ports = [found.port for found in service.ports if not has_request or found.protocol != "tcp"]
    if len(ports) != 1:
        raise Invalid("LM2201", value=text, hint="", known=", ".join(_places(service)))
    return service, ports[0]


def _places(service: model.Service) -> list[str]:
    return [f"{service.name}:{found.port}" for found in service.ports]


def _undeclared_protocol(method: str | None) -> Protocol:
    return "tcp" if method is None else "http"


def _source(policies: model.PolicySet, text: str) -> str:
    """The caller's SPIFFE ID; a service stands for its one exact identity."""
    if ":" in text:
        return text
    service = policies.service_for(text)
    exact = [str(item) for item in service.identities if not item.subtree] if service is not None else []
    if service is None or len(exact) != 1:
        known = ", ".join(exact or sorted(found.name for found in policies.services))
        hint = did_you_mean(text, (found.name for found in policies.services)) if service is None else ""
        raise Invalid("LM2202", value=text, hint=hint, known=known)
    return exact[0]


def _as_sent(path: str | None) -> str | None:
    """A path as it was typed, as the bytes that a client sends for it (UTF-8)."""
    return None if path is None else path.encode("utf-8", "surrogateescape").decode("latin-1")


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Invalid("LM2204", what="a header", expected="K=V", value=text)
    return name, value


def _claims(file: pathlib.Path) -> Mapping[str, object]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise Invalid("LM2204", what="a claims file", expected="a JSON object", value=str(file)) from err
    if not isinstance(found, dict):
        raise Invalid("LM2204", what="a claims file", expected="a JSON object", value=str(file))
    return found
