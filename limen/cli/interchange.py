"""`limen policy import` and `export`: policies of other systems in, policies for other systems out.

Both print, for each document or service, what was said as it was, what became stricter and what was refused; nothing
is dropped in silence. Files are written whole or not at all.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import click

from limen.cli import context, render
from limen.cli.context import output_option, tree_option
from mesh.clock import SystemClock
from mesh.problems import Conflict, Diagnostic, Invalid, NotFound, Severity
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain
from mesh.yamlio import MAX_FILE_BYTES
from policyengine.compile.export import EXPERIMENTAL, Export, Workload, Workloads, domain_of
from policyengine.importers.documents import Document
from policyengine.importers.imported import Import, files_of
from policyengine.model import PolicySet

SYSTEMS = ("istio", "consul", "kubernetes")
TARGETS = ("istio", "kubernetes", "cilium", "consul", "linkerd", "nftables")
UNTRIED = ("istio", "kubernetes", "cilium", "consul", "linkerd")
"""Of the targets those whose programs never took an export."""
REGO, ENVOY = "rego", "envoy"


def _domain(ctx: click.Context, param: click.Parameter, value: str | None) -> TrustDomain | None:
    del ctx
    try:
        return None if value is None else TrustDomain.parse(value)
    except SpiffeIdError as err:
        raise click.BadParameter(str(err), param=param) from err


_out_option = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    required=True,
    help="A directory for the files; it is made, and may hold no others of the same names.",
)


@click.command("import")
@click.argument("system", type=click.Choice(SYSTEMS))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=pathlib.Path), metavar="FILE…")
@_out_option
@click.option("--trust-domain", callback=_domain, default="cluster.local", show_default=True, help="The mesh's.")
@click.option("--root-namespace", default="istio-system", show_default=True, help="Istio's root namespace.")
@click.option("--datacenter", default="dc1", show_default=True, help="Consul's datacenter.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@output_option("table", "json")
@click.pass_context
def import_(
    ctx: click.Context,
    system: str,
    files: tuple[pathlib.Path, ...],
    out: pathlib.Path,
    trust_domain: TrustDomain,
    root_namespace: str,
    datacenter: str,
    output: str,
    *,
    force: bool,
) -> None:
    """Translate the policies of another system into a policy tree.

    Decisions stay, or become stricter, and the report says where. Exit status 1 when something was refused.
    """
    texts = [(str(file), _read(file)) for file in files]
    found = _import(system, texts, trust_domain, root_namespace, datacenter)
    unreadable = [item for item in found.unreadable if item.severity is Severity.ERROR]
    if unreadable:
        render.diagnostics(unreadable)
        ctx.exit(2)
    written = write_files(out, files_of(found), force=force)
    if output == "json":
        documents = [_document_json(item) for item in found.documents]
        counts = {status: sum(item.status == status for item in found.documents) for status in _statuses(found)}
        render.data({"documents": documents, "counts": counts, "written": written})
    else:
        _show([(f"{item.kind} {item.namespace}/{item.name}", item.status, item.findings) for item in found.documents])
        render.say(f"wrote {len(written)} files to {out}")
    ctx.exit(1 if found.is_refused else 0)


def _import(
    system: str, texts: Sequence[tuple[str, str]], domain: TrustDomain, root_namespace: str, datacenter: str
) -> Import:
    """Run one importer; each is loaded when it is asked for."""
    if system == "istio":
        from policyengine.importers.istio import import_istio  # noqa: PLC0415

        return import_istio(texts, domain, root_namespace)
    if system == "consul":
        from policyengine.importers.consul import import_consul  # noqa: PLC0415

        return import_consul(texts, domain, datacenter)
    from policyengine.importers.kubernetes import import_kubernetes  # noqa: PLC0415

    return import_kubernetes(texts, domain)


@click.command("export")
@click.argument("target", type=click.Choice((*TARGETS, REGO, ENVOY)))
@tree_option()
@_out_option
@click.option("--trust-domain", callback=_domain, default=None, help="The cluster's; default: that of all services.")
@click.option(
    "--workloads",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="Labels and addresses by identity, one JSON object a line.",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
@output_option("table", "json")
@click.pass_context
def export(
    ctx: click.Context,
    target: str,
    tree: pathlib.Path,
    out: pathlib.Path,
    trust_domain: TrustDomain | None,
    workloads: pathlib.Path | None,
    output: str,
    *,
    force: bool,
) -> None:
    """Write the policies of a tree for another system.

    What the target cannot say allows nothing there, and the report names it. Exit status 1 when something was refused.
    Rego, nftables and Envoy were tried with the programs that read them; the other targets are experimental.
    """
    from learner.attribution import TRUST_DOMAIN  # noqa: PLC0415
    from limen.cli.can import usable_tree  # noqa: PLC0415
    from limen.workloads import read_workloads  # noqa: PLC0415

    policies = usable_tree(tree)
    known: dict[SpiffeId, Workload] = {}
    if workloads is not None:
        known = read_workloads(workloads, SystemClock().now(), str(trust_domain or TRUST_DOMAIN))
    if target == REGO:
        found = _rego(policies)
    elif target == ENVOY:
        found = _envoy(policies, known)
    else:
        found = compile_for(target, policies, domain_for(policies, trust_domain), known)
    written = write_files(out, list(found.files), force=force)
    if target == REGO:
        _forget_rules(out, {name for name, _ in found.files})
    if output == "json":
        services = [
            {"service": name, "status": status_of(items), "findings": [item.to_json() for item in items]}
            for name, items in found.findings.items()
        ]
        render.data({"target": target, "experimental": target in UNTRIED, "services": services, "written": written})
    else:
        _show([(name, status_of(items), items) for name, items in found.findings.items()])
        if target in UNTRIED:
            render.say(EXPERIMENTAL)
        render.say(f"wrote {len(written)} files to {out}")
    ctx.exit(1 if any(status_of(items) == "refused" for items in found.findings.values()) else 0)


def domain_for(policies: PolicySet, given: TrustDomain | None) -> TrustDomain:
    """The cluster's trust domain.

    Raises Invalid LM2515 when the services are not of one.
    """
    domain = given or domain_of(policies)
    if domain is None:
        names = sorted({str(item.id.trust_domain) for service in policies.services for item in service.identities})
        raise Invalid("LM2515", found=", ".join(names) or "there is no service")
    return domain


def _rego(policies: PolicySet) -> Export:
    """The folder of an OPA bundle; Rego can say everything."""
    from limen.decisions import name_of  # noqa: PLC0415
    from policyengine.compile.opabundle import files_of as bundle_files  # noqa: PLC0415
    from policyengine.compile.rego import compile_rego  # noqa: PLC0415

    files = bundle_files(compile_rego(policies, name_of(policies)))
    return Export(
        files=tuple((name, content.decode()) for name, content in sorted(files.items())),
        findings={service.name: () for service in policies.services},
    )


def _envoy(policies: PolicySet, workloads: Workloads) -> Export:
    """A configuration for each service, read by a real Envoy where there is one.

    Raises Unavailable LM2651 for one that Envoy does not take.
    """
    from limen.envoy import find_envoy, validate  # noqa: PLC0415
    from policyengine.compile.envoy import compile_envoy  # noqa: PLC0415

    found = compile_envoy(policies, workloads, str(context.state() / "agent.sock"))
    try:
        find_envoy()
    except NotFound as err:
        render.say(f"not validated: {err}")
        return found
    for name, text in found.files:
        validate(name, text)
    render.say(f"Envoy takes {len(found.files)} files")
    return found


def _forget_rules(out: pathlib.Path, kept: Collection[str]) -> None:
    """Delete the custom rules of an earlier export: OPA loads whatever lies in the folder."""
    from policyengine.compile.rego import RULES_FOLDER  # noqa: PLC0415

    for path in (out / RULES_FOLDER).rglob("*.rego"):
        if path.relative_to(out).as_posix() not in kept:
            path.unlink()


def compile_for(target: str, policies: PolicySet, domain: TrustDomain, workloads: Workloads) -> Export:
    """Run one compiler; each is loaded when it is asked for."""
    import importlib  # noqa: PLC0415

    module = importlib.import_module(f"policyengine.compile.{target}")
    compiler: Callable[..., Export] = getattr(module, f"compile_{target}")
    return compiler(policies, domain) if target == "cilium" else compiler(policies, domain, workloads)


def status_of(findings: Iterable[Diagnostic]) -> str:
    """What the findings about a service or document come to: translated, stricter or refused."""
    codes = {item.code for item in findings}
    if codes & {"LM2510", "LM2513"}:
        return "refused"
    return "stricter" if "LM2511" in codes else "translated"


def _statuses(found: Import) -> list[str]:
    return list(dict.fromkeys(item.status for item in found.documents))


def _document_json(item: Document) -> Mapping[str, object]:
    return {
        "file": item.node.span.file,
        "line": item.node.span.line,
        "kind": item.kind,
        "namespace": item.namespace,
        "name": item.name,
        "status": item.status,
        "findings": [found.to_json() for found in item.findings],
    }


def _show(rows: Sequence[tuple[str, str, Sequence[Diagnostic]]]) -> None:
    """Write one line for each document or service, and its findings below."""
    for name, status, findings in rows:
        render.line(f"{status:<11} {name}")
        for item in findings:
            where = f"{item.span.file}:{item.span.line}:{item.span.column}: " if item.span is not None else ""
            render.line(f"    {item.severity} {item.code} {where}{item.message}")


def _read(file: pathlib.Path) -> str:
    """The text of a file; of one that is too large the beginning, which is too large as well (LM5100)."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        return data.decode("utf-8", "strict" if len(data) <= MAX_FILE_BYTES else "replace")
    except OSError as err:
        raise NotFound("LM2022", file=str(file), reason=err.strerror or "it cannot be read") from err
    except UnicodeDecodeError as err:
        raise Invalid("LM2022", file=str(file), reason="it is not UTF-8") from err


def write_files(out: pathlib.Path, files: Sequence[tuple[str, str]], *, force: bool) -> list[str]:
    """Write all files, or none when one is there already."""
    there = [name for name, _ in files if (out / name).exists()]
    if there and not force:
        raise Conflict("LM2516", file=str(out / there[0]))
    try:
        out.mkdir(parents=True, exist_ok=True)
        drafts = [(out / name).with_name(f".{pathlib.PurePath(name).name}.new") for name, _ in files]
        for draft, (_, text) in zip(drafts, files, strict=True):
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, "utf-8")
        for draft, (name, _) in zip(drafts, files, strict=True):
            os.replace(draft, out / name)  # noqa: PTH105  one word for one system call
    except OSError as err:
        raise Invalid("LM2517", path=str(out), reason=err.strerror or "it cannot be written") from err
    return [str(out / name) for name, _ in files]
