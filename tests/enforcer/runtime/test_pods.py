"""Kubernetes' answers in the published shapes, over real TLS. No cluster is asked: that is experimental."""

import asyncio
import dataclasses
import json
import pathlib
import ssl
from typing import Any

import pytest
import trustme

from enforcer.runtime.container import Pod
from enforcer.runtime.pods import AGAIN_S, MAX_POD_BYTES, Cluster, Pods
from mesh.problems import Unavailable
from tests.enforcer.runtime.stage import Replies, staged_tls

POD = Pod(uid="u-1", name="web-0", namespace="shop", labels=(("app", "web"),))
BARE = dataclasses.replace(POD, labels=())


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A pod as Kubernetes tells it."""
    metadata = {"uid": f"u-{number}", "name": f"web-{number - 1}", "namespace": "shop", "labels": {"app": "told"}}
    return {"metadata": {**metadata, **changes}, "spec": {"serviceAccountName": f"cart-{number}"}}


def listed(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": list(rows)}).encode()


class Cloud:
    """A certificate authority, its server's context, and our credentials."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        authority = trustme.CA()
        self.ca, self.token = folder / "ca.pem", folder / "token"
        authority.cert_pem.write_to_path(str(self.ca))
        self.token.write_text("secret\n")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(self.context)
        client = authority.issue_cert("node@example.test")
        self.cert, self.key = folder / "c.pem", folder / "k.pem"
        client.cert_chain_pems[0].write_to_path(str(self.cert))
        client.private_key_pem.write_to_path(str(self.key))
        self.seen: list[str] = []
        self.asked: list[str] = []

    def serve(self, replies: Replies) -> Any:
        def counted(path: str) -> tuple[int, bytes] | None:
            self.asked.append(path)
            return replies(path)

        return staged_tls(counted, self.context, self.seen)

    def cluster(self, url: str, kind: Any = "kubelet", **more: str) -> Cluster:
        return Cluster(kind=kind, url=url, ca=str(self.ca), **({"token": str(self.token)} | more))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server here answers at once, and on a slow machine late."""
    monkeypatch.setattr("enforcer.runtime.pods.WITHIN_S", 60.0)


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Cloud:
    return Cloud(tmp_path, "127.0.0.1")


def refused(pods: Pods, pod: Pod = POD) -> str:
    with pytest.raises(Unavailable) as caught:
        asyncio.run(pods.complete(pod))
    assert caught.value.code == "LM3476"
    return str(caught.value.facts["reason"])


def test_a_kubelet_is_asked_once_for_all_its_pods(cloud: Cloud) -> None:
    with cloud.serve(lambda _: (200, listed(*(row(number) for number in range(1, 4))))) as url:
        pods = Pods(cloud.cluster(url))

        async def run() -> list[Pod]:
            three = [Pod(uid=f"u-{number}", name=f"web-{number - 1}", namespace="shop") for number in (1, 2, 3)]
            return list(await asyncio.gather(*(pods.complete(pod) for pod in three)))

        found = asyncio.run(run())
    assert [pod.service_account for pod in found] == ["cart-1", "cart-2", "cart-3"]
    assert (cloud.asked, cloud.seen) == (["/pods"], ["Bearer secret"])


def test_labels_that_the_runtime_told_stay_and_missing_ones_are_taken(cloud: Cloud) -> None:
    with cloud.serve(lambda _: (200, listed(row()))) as url:
        assert asyncio.run(Pods(cloud.cluster(url)).complete(POD)).labels == (("app", "web"),)
        assert asyncio.run(Pods(cloud.cluster(url)).complete(BARE)).labels == (("app", "told"),)


def test_an_api_server_is_asked_for_the_one_pod(cloud: Cloud) -> None:
    with cloud.serve(lambda _: (200, json.dumps({"kind": "Pod", **row()}).encode())) as url:
        pods = Pods(cloud.cluster(url, "api"))
        assert asyncio.run(pods.complete(POD)).service_account == "cart-1"
        assert asyncio.run(pods.complete(POD)).service_account == "cart-1"
    assert cloud.asked == ["/api/v1/namespaces/shop/pods/web-0"]


def test_a_name_that_is_none_is_not_asked_for(cloud: Cloud) -> None:
    with cloud.serve(lambda _: (200, b"{}")) as url:
        pods = Pods(cloud.cluster(url, "api"))
        assert "the pod is none" in refused(pods, dataclasses.replace(POD, name="../secrets/x"))
    assert cloud.asked == []


def test_a_pod_that_is_not_known_is_asked_for_again_after_a_while_only(cloud: Cloud) -> None:
    now = [100.0]
    with cloud.serve(lambda _: (200, listed(row(2)))) as url:
        pods = Pods(cloud.cluster(url), moment=lambda: now[0])
        assert refused(pods) == "it does not know this pod"
        assert refused(pods).startswith("it was asked just now")
        now[0] += AGAIN_S
        assert refused(pods) == "it does not know this pod"
    assert cloud.asked == ["/pods", "/pods"]


@pytest.mark.parametrize(
    "told",
    [row(uid="u-9"), row(name="other"), row(namespace="other"), {**row(), "spec": {"serviceAccountName": ""}}],
    ids=["another-uid", "another-name", "another-namespace", "no-account"],
)
def test_another_pod_of_that_name_or_uid_gives_no_account(cloud: Cloud, told: dict[str, Any]) -> None:
    for kind, data in (("kubelet", listed(told)), ("api", json.dumps({"kind": "Pod", **told}).encode())):
        with cloud.serve(lambda _, data=data: (200, data)) as url:  # type: ignore[misc]
            refused(Pods(cloud.cluster(url, kind)))


@pytest.mark.parametrize(
    "reply",
    [
        (401, b"{}"),
        (404, b"{}"),
        (302, b""),
        (200, b"{}"),
        (200, listed(row(), row())),
        (200, b'{"kind": "Pod", "kind": "Pod"}'),
        (200, b"x" * (MAX_POD_BYTES + 1)),
    ],
    ids=["not-allowed", "none", "elsewhere", "no-list", "one-uid-twice", "a-key-twice", "too-long"],
)
def test_an_answer_that_is_none_gives_no_account(cloud: Cloud, reply: tuple[int, bytes]) -> None:
    with cloud.serve(lambda _: reply) as url:
        refused(Pods(cloud.cluster(url, "api")))
        refused(Pods(cloud.cluster(url)))


def test_only_who_proves_itself_is_asked_and_nothing_is_sent_to_others(cloud: Cloud, tmp_path: pathlib.Path) -> None:
    (tmp_path / "other").mkdir()
    other = Cloud(tmp_path / "other", "127.0.0.1")
    with other.serve(lambda _: (200, listed(row()))) as url:
        refused(Pods(cloud.cluster(url)))
    assert (other.asked, other.seen) == ([], [])


def test_a_name_of_its_certificate_that_is_not_in_the_url_can_be_given(tmp_path: pathlib.Path) -> None:
    cloud = Cloud(tmp_path, "node-1.test")
    with cloud.serve(lambda _: (200, listed(row()))) as url:
        refused(Pods(cloud.cluster(url)))
        assert asyncio.run(Pods(cloud.cluster(url, name="node-1.test")).complete(POD)).service_account == "cart-1"


def test_a_certificate_proves_us_too(cloud: Cloud) -> None:
    cloud.context.verify_mode = ssl.CERT_REQUIRED
    cloud.context.load_verify_locations(str(cloud.ca))
    with cloud.serve(lambda _: (200, listed(row()))) as url:
        found = Pods(cloud.cluster(url, token="", cert=str(cloud.cert), key=str(cloud.key)))
        assert asyncio.run(found.complete(POD)).service_account == "cart-1"
        refused(Pods(cloud.cluster(url)))


@pytest.mark.parametrize("token", ["", "a b", "x" * 20_000, "é"], ids=["none", "two-words", "too-long", "no-ascii"])
def test_a_file_without_a_token_sends_nothing(cloud: Cloud, token: str) -> None:
    cloud.token.write_text(token)
    with cloud.serve(lambda _: (200, listed(row()))) as url:
        refused(Pods(cloud.cluster(url)))
    assert cloud.asked == []


def test_files_that_are_gone_are_a_reason(cloud: Cloud) -> None:
    cloud.ca.unlink()
    assert "No such file" in refused(Pods(cloud.cluster("https://127.0.0.1:1")))
