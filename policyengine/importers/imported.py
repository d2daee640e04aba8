"""What an import comes to, and how it is written: one file a service, and the workloads beside them."""

from __future__ import annotations

import dataclasses
import json

import yaml

from mesh.problems import Diagnostic, Severity
from mesh.yamlio import needs_quotes
from policyengine import model
from policyengine.importers.documents import Document
from policyengine.importers.workloads import Workload
from policyengine.loader import API_VERSION, load_text
from policyengine.wire import policy_set_to_json

WORKLOADS_FILE = "workloads.jsonl"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What came of documents: a policy set, the report, and the workloads that it speaks of."""

    policies: model.PolicySet
    documents: tuple[Document, ...]
    workloads: tuple[Workload, ...] = ()
    unreadable: tuple[Diagnostic, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether something could not be said."""
        return any(item.severity is Severity.ERROR for document in self.documents for item in document.findings)


def files_of(found: Import) -> list[tuple[str, str]]:
    """The files of the tree by name, and the list of workloads that exports take.

    What is written is read again: an import never leaves a tree that does not load.
    """
    whole = policy_set_to_json(found.policies)
    files: list[tuple[str, str]] = []
    for service in sorted(found.policies.services, key=lambda item: item.name):
        documents = [
            _document(kind, item)
            for kind, field in (("Service", "services"), ("Policy", "policies"))
            for item in _listed(whole[field])
            if service.name in {item.get("service"), item["name"] if kind == "Service" else None}
        ]
        text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
        files.append((f"{service.name}.yaml", text))
    together = "---\n".join(text for _, text in files)
    again, findings = load_text(together, "import") if files else (found.policies, [])
    assert again.to_json() == whole, "what is written is what was meant"
    assert not any(item.severity is Severity.ERROR for item in findings), "what is written loads"
    rows = [
        {"spiffe_id": str(item.identity), "namespace": item.namespace, "labels": _common(item)}
        for item in found.workloads
        if not item.identity.subtree and _common(item)
    ]
    files.append((WORKLOADS_FILE, "".join(json.dumps(row) + "\n" for row in rows)))
    return files


def _common(workload: Workload) -> dict[str, str]:
    """The labels that all pods of a workload have."""
    pairs = [set(pod.items()) for pod in workload.pods]
    return dict(sorted(set.intersection(*pairs))) if pairs else {}


def _listed(value: object) -> list[dict[str, object]]:
    assert isinstance(value, list), "the JSON of a policy set holds lists"
    return value


def _document(kind: str, item: dict[str, object]) -> dict[str, object]:
    head = {"name": item["name"], "owner": item["owner"]}
    spec = {key: value for key, value in item.items() if key not in {"name", "owner"}}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": head, "spec": spec}


class _Dumper(yaml.SafeDumper):
    """Writes equal values twice, because a file has no anchors, and quotes what two readers would read as two."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  the library's signature
        """Never."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if needs_quotes(text) else None)


_Dumper.add_representer(str, _represent_text)
