"""From what was watched to a proposal: who calls whom, how, with which evidence, and what may break (design D9).

Pure: a history in, a proposal and its risk out. The written tree is judged by the policy engine, not by this module;
`learner.risk` says what it may break.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from learner.history import BEYOND, History, Kind, moment
from learner.judge import Judge
from learner.naming import owner_of, plain_name, service_names
from learner.paths import Templates, learn_counted
from learner.proposal import Grant, ProposedRule, ProposedService
from learner.risk import Proposal, Watch, assess
from learner.schedules import Schedule
from learner.specs import Specs
from learner.suspicion import Suspicion, find_suspicious
from mesh.clock import format_time
from mesh.flow import Flow
from mesh.spiffe import SpiffeId, SpiffeIdError
from policyengine.loader import load_text
from policyengine.model import PolicySet

__all__ = ["Lesson", "learn", "propose", "propose_from", "service_names", "watched", "written"]

MAX_EXAMPLES = 3
MAX_DECISIONS = 3

_Place = tuple[str, int, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Lesson:
    """What a history teaches: the kinds that do, their templates, and what is quarantined."""

    kinds: tuple[Kind, ...]
    templates: Mapping[_Place, Templates]
    suspicion: Suspicion
    specs: Specs

    def template(self, kind: Kind) -> str | None:
        """The template of a kind's path: of the specification that speaks of it, else the learned one."""
        if not kind.path or kind.shape == BEYOND:
            return None
        if (found := self.specs.template(kind.destination, kind.port, kind.method, kind.path)) is not None:
            return found
        if kind.protocol == "grpc":
            return kind.path  # `/pkg.Service/Method` is a template already
        known = self.templates.get((kind.destination, kind.port, kind.method))
        return known.template(kind.path) if known is not None else None


def propose(flows: Sequence[Flow], schedules: Sequence[Mapping[str, str]] = ()) -> Proposal:
    """Propose a policy tree from flows."""
    history = History()
    history.add(flows)
    declared = [
        Schedule(row.get("spiffe_id", ""), row.get("destination", ""), row.get("cron", "")) for row in schedules
    ]
    return propose_from(history, Watch(schedules=tuple(declared)))


def propose_from(
    history: History,
    watch: Watch | None = None,
    specs: Specs | None = None,
    tree: Callable[[tuple[ProposedService, ...]], PolicySet] | None = None,
) -> Proposal:
    """Propose a policy tree.

    1. What is suspicious is quarantined, with its reason; what has no identity on a side is counted.
    2. From the rest, only contacts that were answered well teach anything.
    3. Paths become templates per destination, port and method; rules are per caller, with the methods and templates
       that this caller used, never a cross product.
    4. The tree that is written (``tree`` makes it, when there is one already) is read by the policy engine and decides
       EVERY kind, quarantined ones included: what it denies counts against the bounds, whatever the reason.
    """
    watch = watch or Watch()
    # (1), (2), (3)
    lesson = learn(history, watch, specs)
    services = services_of(lesson)
    # (4)
    policies = written(services) if tree is None else tree(services)
    return assess(history, watch, lesson, services, Judge(policies))


def learn(history: History, watch: Watch, specs: Specs | None = None) -> Lesson:
    """What a history teaches."""
    suspicion = find_suspicious(history, watch.schedules)
    outside = {(item.source, item.destination, item.port) for item in suspicion.quarantined}
    kinds = tuple(
        kind
        for key, kind in sorted(history.kinds.items(), key=lambda item: item[0])
        if kind.good
        and kind.shape != BEYOND
        and key not in suspicion.excluded
        and kind.edge not in outside
        and kind.is_attributed
        and is_workload(kind.source)
        and is_workload(kind.destination)
    )
    return Lesson(kinds, templates_of(kinds), suspicion, specs or Specs())


def written(services: Sequence[ProposedService]) -> PolicySet:
    """The proposal as the policy engine reads it.

    Raises AssertionError when its own text does not load: that is a bug of the writer.
    """
    text = "---\n".join(service.to_yaml() for service in services)
    policies, findings = load_text(text, "proposal")
    errors = [str(item) for item in findings if item.severity == "error"]
    if errors:
        raise AssertionError(f"the proposal does not load: {errors[:3]}")
    return policies


def is_workload(identity: str) -> bool:
    """Whether a text is the identity of a workload."""
    try:
        return bool(SpiffeId.parse(identity).path)
    except SpiffeIdError:
        return False


def templates_of(kinds: Sequence[Kind]) -> dict[_Place, Templates]:
    """The path templates of what was called, by destination, port and method."""
    paths: defaultdict[_Place, dict[str, int]] = defaultdict(dict)
    for kind in kinds:
        if kind.protocol == "http" and kind.path:
            found = paths[kind.destination, kind.port, kind.method]
            # the examples stand for all: each was seen, and the first takes the rest of the count
            for number, path in enumerate(kind.examples):
                found[path] = found.get(path, 0) + (kind.good - len(kind.examples) + 1 if number == 0 else 1)
    return {place: learn_counted(found) for place, found in paths.items()}


def services_of(lesson: Lesson) -> tuple[ProposedService, ...]:
    """The services that were called, with the rules of their callers."""
    by_destination: defaultdict[str, list[Kind]] = defaultdict(list)
    for kind in lesson.kinds:
        if kind.protocol != "udp":
            by_destination[kind.destination].append(kind)
    names = service_names(by_destination)
    return tuple(
        _service(names[identity], identity, found, lesson) for identity, found in sorted(by_destination.items())
    )


def _service(name: str, identity: str, kinds: Sequence[Kind], lesson: Lesson) -> ProposedService:
    protocols: dict[int, str] = {}
    for kind in kinds:
        seen = protocols.get(kind.port)
        # a port where requests were seen is parsed; the same port's plain connections are its transport
        if seen is None or seen == "tcp":
            protocols[kind.port] = kind.protocol
    by_caller: defaultdict[str, list[Kind]] = defaultdict(list)
    for kind in kinds:
        if kind.protocol == protocols[kind.port]:
            by_caller[kind.source].append(kind)
    callers = service_names(by_caller)
    rules = []
    for caller, found in sorted(by_caller.items()):
        if grants := grants_of(found, lesson):
            rules.append(
                ProposedRule(
                    id=f"from-{plain_name(callers[caller])}", caller=caller, grants=grants, evidence=evidence_of(found)
                )
            )
    return ProposedService(
        name=name,
        owner=owner_of(identity),
        identity=identity,
        ports=tuple(sorted(protocols.items())),
        rules=tuple(rules),
    )


def grants_of(kinds: Sequence[Kind], lesson: Lesson) -> tuple[Grant, ...]:
    """What one caller did on each port, and nothing that only another caller did."""
    operations: defaultdict[int, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    plain: set[int] = set()
    for kind in kinds:
        template = lesson.template(kind)
        if kind.protocol == "tcp":
            plain.add(kind.port)
        elif template is not None:
            operations[kind.port][kind.method or "POST"].add(template)
    grants = [Grant(port=port) for port in sorted(plain)]
    grants += [
        Grant(port=port, operations=tuple((method, tuple(sorted(paths))) for method, paths in sorted(found.items())))
        for port, found in sorted(operations.items())
    ]
    return tuple(grants)


def evidence_of(kinds: Sequence[Kind]) -> dict[str, object]:
    """Why a rule is there: how often, from when to when, on how many days, by whom and where it was seen."""
    good = [kind for kind in kinds if kind.good]
    days = sorted(set().union(*(kind.days() for kind in good)))
    examples = sorted({f"{kind.method} {path}" for kind in good for path in kind.examples})[:MAX_EXAMPLES]
    decisions = sorted({name for kind in good for name in kind.decisions})[:MAX_DECISIONS]
    return {
        "n": sum(kind.answered for kind in good),
        "first": format_time(moment(min(kind.first_good for kind in good))),
        "last": format_time(moment(max(kind.last_good for kind in good))),
        "days": len(days),
        "longest_gap_days": max((later - day for day, later in itertools.pairwise(days)), default=0),
        "replicas": sorted({name for kind in good for name, uses in kind.replicas.items() if name and uses.good}),
        "versions": sorted({kind.version for kind in good if kind.version}),
        "sensors": sorted(set().union(*(kind.sensors for kind in good))),
        "examples": examples,
        "decisions": decisions,
    }


def watched(flows: Sequence[Flow]) -> dt.timedelta:
    """How long was watched, from the first flow to the last."""
    if not flows:
        return dt.timedelta()
    return max(flow.end or flow.start for flow in flows) - min(flow.start for flow in flows)
