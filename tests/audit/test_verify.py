import base64
import json
import os
import pathlib
import shutil
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.merkle import fold, leaf_hash
from audit.tiles import pack_entries
from audit.verify import prove, verify_log, verify_proof
from mesh.problems import Problem
from tests.audit.making import KEY, ORIGIN, OTHER_KEY, id_of, make, make_log, open_log
from tests.audit.signing import Keeper
from tests.examples import examples

SIZE = 300


@pytest.fixture(scope="module")
def good() -> tuple[pathlib.Path, str]:
    folder = pathlib.Path(tempfile.mkdtemp())
    # small batches leave narrower partial tiles behind
    return folder, make_log(folder, 250, 40, 4, SIZE - 294)


def files(directory: pathlib.Path) -> list[str]:
    # the journal, and which records were seen, are the writer's own: a copy of the log is the same without them
    found = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.startswith(("journal.", "seen.db")))


def found_in(directory: pathlib.Path, key: str) -> list[tuple[str, dict[str, object]]]:
    result = verify_log(directory, key)
    for item in result.findings:
        assert item.message
        assert "?" not in item.message
    return [(item.code, dict(item.facts)) for item in result.findings]


def names_place(findings: list[tuple[str, dict[str, object]]], path: str) -> bool:
    """Whether the findings name the file, or a record that stands in it."""
    for code, facts in findings:
        if facts.get("path") == path:
            return True
        if path == "checkpoint" and code in {"LM6031", "LM6032"}:
            return True
        if path.startswith("tile/entries/") and code in {"LM6034", "LM6035"}:
            number = facts["index"]
            assert isinstance(number, int)
            return path.startswith(f"tile/entries/{number // 256:03d}")
    return False


def mutated(good: tuple[pathlib.Path, str], path: str, data: bytes | None) -> list[tuple[str, dict[str, object]]]:
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "copy"
        shutil.copytree(good[0], copy)
        if data is None:
            (copy / path).unlink()
        else:
            (copy / path).write_bytes(data)
        return found_in(copy, good[1])


def test_a_whole_copy_verifies(good: tuple[pathlib.Path, str], tmp_path: pathlib.Path) -> None:
    shutil.copytree(good[0], tmp_path / "copy")
    result = verify_log(tmp_path / "copy", good[1])
    assert (result.size, result.origin, result.is_good) == (SIZE, ORIGIN, True)


def test_narrower_partial_tiles_are_among_what_is_checked(good: tuple[pathlib.Path, str]) -> None:
    assert {"tile/0/001.p/34", "tile/entries/001.p/38", "tile/0/001.p/44", "tile/1/000.p/1"} <= set(files(good[0]))


@settings(max_examples=examples(50), deadline=None)
@given(data=st.data())
def test_a_flipped_byte_anywhere_is_named(good: tuple[pathlib.Path, str], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files(good[0])))
    content = bytearray((good[0] / path).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    assert names_place(mutated(good, path, bytes(content)), path)


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data())
def test_a_file_cut_short_or_drawn_out_is_named(good: tuple[pathlib.Path, str], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files(good[0])))
    content = (good[0] / path).read_bytes()
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    assert names_place(mutated(good, path, cut), path)
    assert names_place(mutated(good, path, content + data.draw(st.binary(min_size=1, max_size=40))), path)


@pytest.mark.parametrize(
    "path",
    ["checkpoint", "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/44"],
)
def test_a_deleted_file_is_named(good: tuple[pathlib.Path, str], path: str) -> None:
    assert names_place(mutated(good, path, None), path)


@settings(max_examples=examples(20), deadline=None)
@given(data=st.data())
def test_a_changed_record_is_named_by_its_index_and_alone(good: tuple[pathlib.Path, str], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, SIZE - 1))
    bundle, first, last = ("000", 0, 256) if index < 256 else ("001.p/44", 256, SIZE)
    entries = [make(number) for number in range(first, last)]
    entries[index - first] = make(index, decision="allow")
    findings = mutated(good, f"tile/entries/{bundle}", pack_entries(entries))
    path, place = f"tile/entries/{bundle}", entries[: index - first]
    where = {"path": path, "offset": len(pack_entries(place)), "size": len(entries[index - first]) + 2}
    assert [facts for code, facts in findings if code == "LM6034"] == [{"index": index, **where}]
    # narrower bundles of before contradict the changed one too
    assert {facts["path"] for code, facts in findings if code == "LM6039"} <= set(files(good[0]))


@settings(max_examples=examples(30), deadline=None)
@given(data=st.data())
def test_swapped_records_are_named(good: tuple[pathlib.Path, str], data: st.DataObject) -> None:
    one, other = data.draw(st.lists(st.integers(0, 255), min_size=2, max_size=2, unique=True))
    entries = [make(number) for number in range(256)]
    entries[one], entries[other] = entries[other], entries[one]
    findings = mutated(good, "tile/entries/000", pack_entries(entries))
    assert sorted(str(facts["index"]) for code, facts in findings if code == "LM6034") == sorted(map(str, (one, other)))


@settings(max_examples=examples(30), deadline=None)
@given(data=st.data())
def test_a_changed_tile_is_named_by_its_byte_and_alone(good: tuple[pathlib.Path, str], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"]))
    content = bytearray((good[0] / path).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1
    findings = mutated(good, path, bytes(content))
    assert ("LM6039", {"path": path, "offset": place}) in findings
    assert not [code for code, _ in findings if code in {"LM6034", "LM6037"}]


def test_a_record_that_was_changed_with_its_tile_is_named_by_its_range(
    good: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(good[0], copy)
    entries = [make(number) for number in range(256)]
    entries[7] = make(7, decision="allow")
    (copy / "tile/entries/000").write_bytes(pack_entries(entries))
    (copy / "tile/0/000").write_bytes(b"".join(map(leaf_hash, entries)))
    codes = found_in(copy, good[1])
    assert ("LM6037", {"path": "tile/1/000.p/1", "place": 0, "first": 0, "last": 255}) in codes
    # and with the tile above as well
    (copy / "tile/1/000.p/1").write_bytes(fold([leaf_hash(entry) for entry in entries]))
    assert [code for code, _ in found_in(copy, good[1])] == ["LM6033"]


def test_a_smaller_checkpoint_of_the_same_log_verifies_too(
    good: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    # truncation to a signed size is what witnesses and archived checkpoints are for; bytes beyond it are not read
    make_log(tmp_path / "small", 200)
    copy = tmp_path / "copy"
    shutil.copytree(good[0], copy)
    shutil.copy(tmp_path / "small" / "checkpoint", copy / "checkpoint")
    result = verify_log(copy, good[1])
    assert (result.size, result.is_good) == (200, True)


def test_a_checkpoint_that_the_thief_of_no_key_made_is_refused(good: tuple[pathlib.Path, str]) -> None:
    forged = sign_checkpoint(Checkpoint(origin=ORIGIN, size=1, root=leaf_hash(make(0))), OTHER_KEY)
    assert [code for code, _ in mutated(good, "checkpoint", forged)] == ["LM6032"]


@pytest.mark.parametrize("size", [SIZE + 1, 10**6, 10**18], ids=str)
def test_a_signed_size_beyond_the_files_is_found_and_ends(tmp_path: pathlib.Path, size: int) -> None:
    key = make_log(tmp_path, 5)
    (tmp_path / "checkpoint").write_bytes(sign_checkpoint(Checkpoint(origin=ORIGIN, size=size, root=bytes(32)), KEY))
    assert {"LM6020"} <= {code for code, _ in found_in(tmp_path, key)}


def test_a_signed_record_that_is_none_is_found(tmp_path: pathlib.Path) -> None:
    entries = [make(0), b"not a record", make(0, decision="deny"), make(1)]
    hashes = [leaf_hash(entry) for entry in entries]
    key = make_log(tmp_path)
    for path, data in {"tile/0/000.p/4": b"".join(hashes), "tile/entries/000.p/4": pack_entries(entries)}.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(data)
    note = sign_checkpoint(Checkpoint(origin=ORIGIN, size=4, root=fold(hashes)), KEY)
    (tmp_path / "checkpoint").write_bytes(note)
    findings = found_in(tmp_path, key)
    assert [code for code, _ in findings] == ["LM6035", "LM6036"]
    assert findings[1][1] == {"id": id_of(0), "index": 2, "other": 0}


def test_a_key_of_somebody_else_is_refused(good: tuple[pathlib.Path, str], tmp_path: pathlib.Path) -> None:
    from audit.checkpoint import VerifierKey

    assert [code for code, _ in found_in(good[0], str(VerifierKey(name=ORIGIN, key=OTHER_KEY.public_key())))] == [
        "LM6032"
    ]
    assert [code for code, _ in found_in(good[0], "nonsense")] == ["LM6030"]


def test_links_pipes_and_folders_do_not_hold_it_up(good: tuple[pathlib.Path, str], tmp_path: pathlib.Path) -> None:
    for number, make_it in enumerate((lambda p: p.symlink_to("/dev/zero"), os.mkfifo, lambda p: p.mkdir())):
        copy = tmp_path / str(number)
        shutil.copytree(good[0], copy)
        (copy / "tile/0/000").unlink()
        make_it(copy / "tile/0/000")
        assert names_place(found_in(copy, good[1]), "tile/0/000")


def test_an_empty_log_verifies_and_an_empty_folder_does_not(tmp_path: pathlib.Path) -> None:
    key = make_log(tmp_path / "log")
    assert verify_log(tmp_path / "log", key).is_good
    (tmp_path / "none").mkdir()
    assert [code for code, _ in found_in(tmp_path / "none", key)] == ["LM6020"]


@pytest.mark.parametrize("index", [0, 1, 255, 256, 299])
def test_a_record_is_proved_to_somebody_with_only_the_key(good: tuple[pathlib.Path, str], index: int) -> None:
    proof = json.loads(json.dumps(prove(good[0], good[1], id_of(index))))
    assert (proof["index"], proof["size"], proof["record"].encode()) == (index, SIZE, make(index))
    assert verify_proof(proof, good[1])


@pytest.mark.parametrize(("number", "at"), [(SIZE, None), (1, 2), (1, SIZE)])
def test_what_is_not_there_is_not_proved(good: tuple[pathlib.Path, str], number: int, at: int | None) -> None:
    with pytest.raises(Problem) as caught:
        prove(good[0], good[1], id_of(number), at=at)
    assert caught.value.code == "LM6038"


def test_of_two_records_with_one_id_either_is_proved(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    log.append([make(1), make(1, decision="deny")])
    log.close()
    key = (tmp_path / "key.pub").read_text()
    for index, data in enumerate([make(1), make(1, decision="deny")]):
        proof = prove(tmp_path, key, id_of(1), at=index)
        assert (proof["record"], verify_proof(proof, key)) == (data.decode(), True)


def test_a_changed_log_proves_nothing(good: tuple[pathlib.Path, str], tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(good[0], copy)
    entries = [make(number) for number in range(256)]
    entries[7] = make(7, decision="allow")
    (copy / "tile/entries/000").write_bytes(pack_entries(entries))
    with pytest.raises(Problem) as caught:
        prove(copy, good[1], id_of(7))
    assert caught.value.code == "LM6033"


@settings(max_examples=examples(80), deadline=None)
@given(data=st.data())
def test_a_changed_proof_does_not_hold(good: tuple[pathlib.Path, str], data: st.DataObject) -> None:
    proof = prove(good[0], good[1], id_of(7))
    name = data.draw(st.sampled_from(sorted(proof)))
    value = proof[name]
    if isinstance(value, int):
        proof[name] = data.draw(st.integers().filter(lambda number: number != value))
    elif isinstance(value, list):
        place = data.draw(st.integers(0, len(value) - 1))
        proof[name] = value[:place] + value[place + 1 :]
    else:
        assert isinstance(value, str)
        place = data.draw(st.integers(0, len(value) - 1))
        character = data.draw(st.characters(codec="utf-8").filter(lambda found: found != value[place]))
        proof[name] = value[:place] + character + value[place + 1 :]
    try:
        assert not verify_proof(proof, good[1])
    except Problem as problem:
        assert problem.code in {"LM6055", "LM6031", "LM6032", "LM6002"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from(["id", "index", "size", "record", "leaf_hash", "proof", "checkpoint"]), JSON))
def test_no_object_breaks_the_proof_reader(proof: dict[str, object]) -> None:
    with pytest.raises(Problem) as caught:
        verify_proof(proof, "x")
    assert caught.value.code in {"LM6055", "LM6030"}


def test_a_proof_of_endless_hashes_is_refused(good: tuple[pathlib.Path, str]) -> None:
    proof = prove(good[0], good[1], id_of(7))
    proof["proof"] = [base64.b64encode(bytes(32)).decode()] * 65
    with pytest.raises(Problem) as caught:
        verify_proof(proof, good[1])
    assert caught.value.code == "LM6055"


def test_a_log_that_grows_while_it_is_checked_verifies(tmp_path: pathlib.Path) -> None:
    key = make_log(tmp_path, 250)
    log = open_log(tmp_path)
    note = (tmp_path / "checkpoint").read_bytes()
    log.append([make(number) for number in range(250, 260)])
    log.close()
    # a reader that fetched the older checkpoint finds full tiles where its partial ones stood
    (tmp_path / "checkpoint").write_bytes(note)
    result = verify_log(tmp_path, key)
    assert (result.size, result.findings) == (250, ())


def test_an_agents_batch_that_a_server_left_out_is_named(tmp_path: pathlib.Path) -> None:
    keeper = Keeper()
    for number in range(3):
        keeper.batch([make(number)])
    log = open_log(tmp_path)
    log.append([*keeper.log[:2], *keeper.log[4:]])
    log.close()
    found = verify_log(tmp_path, (tmp_path / "key.pub").read_text())
    assert not found.is_good
    assert [(item.code, item.facts["first"], item.facts["last"]) for item in found.findings] == [("LM6073", 2, 2)]


def test_a_record_that_was_changed_does_not_have_the_narrower_bundles_named(tmp_path: pathlib.Path) -> None:
    key = make_log(tmp_path, 2, 3, 4)
    folder = tmp_path / "tile" / "entries" / "000.p"
    for changed, paths in ((9, ["000.p/9"]), (2, ["000.p/9", "000.p/2"])):
        path = folder / str(changed)
        data = path.read_bytes()
        path.write_bytes(data[:40] + bytes([data[40] ^ changed]) + data[41:])
        findings = verify_log(tmp_path, key).findings
        assert [item.facts["path"] for item in findings] == [f"tile/entries/{name}" for name in paths]
