"""`limen can`: whether SOURCE may call SERVICE, by which rule, and if not, what is nearest to allowing it."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence

import click

from limen.cli import render
from limen.cli.context import output_option
from limen.decisions import decision_to_json, name_of
from mesh.clock import SystemClock
from mesh.problems import Diagnostic, Invalid, Severity
from mesh.request import Decision, Effect, Protocol, Request
from policyengine import model
from policyengine.customrules import PATIENT_S, check_custom_rules, with_custom_rules
from policyengine.decide import Index
from policyengine.explain import Explanation, explain
from policyengine.loader import load_tree
from policyengine.reading import did_you_mean


@click.command()
@click.argument("source")
@click.argument("target", metavar="SERVICE[:PORT]")
@click.argument("method", required=False)
@click.argument("path", required=False)
@click.option("--header", "headers", multiple=True, metavar="K=V", help="A header of the request; may be repeated.")
@click.option(
    "--claims",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="A JSON file with the claims of the caller's verified token.",
)
@click.option(
    "--policies",
    type=click.Path(exists=True, path_type=pathlib.Path),
    help="A policy tree to ask instead of the active snapshot.",
)
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
    output: str,
) -> None:
    """Ask whether SOURCE may call SERVICE, and why.

    SOURCE is a SPIFFE ID or the name of a service. Exit status 0 is yes, 1 is no.
    """
    if method is not None and path is None:
        raise click.UsageError("METHOD stands with a PATH")
    snapshot, found = _policies(policies)
    service, port = _target(found, target, has_request=method is not None)
    request = Request(
        service=service.name,
        port=port,
        protocol=service.protocol_of(port) or _undeclared_protocol(method),
        source=_source(found, source),
        method=method,
        path=path,
        headers=tuple(_header(text) for text in headers),
        claims=_claims(claims) if claims is not None else None,
        time=SystemClock().now(),
    )
    with with_custom_rules(found, deadline_s=PATIENT_S) as evaluated:
        explained = explain(evaluated, request, snapshot=snapshot)
    if output == "json":
        candidate = _candidate(request) if policies is None else None
        render.data(decision_to_json(explained.decision, nearest=explained.nearest, candidate=candidate))
    else:
        what = f"{method} {path}" if method else f"port {port}"
        _show(explained, f"{source} → {target}   {what}", found)
    ctx.exit(0 if explained.decision.is_allowed else 1)


def _policies(tree: pathlib.Path | None) -> tuple[str, model.PolicySet]:
    """The policy set to ask and its name: a tree, or the active snapshot of the server."""
    if tree is not None:
        found = usable_tree(tree)
        return name_of(found), found
    from limen import client  # noqa: PLC0415  only a command that asks the server pays for it

    name, active = client.active_policies()
    assert isinstance(active, model.PolicySet)
    return str(name), active


def _candidate(request: Request) -> Decision | None:
    """What the server's candidate, if there is one, says of the same request."""
    from limen import client  # noqa: PLC0415  only a command that asks the server pays for it

    found = client.candidate_policies()
    if found is None:
        return None
    with with_custom_rules(found[1], deadline_s=PATIENT_S) as evaluated:
        return Index(evaluated, found[0]).decide(request)


def usable_tree(tree: pathlib.Path) -> model.PolicySet:
    """Load a policy tree, showing its errors.

    Raises Invalid (LM2203) when it has any, LM2602 for custom rules that may not run.
    """
    found, diagnostics = load_tree(tree)
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
        name, port = before, int(after)
    service = policies.service_for(name)
    if service is None:
        names = [found.name for found in policies.services]
        raise Invalid("LM2201", value=text, hint=did_you_mean(name, names), known=", ".join(sorted(names)))
    if port is not None:
        return service, port
    ports = [found.port for found in service.ports if not has_request or found.protocol != "tcp"]
    if len(ports) != 1:
        known = ", ".join(f"{service.name}:{found.port}" for found in service.ports)
        raise Invalid("LM2201", value=text, hint="", known=known)
    return service, ports[0]


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


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Invalid("LM2204", what="a header", expected="K=V", value=text)
    return name, value


def _claims(file: pathlib.Path) -> Mapping[str, object]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as err:
        raise Invalid("LM2204", what="a claims file", expected="a JSON object", value=str(file)) from err
    if not isinstance(found, dict):
        raise Invalid("LM2204", what="a claims file", expected="a JSON object", value=str(file))
    return found


def _show(explained: Explanation, question: str, policies: model.PolicySet) -> None:
    """Write the answer for people: who decided, the path, the nearest miss and its fix."""
    decision = explained.decision
    mark = "√ allowed" if decision.is_allowed else "× denied "  # noqa: RUF001  the field's check marks
    render.line(f"{mark}  {question}")
    if decision.rule:
        render.line(f"  by       {_rule(policies, decision.policy, decision.rule)}, tier {decision.tier}")
    else:
        render.line(f"  by       {_reasons(explained)}  {decision.code}")
    if decision.effect is Effect.ALLOW and decision.policy_effect is Effect.DENY:
        render.line("  mode     observe: the rules deny this, and it goes through until the service is enforced")
    path = [f"{step.tier} {step.effect or 'no match'}" for step in explained.steps if step.is_reached]
    if path:
        render.line(f"  path     {' → '.join(path)}")
    nearest = explained.nearest
    if nearest is not None:
        if nearest.rule:
            differs = ", ".join(nearest.differs)
            render.line(f"  nearest  {_rule(policies, nearest.policy, nearest.rule)}: {differs} differs")
        render.line(f"  fix      {nearest.fix}")


_REASONS = {
    "LM2302": "the default deny: no rule allows it",
    "LM2303": "the default deny: the caller has no verified identity",
    "LM2305": "the default deny: no such service",
    "LM2306": "the default deny: the service does not declare this port",
}


def _reasons(explained: Explanation) -> str:
    if explained.ambiguous:
        return "refused before any rule: " + "; ".join(reason for _, reason in explained.ambiguous)
    return _REASONS.get(explained.decision.code, "the default deny")


def _rule(policies: model.PolicySet, policy: str, rule: str) -> str:
    """A rule as people find it: policy, id, and where it stands."""
    for found in policies.policies:
        if found.name == policy:
            for item in found.rules:
                if item.id == rule and item.span is not None:
                    return f"{policy}, rule {rule} ({item.span.file}:{item.span.line})"
    return f"{policy}, rule {rule}"
