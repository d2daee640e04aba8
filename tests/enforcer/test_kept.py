import dataclasses
import json
import pathlib

import pytest

from enforcer import kept as module
from enforcer.attest import Launch
from enforcer.kept import Kept, KeptSidecar, KeptWorkloads
from enforcer.ports import Ports

LAUNCH = Launch(
    pid=7, start=8, session=7, layout=(1, 2, 3, 4, 5, 6), device=9, inode=10, uid=11,
    facts=(("unix:uid", "11"), ("launch:path", "/bin/x")),
)  # fmt: skip
PORTS = Ports(
    inbound=(("127.0.0.1", 8443, 8080),),
    outbound=((9001, "db", None), (9002, "db", 1)),
    health=("127.0.0.1:9100=8080/healthz@10.0.0.0/8",),
    workers=2,
)
SIDECARS = (KeptSidecar(process=(5, 6), build="b"), KeptSidecar(process=(7, 8), place=1, is_draining=True))
KEPT = Kept(
    number=3, name="w", ports=PORTS, launch=LAUNCH, spiffe_id="spiffe://t/w", sidecars=SIDECARS, sidecar_uid=61234
)


def test_what_is_written_is_read_again(tmp_path: pathlib.Path) -> None:
    store = KeptWorkloads(tmp_path / "w")
    bare = Kept(number=12, name="b", ports=Ports(), launch=dataclasses.replace(LAUNCH, layout=(), facts=()))
    store.save(bare)
    store.save(KEPT)
    assert KeptWorkloads(tmp_path / "w").load() == [KEPT, bare]
    store.save(dataclasses.replace(KEPT, sidecars=()))
    store.forget(12)
    store.forget(13)
    assert KeptWorkloads(tmp_path / "w").load() == [dataclasses.replace(KEPT, sidecars=())]


def test_a_program_that_enforces_by_itself_is_known_as_one_again(tmp_path: pathlib.Path) -> None:
    store = KeptWorkloads(tmp_path)
    store.save(dataclasses.replace(KEPT, ports=dataclasses.replace(PORTS, sdk=True), sidecars=()))
    assert store.load()[0].ports.sdk


def test_nobody_else_reads_it(tmp_path: pathlib.Path) -> None:
    KeptWorkloads(tmp_path / "w").save(KEPT)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "w", tmp_path / "w" / "3.json")] == [0o700, 0o600]


def test_a_reboot_makes_it_void(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = KeptWorkloads(tmp_path)
    store.save(KEPT)
    (tmp_path / "boot").write_text("another\n")
    monkeypatch.setattr(module, "_BOOT", str(tmp_path / "boot"))
    assert store.load() == []
    assert not (tmp_path / "3.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"launch": None},
        {"launch": {"pid": 1}},
        {"ports": []},
        {"ports": {"inbound": 3}},
        {"sidecars": "5"},
        {"sidecars": [1]},
        {"sidecars": [{"process": [1]}]},
        {"sidecars": [{"process": [1, 2], "place": 2}]},
        {"sidecars": [{"process": [1, 2], "strange": 2}]},
        {"number": 4},
        {"strange": 1},
        None,
    ],
    ids=str,
)
def test_what_cannot_be_read_is_removed_and_harms_no_other(
    tmp_path: pathlib.Path, change: dict[str, object] | None
) -> None:
    store = KeptWorkloads(tmp_path)
    store.save(KEPT)
    other = dataclasses.replace(KEPT, number=5)
    store.save(other)
    path = tmp_path / "3.json"
    path.write_text("{" if change is None else json.dumps({**json.loads(path.read_text()), **change}))
    assert store.load() == [other]
    assert not path.exists()
