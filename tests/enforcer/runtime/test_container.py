import pytest

from enforcer.runtime.container import MAX_LABELS, MAX_NAME, MAX_VALUE, Container, Pod

ID, DIGEST = "ab" * 32, "sha256:" + "cd" * 32
POD = Pod(uid="u", name="web-0", namespace="shop", labels=(("app", "web"),), service_account="cart")


def test_a_container_of_docker_has_facts_of_its_image_and_none_of_a_pod() -> None:
    found = Container(
        id=ID, state="running", init=7, image="shop:1", digests=(DIGEST, DIGEST), labels=(("a", "b"),), name="web"
    )
    assert found.facts() == (
        ("docker:id", ID),
        ("docker:image", "shop:1"),
        ("docker:image-digest", DIGEST),
        ("docker:label:a", "b"),
    )


def test_a_container_of_a_pod_has_the_pods_facts_too() -> None:
    assert Container(id=ID, state="running", init=7, name="web", pod=POD).facts() == (
        ("docker:id", ID),
        ("k8s:container-name", "web"),
        ("k8s:ns", "shop"),
        ("k8s:sa", "cart"),
        ("k8s:pod-name", "web-0"),
        ("k8s:pod-uid", "u"),
        ("k8s:pod-label:app", "web"),
    )


def test_a_service_account_that_nobody_told_is_no_fact() -> None:
    names = [name for name, _ in Pod(uid="u", name="n", namespace="s").facts()]
    assert names == ["k8s:ns", "k8s:pod-name", "k8s:pod-uid"]


@pytest.mark.parametrize(
    ("name", "value", "is_kept"),
    [
        ("app", "web", True),
        ("app", "", True),
        ("", "web", False),
        ("a" * MAX_NAME, "v" * MAX_VALUE, True),
        ("a" * (MAX_NAME + 1), "v", False),
        ("a", "v" * (MAX_VALUE + 1), False),
        ("a\n", "v", False),
        ("a", "v\x00", False),
    ],
    ids=["plain", "empty-value", "no-name", "longest", "long-name", "long-value", "two-lines", "a-zero"],
)
def test_a_label_is_printable_and_of_a_believable_size(name: str, value: str, *, is_kept: bool) -> None:
    found = Container(id=ID, state="running", init=7, labels=((name, value),)).facts()
    assert ((f"docker:label:{name}", value) in found) is is_kept


def test_more_labels_than_are_believable_are_none() -> None:
    labels = tuple((f"l{number}", "v") for number in range(MAX_LABELS + 1))
    assert Container(id=ID, state="running", init=7, labels=labels).facts() == (("docker:id", ID),)
