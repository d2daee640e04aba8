"""Workloads from manifests: identity, labels, ports and protocols."""

from mesh.spiffe import TrustDomain
from policyengine.importers.documents import read_documents
from policyengine.importers.workloads import Selected, assume, name_all, read_workloads

TD = TrustDomain("corp.test")
TEXT = """\
kind: Deployment
metadata: {name: reviews-v1, namespace: shop}
spec:
  template:
    metadata: {labels: {app: reviews, version: v1}}
    spec:
      serviceAccountName: reviews
      containers: [{name: a, ports: [{containerPort: 9080, name: web}, {containerPort: 53, protocol: UDP}]}]
---
kind: Deployment
metadata: {name: reviews-v2, namespace: shop}
spec:
  template:
    metadata: {labels: {app: reviews, version: v2}}
    spec: {serviceAccountName: reviews, containers: [{name: a}]}
---
kind: CronJob
metadata: {name: nightly, namespace: shop}
spec: {jobTemplate: {spec: {template: {metadata: {labels: {app: nightly}}, spec: {containers: []}}}}}
---
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http-web, port: 80, targetPort: web}, {appProtocol: grpc, port: 9090}]}
"""


def test_pods_of_one_account_are_one_workload_with_the_protocols_of_its_services() -> None:
    workloads, services = read_workloads(read_documents([("f", TEXT)])[0], TD)
    reviews, nightly = workloads
    assert str(reviews.identity) == "spiffe://corp.test/ns/shop/sa/reviews"
    assert str(nightly.identity) == "spiffe://corp.test/ns/shop/sa/default"
    assert reviews.ports == {9080: "http", 9090: "grpc"}
    assert [item.name for item in services] == ["reviews"]
    name_all(workloads)
    assert [item.name for item in workloads] == ["reviews", "nightly"]


def test_a_selector_selects_surely_perhaps_or_not() -> None:
    (reviews, *_), _ = read_workloads(read_documents([("f", TEXT)])[0], TD)
    assert reviews.selected_by({}) is Selected.YES
    assert reviews.selected_by({"app": "reviews"}) is Selected.YES
    assert reviews.selected_by({"version": "v1"}) is Selected.PERHAPS
    assert reviews.selected_by({"app": "other"}) is Selected.NO
    assert reviews.selected_by({"zone": "a"}) is Selected.NO


def test_an_assumed_workload_may_have_labels_that_nobody_knows() -> None:
    (document, *_) = read_documents([("f", TEXT)])[0]
    made = assume(document, {"app": "db"}, TD, "shop")
    assert str(made.identity) == "spiffe://corp.test/ns/shop/sa/db"
    assert made.selected_by({"zone": "a"}) is Selected.PERHAPS
    assert made.selected_by({"app": "x"}) is Selected.NO
    assert str(assume(document, {}, TD, "shop").identity) == "spiffe://corp.test/ns/shop/**"
    assert {item.code for item in document.findings} == {"LM2502"}


def test_names_are_made_unique_by_the_namespace() -> None:
    text = TEXT.replace("namespace: shop", "namespace: two")
    workloads, _ = read_workloads(read_documents([("f", TEXT), ("g", text)])[0], TD)
    name_all(workloads)
    assert sorted(item.name for item in workloads) == ["nightly-shop", "nightly-two", "reviews-shop", "reviews-two"]


def test_a_pod_without_a_template_or_with_a_bad_port_is_malformed_and_gives_none() -> None:
    text = "kind: Deployment\nmetadata: {name: a}\nspec: {}\n---\n" + TEXT.replace("9080", "99999")
    documents = read_documents([("f", text)])[0]
    workloads, _ = read_workloads(documents, TD)
    assert [item.status for item in documents][:2] == ["malformed", "malformed"]
    assert all(item.name != "a" for item in workloads)
