"""Plans are executable code: nobody else's, no other's, and no half of one is ever used."""

import json
import os
import threading
import time
from dataclasses import asdict, replace

import pytest

from edge.bundle import WINDOW, Bundle
from edge.cache import cache_folder, distrust, own_folder, read_own, write_own
from edge.engine.plans import Place, Plans, command, key_of
from edge.errors import BackendError, BundleError

HERE = Place("10.3.0", "8.7", "Orin", "36.4.3")
FACE = Bundle.open()


@pytest.fixture
def plans(tmp_path):
    tmp_path.chmod(0o700)
    return Plans(tmp_path / "plans")


@pytest.fixture
def key():
    return key_of(FACE, WINDOW, "int8", HERE)


# -- the key ----------------------------------------------------------------------------------------------------------


def test_every_part_of_the_key_changes_the_name(key):
    others = [
        replace(key, graph="head"),
        replace(key, precision="fp16"),
        replace(key, onnx="0" * 64),
        replace(key, weights="0" * 64),
        replace(key, recipe=key.recipe + 1),
        *(replace(key, place=replace(HERE, **{name: "other"})) for name in ("tensorrt", "sm", "gpu", "l4t")),
    ]
    assert len({key.stem, *(one.stem for one in others)}) == len(others) + 1


def test_the_key_covers_the_graph_and_its_weights(key):
    def altered(member):
        files = {**FACE.manifest.files, member: "1" * 64}
        return key_of(replace(FACE, manifest=replace(FACE.manifest, files=files)), WINDOW, "int8", HERE)

    assert altered("window.int8.onnx").stem != key.stem
    assert altered("weights.int8.bin").stem != key.stem
    assert altered("window.fp16.onnx").stem == key.stem, "another precision's graph is none of its business"
    assert altered("golden.npz").stem == key.stem


def test_a_strange_name_stays_in_the_folder(key):
    stem = replace(key, graph="../../etc/passwd\n").stem
    assert "/" not in stem
    assert "\n" not in stem


def test_an_unknown_graph_is_refused():
    with pytest.raises(BundleError, match="no fp32 graph 'nothing' in this bundle"):
        key_of(FACE, "nothing", "fp32", HERE)


# -- keeping and finding ----------------------------------------------------------------------------------------------


def test_kept_and_found(plans, key):
    assert plans.find(key) is None
    facts = plans.save(key, b"a plan", 12.3)
    assert plans.find(key) == facts
    assert plans.all() == (facts,)
    assert plans.read(key, FACE) == b"a plan"
    for path in plans.folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, "nobody else's business"
    plans.remove(key)
    assert plans.all() == ()
    with pytest.raises(BackendError, match=r"no int8 plan of graph 'window' was built for TensorRT 10\.3\.0 on Orin"):
        plans.read(key, FACE)


def test_a_plan_of_another_place_names_both(plans, key):
    plans.save(replace(key, place=replace(HERE, tensorrt="10.13.3", gpu="Thor", sm="11.0")), b"another", 1)
    with pytest.raises(BackendError) as refused:
        plans.read(key, FACE)
    text = str(refused.value)
    assert "the int8 plan is for TensorRT 10.13.3 on Thor (SM 11.0" in text
    assert "here is TensorRT 10.3.0 on Orin (SM 8.7, Jetson Linux 36.4.3)" in text
    assert command(FACE, "int8") in text


def test_what_an_update_leaves_behind_is_forgotten(plans, key):
    old = replace(key, place=replace(HERE, tensorrt="8.6.2", l4t="36.3.0"))
    elsewhere = replace(key, place=replace(HERE, gpu="Orin NX"))
    for one in (old, elsewhere, key):
        plans.save(one, b"a plan", 1)
    assert plans.find(old) is None
    assert plans.find(elsewhere) is not None, "a folder that two boards share"


def test_half_of_a_plan_counts_for_nothing(plans, key):
    plans.save(key, b"a plan", 1)
    facts = plans.folder / f"{key.stem}.json"
    whole = facts.read_text()
    for half in (whole[: len(whole) // 2], "{}", "[]", '"x"', ""):
        facts.write_text(half)
        assert plans.find(key) is None
    facts.write_text(whole)
    (plans.folder / f"{key.stem}.plan").unlink()
    assert plans.find(key) is None


def test_facts_under_another_name_are_not_believed(plans, key):
    facts = plans.save(key, b"a plan", 1)
    document = {**asdict(facts), "key": asdict(replace(key, onnx="0" * 64))}
    (plans.folder / f"{key.stem}.json").write_text(json.dumps(document))
    assert plans.find(key) is None
    assert plans.all() == ()


def test_one_flipped_bit_is_found(plans, key):
    plans.save(key, b"a plan", 1)
    (plans.folder / f"{key.stem}.plan").write_bytes(b"a pl\x00n")
    with pytest.raises(BackendError, match="not the plan that was built .* type: python -m export.to_tensorrt"):
        plans.read(key, FACE)


def test_the_lock_lets_one_build_at_a_time(plans):
    order, told = [], []

    def second():
        with plans.lock(told.append):
            order.append("second")

    with plans.lock():
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(1.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert len(told) == 1
    assert "another build uses" in told[0]


def test_the_lock_sweeps_what_a_killed_build_left(plans, key):
    plans.save(key, b"a plan", 1)
    left = [plans.folder / "window.int8.x.plan.abc.partial", plans.folder / "window.fp16.y.plan"]
    for path in left:
        path.write_bytes(b"half")
    with plans.lock():
        assert not any(path.exists() for path in left)
    assert plans.read(key, FACE) == b"a plan"


def test_timings_are_kept_by_place(plans):
    assert plans.timing(HERE) == b""
    plans.save_timing(HERE, b"timings")
    assert plans.timing(HERE) == b"timings"
    assert plans.timing(replace(HERE, tensorrt="10.16.2")) == b""
    next(plans.folder.glob("timing.*")).chmod(0o622)
    assert plans.timing(HERE) == b"", "somebody else could have written it"


# -- whose files they are ---------------------------------------------------------------------------------------------


def test_where_the_cache_is(monkeypatch, tmp_path):
    for name in ("EDGE_CACHE", "CACHE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edge-emotion"
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path}/service:{tmp_path}/other")
    assert cache_folder() == tmp_path / "service"
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert Plans().folder == tmp_path / "own" / "plans"


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    write_own(tmp_path / "one", b"before")

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        BackendError, match=r"can't be written \(No space left on device\); make room, or set EDGE_CACHE"
    ):
        write_own(tmp_path / "one", b"after")
    assert (tmp_path / "one").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_read(tmp_path, mode):
    tmp_path.chmod(0o700)
    write_own(tmp_path / "one", b"mine")
    assert read_own(tmp_path / "one") == b"mine"
    (tmp_path / "one").chmod(mode)
    with pytest.raises(BackendError, match="not trusted; type: rm"):
        read_own(tmp_path / "one")


def test_a_link_is_not_followed(tmp_path):
    tmp_path.chmod(0o700)
    write_own(tmp_path / "one", b"mine")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    with pytest.raises(BackendError, match="can't be read"):
        read_own(tmp_path / "two")
    os.mkfifo(tmp_path / "pipe")
    # A pipe that nobody writes to would be waited for.
    with pytest.raises(BackendError, match="not a file that this user alone may write"):
        read_own(tmp_path / "pipe")


def test_a_folder_that_others_may_write_is_not_trusted(tmp_path):
    tmp_path.chmod(0o700)
    folder = own_folder(tmp_path / "new" / "plans")
    assert distrust(folder) is None
    folder.chmod(0o770)
    assert "can be written by others" in distrust(folder)
    folder.chmod(0o700)
    (tmp_path / "new").chmod(0o777)
    assert "who could replace" in distrust(folder)
    (tmp_path / "new").chmod(0o1777)
    assert distrust(folder) is None, "as in /tmp"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_folder_is_not_trusted(tmp_path):
    tmp_path.chmod(0o700)
    folder = own_folder(tmp_path / "plans")
    write_own(folder / "one", b"mine")
    os.chown(folder / "one", 1, 1)
    with pytest.raises(BackendError, match="not a file that this user alone may write"):
        read_own(folder / "one")
    os.chown(folder, 1, 1)
    assert "belongs to user 1" in distrust(folder)
    with pytest.raises(BackendError, match="belongs to user 1 .* set EDGE_CACHE"):
        own_folder(folder)


def test_a_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match="the cache can't be made .* set EDGE_CACHE to a folder of your own"):
        own_folder(tmp_path / "file" / "plans")
