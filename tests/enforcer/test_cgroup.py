import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.cgroup import Cgroup, parse_cgroup

ID, OTHER = "ab" * 32, "cd" * 32
POD = "0f6b3a1c-9f3e-4c55-8a53-111122223333"
LOW = POD.replace("-", "_")


@pytest.mark.parametrize(
    ("text", "unit", "container", "pod"),
    [
        pytest.param("0::/system.slice/shop.service", "shop.service", "", "", id="v2-service"),
        pytest.param("0::/system.slice/system-shop.slice/shop@1.service", "shop@1.service", "", "", id="instance"),
        pytest.param("1:name=systemd:/system.slice/shop.service\n0::/", "shop.service", "", "", id="v1-beside-v2"),
        pytest.param("4:memory:/system.slice/shop.service", "", "", "", id="a-controller-names-no-unit"),
        pytest.param("1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service", "", "", "", id="two-units"),
        pytest.param(
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service",
            "user@1000.service", "", "", id="a-users-own-manager-names-no-unit",
        ),
        pytest.param("0::/user.slice/user-1000.slice/session-3.scope", "session-3.scope", "", "", id="session"),
        pytest.param("0::/system.slice/shop.service/evil.service", "shop.service", "", "", id="delegated"),
        pytest.param("0::/system.slice/_shop.service", "shop.service", "", "", id="escaped"),
        pytest.param("0::/shop", "", "", "", id="no-systemd"),
        pytest.param("0::/system.slice/sh op.service", "", "", "", id="no-unit-name"),
        pytest.param("0::/../../system.slice/shop.service", "", "", "", id="outside-of-our-view"),
        pytest.param("0::/system.slice/shop.service (deleted)", "", "", "", id="removed"),
        pytest.param("0::/", "", "", "", id="root"),
        pytest.param("", "", "", "", id="nothing"),
        pytest.param(f"0::/system.slice/docker-{ID}.scope", f"docker-{ID}.scope", ID, "", id="docker-systemd"),
        pytest.param(f"0::/docker/{ID}", "", ID, "", id="docker-cgroupfs"),
        pytest.param(f"4:memory:/docker/{ID}\n2:cpu:/docker/{ID}", "", ID, "", id="docker-v1"),
        pytest.param(f"4:memory:/docker/{ID}\n2:cpu:/docker/{OTHER}", "", "", "", id="two-containers"),
        pytest.param(f"0::/docker/{ID}/docker/{OTHER}", "", ID, "", id="a-container-in-a-container"),
        pytest.param(
            f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{LOW}.slice/cri-containerd-{ID}.scope",
            f"cri-containerd-{ID}.scope", ID, POD, id="k8s-systemd",
        ),
        pytest.param(f"0::/kubepods/besteffort/pod{POD}/{ID}", "", ID, POD, id="k8s-cgroupfs"),
        pytest.param(
            f"0::/kubepods-besteffort-pod{LOW}.slice:cri-containerd:{ID}", "", ID, POD, id="k8s-colons"
        ),
        pytest.param(
            f"0::/user.slice/user-1000.slice/user@1000.service/docker-{ID}.scope",
            "user@1000.service", "", "", id="a-user-calls-it-a-container",
        ),
        pytest.param(f"0::/system.slice/shop.service/docker-{ID}.scope", "shop.service", "", "", id="a-service-does"),
        pytest.param(f"0::/shop/docker-{ID}.scope", "", "", "", id="not-a-runtimes-own"),
        pytest.param(f"0::/docker/{ID[:-1]}", "", "", "", id="short"),
        pytest.param(f"0::/docker/{ID.upper()}", "", "", "", id="upper-case"),
        pytest.param(f"0::/docker/{ID}/kubepods/pod{POD}", "", ID, "", id="a-pod-below-a-container"),
    ],
)  # fmt: skip
def test_units_containers_and_pods(text: str, unit: str, container: str, pod: str) -> None:
    found = parse_cgroup(text + "\n")
    assert (found.unit, found.container, found.pod) == (unit, container, pod)


def test_what_runs_in_a_container_has_no_unit() -> None:
    path = f"/system.slice/docker-{ID}.scope"
    assert parse_cgroup(f"0::{path}").facts() == (("cgroup:path", path),)
    path = "/system.slice/a.service"
    assert parse_cgroup(f"0::{path}").facts() == (("cgroup:path", path), ("systemd:unit", "a.service"))
    assert Cgroup().facts() == ()


@given(
    st.text()
    | st.lists(st.sampled_from(["0::", "1:name=systemd:", "/", "..", "a.service", "x.slice", ID, "\n"])).map("".join)
)
def test_any_text_is_read_and_gives_plain_words(text: str) -> None:
    found = parse_cgroup(text)
    assert "/" not in found.unit + found.container + found.pod
    assert "\n" not in found.path
    assert len(found.container) in {0, 64}


@given(st.lists(st.sampled_from([f"docker-{OTHER}.scope", "evil.service", OTHER, "kubepods", f"pod{POD}"]), max_size=5))
def test_nothing_below_a_unit_or_container_changes_what_it_is(below: list[str]) -> None:
    tail = "".join(f"/{word}" for word in below)
    assert parse_cgroup(f"0::/system.slice/a.service{tail}").unit == "a.service"
    assert parse_cgroup(f"0::/system.slice/a.service{tail}").container == ""
    assert parse_cgroup(f"0::/docker/{ID}{tail}").container == ID
