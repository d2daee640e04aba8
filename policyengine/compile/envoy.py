"""Configuration of a plain Envoy from a policy set: per called service one file that `envoy -c` takes as it is.

Per port a listener with mutual TLS, SVID and trust from `agent.sock`, then the matcher of what Limen decides: for HTTP
and gRPC the RBAC filter of the connection manager, for TCP that of the connection. Matchers come from the decision
diagram (`policyengine.diagram`), so precedence is resolved here and never left to Envoy. Never RBAC `rules`: their
cost grows with every caller, and they take a DNS name for an identity.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable

from mesh.request import Effect, Protocol
from mesh.spiffe import SpiffeId
from policyengine.atoms import TooLarge
from policyengine.compile import envoyfiles as files
from policyengine.compile import sharedyaml
from policyengine.compile.envoyedge import guarded, refused_callers, refused_requests
from policyengine.compile.envoymatch import Json, TooManyBranches, TreeMatcher, action, by_caller, is_readable_header
from policyengine.compile.export import OTHER_CASE, Export, Findings, Workloads, object_name
from policyengine.diagram import Diagram, build
from policyengine.ir import Grant, ServiceForm, normalise
from policyengine.model import Conditions, PolicySet, Service
from policyengine.reference import DEFAULT_DENY

ANYWHERE = "0.0.0.0"  # noqa: S104  a listener for every address, unless the list of workloads names some
CANONICAL = (
    "Envoy merges slashes and else takes a request target only as it stands in canonical form, with an ASCII query: "
    "what Limen would resolve (`/a/../b`, `/%61`) is refused, and so is a malformed Host, an IPv6 Host, a header with "
    "`_` in its name, and a method that Envoy does not know"
)
FRAMING = (
    "nobody needs odd framing refused: Envoy unfolds header lines, takes bare line feeds and several spaces in a "
    "request line, drops `Upgrade: h2c` and headers that `Connection` names; it decides about what it forwards"
)
TCP_SPEAKS_FIRST = "an application that speaks first is not called before the caller has said something"
_NO_TIME = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)  # nothing that depends on the moment is exported


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port of a service with the matcher of its filter, and whether a request may become a WebSocket."""

    port: int
    protocol: Protocol
    matcher: Json
    websocket: bool = False


def compile_envoy(policies: PolicySet, workloads: Workloads, agent: str) -> Export:
    """One file for each service; ``agent`` is the path of `agent.sock`.

    1. EVERY port gets a matcher, and whatever Envoy cannot say is reported.
    2. The listener is at the workload's addresses where the list knows them.
    """
    found: list[tuple[str, str]] = []
    every: dict[str, Findings] = {}
    for service in sorted(policies.services, key=lambda item: item.name):
        findings = every[service.name] = Findings(service.name)
        # (1)
        ports = ports_of(policies, service, findings)
        # (2)
        exact = [pattern.id for pattern in service.identities if not pattern.subtree]
        hosts = sorted({text for identity in exact if identity in workloads for text in workloads[identity].addresses})
        if not hosts:
            findings.needs("the list of workloads has no address of it, so Envoy listens on all of them")
        findings.needs(
            "the application listens at 127.0.0.1 on the ports of the policies: change the clusters otherwise"
        )
        body = _bootstrap(service, ports, hosts or [ANYWHERE], exact, agent)
        found.append((f"{object_name(service.name)}.yaml", _text(service, body, findings)))
    return Export(files=tuple(found), findings={name: item.all() for name, item in every.items()})


def ports_of(policies: PolicySet, service: Service, findings: Findings) -> list[Port]:
    """The matcher of every port of a service; one that would be too large denies everything."""
    form = normalise(policies, service)
    _report(form, findings)
    diagram = build(service.name, [policies], _NO_TIME)
    found = []
    for port in sorted(service.ports, key=lambda item: item.port):
        try:
            decided = _decided(diagram, port.port)
        except (TooLarge, TooManyBranches):
            findings.unmapped(f"{service.name}:{port.port}", "its rules make too many branches", service.span)
            decided = action(DEFAULT_DENY, allows=False)
        rows = refused_callers()
        if port.protocol != "tcp":
            rows = refused_requests(form.headers, ignores_case=service.path_case == "insensitive") + rows
        matcher = guarded(rows, decided)
        found.append(Port(port=port.port, protocol=port.protocol, matcher=matcher, websocket=port.websocket))
    return found


def _decided(diagram: Diagram, port: int) -> Json:
    """What stands behind each class of callers on a port."""
    rows = []
    for region in diagram.regions:
        axes = next((found for found in region.ports if found.port == port), None)
        if axes is None:
            continue
        builder = diagram.builder(region)
        tree = builder.tree(axes)
        matcher, _ = TreeMatcher(axes, builder.variables).of(tree)
        rows += [(callers.pattern, matcher) for callers in region.callers]
    return by_caller(rows)


# ---------------------------------------------------------------------- what is not said as Limen says it


def _report(form: ServiceForm, findings: Findings) -> None:
    """What Envoy cannot say of a service.

    1. What is observed is enforced; paths of a service that ignores case are taken in lower case.
    2. An allow that hangs on what Envoy cannot know never matches: refused. A deny or pass always does: stricter.
    3. What Envoy refuses before any rule.
    """
    service = form.service
    # (1)
    if service.mode == "observe":
        findings.stricter(service.name, "the service is observed: the target enforces at once", service.span)
    if service.path_case == "insensitive":
        findings.stricter(service.name, OTHER_CASE, service.span)
    # (2)
    for grant in form.grants:
        for reason in _unsayable(grant):
            if grant.effect is Effect.ALLOW:
                findings.refuse(grant, reason)
            else:
                larger = f"the {grant.effect} holds there whatever that says: {reason}"
                findings.stricter(f"{grant.policy}/{grant.rule}", larger, grant.span)
    # (3)
    protocols = set(form.protocols.values())
    if protocols & {"http", "grpc"}:
        findings.stricter(service.name, CANONICAL, service.span)
        findings.needs(FRAMING)
    if "tcp" in protocols:
        findings.stricter(service.name, TCP_SPEAKS_FIRST, service.span)


def _unsayable(grant: Grant) -> Iterable[str]:
    """Why Envoy cannot say a grant."""
    if grant.until is not None:
        yield "the target lets nothing end"
    if grant.when is not None and grant.effect is Effect.ALLOW:
        # a deny of such a header is kept: no request that has one comes by
        yield from (
            f"Envoy refuses header names with `_`: `{name}`" for name, _ in grant.when.headers or () if "_" in name
        )
    for conditions in (grant.when, grant.unless_when):
        if conditions is not None:
            yield from _unknown(conditions)
    for operation in grant.operations:
        for host in operation.hosts or ():
            if host.name.startswith("["):
                yield f"the target does not bring IPv6 addresses into one form: `{host}`"


def _unknown(conditions: Conditions) -> Iterable[str]:
    tests: tuple[tuple[object, str], ...] = (
        (conditions.claims, "the export has no filter that verifies tokens"),
        (conditions.forwarded_ip, "the target reads no forwarded address as Limen does"),
        (conditions.hours, "the target knows no hours"),
        (conditions.rego, "the target evaluates no Rego"),
    )
    yield from (reason for value, reason in tests if value is not None)
    for name, _ in conditions.headers or ():
        if not is_readable_header(name):
            yield f"Envoy sets or changes the header `{name}` itself"


# ---------------------------------------------------------------------- the file


def _bootstrap(service: Service, ports: Iterable[Port], hosts: list[str], exact: list[SpiffeId], agent: str) -> Json:
    """The configuration of a whole Envoy beside one service."""
    own = str(exact[0]) if len(exact) == 1 and len(service.identities) == 1 else "default"
    listeners: list[Json] = []
    clusters: list[Json] = [files.cluster(files.AGENT, {"pipe": {"path": agent}}, http2=True)]
    for port in ports:
        name = f"{service.name}-{port.port}"
        app = f"app-{port.port}"
        chain = _chain(port, name, app)
        clusters.append(files.cluster(app, files.address("127.0.0.1", port.port), http2=port.protocol == "grpc"))
        for host in hosts:
            transport = files.mutual_tls(port.protocol, files.from_agent(own))
            where = files.address(host, port.port)
            listeners.append(files.listener(f"{name}-{host}", where, chain, transport))
    return {
        "node": {"id": service.name, "cluster": service.name},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "overload_manager": _limits(),
        "layered_runtime": files.runtime(),
    }


def _chain(port: Port, name: str, app: str) -> list[Json]:
    if port.protocol == "tcp":
        return files.tcp_chain(name, port.matcher, files.tcp_proxy(name, app))
    # streams and long answers are the application's business: what is idle ends, what works does not
    route: Json = {"route": {"cluster": app, "timeout": "0s"}}
    return files.http_chain(name, port.protocol, port.matcher, route, websocket=port.websocket)


def _limits() -> Json:
    """How many connections are held: a port that anybody reaches is bounded before TLS."""
    kind = (
        "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    )
    body = {"@type": kind, "max_active_downstream_connections": "10000"}
    name = "envoy.resource_monitors.global_downstream_max_connections"
    return {"resource_monitors": [{"name": name, "typed_config": body}]}


def _text(service: Service, body: Json, findings: Findings) -> str:
    """YAML under comments."""
    lines = [
        f"What Limen says about `{service.name}`, for Envoy 1.40: `envoy -c` takes this file as it is.",
        "",
        "Certificates and trust come from Limen's agent by SDS. The listeners are where callers come in; the clusters",
        "`app-PORT` are the application: change their addresses to yours. To use this in another configuration, copy",
        "`static_resources` and `layered_runtime`. A running Envoy keeps what it has: restart it after an export.",
        "",
        "The name of the deciding rule is in `%RESPONSE_CODE_DETAILS%` and in the dynamic metadata of the RBAC filter",
        "(`enforced_effective_policy_id`); LM2302 is the default deny, LM2303 a caller without identity, LM2304 a",
        "request that could be read in two ways.",
        "",
        "What is not said here as Limen says it:",
        *(f"  {item.code}: {item.message}" for item in findings.all()),
    ]
    return "\n".join(f"# {line}".rstrip() for line in lines) + "\n" + sharedyaml.write(body)
