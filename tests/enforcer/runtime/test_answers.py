import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.runtime import answers
from enforcer.runtime.container import Pod

ID, IMAGE, OTHER = "ab" * 32, "sha256:" + "cd" * 32, "sha256:" + "ef" * 32


def docker(**changes: Any) -> bytes:
    found = {
        "Id": ID,
        "Image": IMAGE,
        "State": {"Status": "running", "Pid": 7},
        "Config": {"Image": "shop:1", "Labels": {"b": "2", "a": "1"}},
    }
    return json.dumps({**found, **changes}).encode()


def pod(uid: str = "u", **changes: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"uid": uid, "name": "web-0", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"serviceAccountName": "cart", "containers": [{"name": "web", "env": [{"name": "A", "value": "s"}]}]},
        **changes,
    }


def test_a_container_of_docker_is_read() -> None:
    found, image = answers.read_docker_container(docker(), ID)
    assert (found.id, found.state, found.init, found.image, image) == (ID, "running", 7, "shop:1", IMAGE)
    assert (found.digests, found.labels) == ((IMAGE,), (("a", "1"), ("b", "2")))


@pytest.mark.parametrize(
    ("state", "pid", "expected"),
    [
        ("created", 0, "starting"), ("running", 0, "starting"), ("restarting", 0, "starting"),
        ("paused", 7, "running"), ("running", 7, "running"),
        ("exited", 0, "ended"), ("dead", 0, "ended"), ("removing", 0, "ended"), ("exited", 7, "ended"),
        ("new", 7, "ended"),
    ],
)  # fmt: skip
def test_only_what_runs_has_a_first_process(state: str, pid: int, expected: str) -> None:
    found, _ = answers.read_docker_container(docker(State={"Status": state, "Pid": pid}), ID)
    assert (found.state, found.init) == (expected, 7 if expected == "running" else 0)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(docker(Id="ef" * 32), id="another-id"),
        pytest.param(docker(Id=ID[:12]), id="a-short-id"),
        pytest.param(docker()[:-1] + b', "Image": "sha256:aa"}', id="a-key-twice"),
        pytest.param(docker()[:-1] + b', "State": {"Status": "running", "Pid": 1}}', id="a-state-twice"),
        pytest.param(docker(State={"Status": "running", "Pid": "7"}), id="a-pid-as-text"),
        pytest.param(docker(State={"Status": "running", "Pid": True}), id="a-pid-as-truth"),
        pytest.param(docker(State={"Status": "running", "Pid": False}), id="a-pid-as-untruth"),
        pytest.param(docker(State={"Status": "running", "Pid": 7.0}), id="a-pid-as-fraction"),
        pytest.param(docker(State={"Status": "running", "Pid": -7}), id="a-pid-below-zero"),
        pytest.param(docker(State={"Status": "running"}), id="no-pid"),
        pytest.param(docker(State=[]), id="no-state"),
        pytest.param(docker(Image=None), id="no-image"),
        pytest.param(docker(Image="a\nb"), id="an-image-of-two-lines"),
        pytest.param(docker(Config={"Image": "x", "Labels": {"a": 1}}), id="a-label-as-number"),
        pytest.param(docker(Config={"Image": "x", "Labels": ["a"]}), id="labels-as-list"),
        pytest.param(docker(X=1).replace(b'"X": 1', b'"X": NaN'), id="no-number"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"[]", id="a-list"),
        pytest.param(b"\xff", id="no-utf-8"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_an_answer_about_something_else_or_of_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        answers.read_docker_container(data, ID)


def test_the_digests_of_an_image_are_of_content() -> None:
    listed = ["shop@" + OTHER, "host:5000/shop@" + OTHER, "shop:latest", "shop@sha256:short"]
    data = json.dumps({"Id": IMAGE, "RepoDigests": listed}).encode()
    assert answers.read_docker_image(data, IMAGE) == (IMAGE, OTHER)
    assert answers.read_docker_image(json.dumps({"Id": IMAGE, "RepoDigests": None}).encode(), IMAGE) == (IMAGE,)


@pytest.mark.parametrize(
    "row",
    [{"Id": OTHER}, {"Id": IMAGE, "RepoDigests": "x"}, {"Id": IMAGE, "RepoDigests": [1]}],
    ids=["another", "a-text", "a-number"],
)
def test_another_image_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        answers.read_docker_image(json.dumps(row).encode(), IMAGE)


def test_the_first_process_stands_in_a_verbose_status() -> None:
    assert answers.read_cri_pid('{"sandboxID": "x", "pid": 12, "config": {"envs": []}}') == 12
    for text in ("", "{}", '{"pid": "12"}', '{"pid": -1}', '{"pid": 1, "pid": 2}', '{"pid": true}'):
        with pytest.raises(ValueError):
            answers.read_cri_pid(text)


def test_pods_are_read_by_uid() -> None:
    data = json.dumps({"kind": "PodList", "apiVersion": "v1", "items": [pod("u"), pod("v")]}).encode()
    found = answers.read_pods(data)
    assert found["u"] == Pod(uid="u", name="web-0", namespace="shop", labels=(("app", "web"),), service_account="cart")
    assert set(found) == {"u", "v"}
    assert answers.read_pods(b'{"kind": "PodList", "items": null}') == {}
    assert answers.read_pod(json.dumps(pod()).encode()) == found["u"]


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "List", "items": []},
        {"kind": "PodList", "items": {}},
        {"kind": "PodList", "items": ["x"]},
        {"kind": "PodList", "items": [pod("u"), pod("u")]},
        {"kind": "PodList", "items": [pod(metadata={"uid": "", "name": "a", "namespace": "b"})]},
        {"kind": "PodList", "items": [pod(metadata={"name": "a", "namespace": "b"})]},
        {"kind": "PodList", "items": [pod(spec={"serviceAccountName": 7})]},
        {"kind": "PodList", "items": [pod()] * 2001},
    ],
    ids=["kind", "map", "text", "one-uid-twice", "empty-uid", "no-uid", "account-as-number", "too-many"],
)
def test_what_is_no_list_of_pods_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        answers.read_pods(json.dumps(row).encode())


def test_a_pod_alone_is_asked_for_as_one() -> None:
    with pytest.raises(ValueError):
        answers.read_pod(json.dumps({"kind": "PodList", "items": [pod()]}).encode())


WORDS = ["Id", "State", "Status", "Pid", "Config", "Labels", "Image", "items", "kind", "metadata", "uid", "spec"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from([ID, IMAGE, "PodList", "running"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_answered_is_read_or_refused(data: bytes) -> None:
    for read in (
        lambda: answers.read_docker_container(data, ID),
        lambda: answers.read_docker_image(data, IMAGE),
        lambda: answers.read_pods(data),
        lambda: answers.read_pod(data),
    ):
        try:
            read()
        except ValueError:
            pass
