import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.cgroup import Cgroup, parse_cgroup, read_depths

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
        pytest.param(f"0::/machine.slice/libpod-{ID}.scope/container", f"libpod-{ID}.scope", ID, "", id="podman"),
        pytest.param(f"0::/libpod_parent/libpod-{ID}", "", ID, "", id="podman-cgroupfs"),
        pytest.param(f"0::/libpod_parent/{OTHER}/libpod-{ID}", "", ID, "", id="podman-in-a-pod"),
        pytest.param(f"0::/libpod_parent/{OTHER}", "", "", "", id="a-pod-of-podman-is-no-container"),
        pytest.param(
            f"0::/kubepods.slice/kubepods-pod{LOW}.slice/crio-{ID}.scope/container",
            f"crio-{ID}.scope", ID, POD, id="cri-o",
        ),
        pytest.param(
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
            "user@1000.service", "", "", id="a-users-own-podman",
        ),
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


@pytest.mark.parametrize(
    ("path", "unit", "container", "pod", "seen"),
    [
        pytest.param("/../../../a.slice/a.service", "a.service", "", "", "/a.slice/a.service", id="to-the-root"),
        pytest.param("/../../..", "", "", "", "/", id="the-root"),
        pytest.param(f"/../../kubepods-pod{LOW}.slice/cri-containerd-{ID}.scope", "", ID, POD, "", id="another-pod"),
        pytest.param(f"/../cri-containerd-{ID}.scope", "", ID, "", "", id="another-container-of-the-pod"),
        pytest.param(f"/../../pod{POD}/{ID}", "", ID, POD, "", id="another-pod-cgroupfs"),
        pytest.param(f"/../{ID}", "", ID, "", "", id="another-container-of-docker"),
        pytest.param("/../shop.service", "", "", "", "", id="a-unit-beside-says-nothing"),
        pytest.param(f"/../shop.service/docker-{ID}.scope", "", "", "", "", id="below-a-unit-beside"),
        pytest.param(f"/docker/{ID}", "", "", "", "", id="a-forgery-in-our-own-group"),
        pytest.param("/system.slice/a.service", "", "", "", "", id="a-forged-unit-in-our-own-group"),
        pytest.param("/", "", "", "", "", id="our-own-group"),
        pytest.param("/../../../../system.slice/a.service", "", "", "", "", id="higher-than-the-root"),
        pytest.param(f"/../x/../docker/{ID}", "", "", "", "", id="up-again"),
    ],
)  # fmt: skip
def test_a_reader_three_groups_deep_trusts_only_what_is_above_it(
    path: str, unit: str, container: str, pod: str, seen: str
) -> None:
    found = parse_cgroup(f"0::{path}\n", {"": 3})
    assert (found.unit, found.container, found.pod, found.path) == (unit, container, pod, seen)


def test_who_does_not_know_where_it_stands_knows_nothing() -> None:
    assert parse_cgroup(f"0::/docker/{ID}\n", None) == Cgroup()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (f"0::/docker/{ID}", f"0::/docker/{ID}/below", True),
        (f"0::/docker/{ID}", f"0::/system.slice/docker-{ID}.scope", False),
        (f"4:memory:/docker/{ID}\n0::/docker/{ID}", f"4:memory:/docker/{ID}\n0::/a", False),
        (f"0::/docker/{ID}", f"0::/docker/{OTHER}", False),
    ],
    ids=["below", "elsewhere", "in-one-hierarchy-only", "another"],
)
def test_whoever_is_in_a_container_is_in_its_very_groups(one: str, other: str, *, same: bool) -> None:
    assert (parse_cgroup(one).groups == parse_cgroup(other).groups) is same
    assert parse_cgroup("0::/a").groups == ()


READ = "from enforcer.cgroup import read_depths; print(read_depths())"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_view_is_known_in_the_first_namespace_and_in_another_and_unknown_among_strangers() -> None:
    assert read_depths() is not None
    for options, expected in ((["-C"], "{'"), (["-C", "-p", "-f", "--mount-proc"], "None")):
        done = subprocess.run(
            ["unshare", *options, sys.executable, "-c", READ], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.startswith(expected)
