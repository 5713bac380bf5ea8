"""Documents, and what two of them say: noise is no change, a planted slow-down is one."""

import copy
import json

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.compare import compare
from benchmarks.document import Measure, check, find, load, measures, quantiles, save
from benchmarks.errors import BenchError

STAGES = {"detect and landmarks": 2.0, "align": 0.2, "infer": 0.6, "smooth": 0.05}


def made(rounds=5, noise=0.03, seed=0, factor=None, others=0.05, multiply=260.0, accuracy=0.634, drift=0.0, **more):
    """A document as a run writes it, with figures drawn around fixed ones; ``factor`` multiplies some of them.

    ``drift`` moves all stages of a round alike.
    """
    pace = 1 + drift * np.random.default_rng(1000 + seed).uniform(-1, 1, rounds)
    rng, factor = np.random.default_rng(seed), factor or {}
    facts = {"bundle": "face", "precision": "int8", "backend": "onnxruntime"}

    def drawn(name, value, unit, better="less", **which):
        values = value * factor.get(name, 1.0) * (1 + noise * rng.uniform(-1, 1, rounds))
        values = values * (pace if name.startswith(("core/", "stage/")) else 1.0)
        return Measure(name, unit, better, tuple(values.tolist()), **which).document()

    found = [
        drawn("machine/multiply fp32", multiply, "Gop/s", "neither"),
        Measure("machine/others", "cores", "neither", (others,) * rounds).document(),
        drawn("engine", 0.36, "ms", **facts),
        drawn("loop/fps", 300.0, "frames/s", "more", **facts),
        drawn("memory/host", 204.0, "MB", **facts),
        Measure("accuracy", "share", "more", (accuracy,), **facts).document(),
        Measure("steady/changes", "a 100 frames", "less", (0.0,) * rounds, **facts).document(),
    ]
    for kind, unit in (("stage", "ms"), ("core", "ms of a core")):
        found += [drawn(f"{kind}/{stage}", value, unit, **facts) for stage, value in STAGES.items()]
    machine = {"processor": "some", "board": None, "power_mode": None, "python": "3.11"}
    return {
        "schema": 1,
        "made": {"video": "head", "frames": 464, "landmarks": "68", "quick": False},
        "machine": machine,
        "bundles": {"face": {"digest": "0"}},
        "measures": found,
        "graphs": [],
        "predictions": [],
        "accuracy": None,
        "peers": None,
        "notes": [],
        **more,
    }


def worse(found):
    """Names of what got worse, by itself or beside the other stages."""
    return {one.old.name.split(",")[0] for one in found.regressions}


@pytest.mark.parametrize("noise", [0.02, 0.12, 0.3])
def test_noise_is_no_change(noise):
    """One comparison in twenty may give the alarm; the same seeds each time."""
    alarms = 0
    for seed in range(40):
        found = compare(made(seed=2 * seed, noise=noise), made(seed=2 * seed + 1, noise=noise))
        alarms += bool(found.regressions)
    assert alarms <= 4


def test_one_stage_is_found_though_the_machine_s_pace_wanders():
    """Plain figures hide a fifth where rounds differ by as much; the other stages of the same rounds show it."""
    alarms, missed, plain = 0, 0, 0
    for seed in range(20):
        before, after = made(seed=seed, drift=0.25), made(seed=50 + seed, drift=0.25)
        alarms += bool(compare(before, after).regressions)
        found = compare(before, made(seed=50 + seed, drift=0.25, factor={"core/align": 1.2}))
        missed += "core/align, beside the other stages" not in {one.old.name for one in found.regressions}
        plain += "core/align" in {one.old.name for one in found.regressions}
        assert worse(found) <= {"core/align"}
    assert alarms <= 2
    assert missed == 0
    assert plain < 10


def test_beside_the_others_nothing_is_seen_of_a_change_to_all():
    all_of_them = {f"core/{stage}": 1.3 for stage in STAGES}
    found = compare(made(), made(seed=1, factor=all_of_them))
    assert {one.old.name for one in found.regressions} == set(all_of_them)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["stage", "core"])
def test_a_fifth_more_in_one_stage_is_found_and_nothing_else(stage, kind):
    for seed in range(5):
        found = compare(made(seed=seed), made(seed=100 + seed, factor={f"{kind}/{stage}": 1.2}))
        assert worse(found) == {f"{kind}/{stage}"}
        assert found.regressions[0].worse == pytest.approx(1.2, rel=0.04)


def test_more_is_worse_of_a_time_and_better_of_a_speed():
    assert worse(compare(made(), made(seed=1, factor={"loop/fps": 0.8}))) == {"loop/fps"}
    found = compare(made(), made(seed=1, factor={"loop/fps": 1.3, "engine": 0.7}))
    assert not found.regressions
    assert {one.old.name for one in found.changes if one.verdict == "better"} == {"loop/fps", "engine"}


def test_the_limit_is_the_callers():
    old, new = made(noise=0.01), made(noise=0.01, seed=1, factor={"core/infer": 1.2})
    assert worse(compare(old, new, percent=10)) == {"core/infer"}
    assert not worse(compare(old, new, percent=25))


def test_a_wide_interval_hides_a_change_and_says_nothing():
    found = compare(made(noise=0.3), made(noise=0.3, seed=1, factor={"core/infer": 1.2}))
    assert "core/infer" not in worse(found)


def test_accuracy_counts_in_points():
    assert not worse(compare(made(accuracy=0.634), made(accuracy=0.631)))
    assert worse(compare(made(accuracy=0.634), made(accuracy=0.624))) == {"accuracy"}


def test_from_nothing_to_something_is_worse():
    new = made(seed=1)
    changes = next(one for one in new["measures"] if one["name"] == "steady/changes")
    changes["rounds"] = [3.0] * 5
    assert worse(compare(made(), new)) == {"steady/changes"}


def test_beside_other_programs_only_what_they_hardly_change_is_judged():
    planted = {"stage/infer": 1.5, "core/infer": 1.5}
    found = compare(made(), made(seed=1, others=1.3, factor=planted))
    assert worse(found) == {"core/infer"}
    assert {one.old.name for one in found.changes if one.verdict == "busy"} == {"stage/infer"}
    assert any("other programs kept 1.30 cores busy" in note for note in found.notes)


def test_a_slower_machine_is_allowed_for():
    slow = dict.fromkeys(("engine", *(f"core/{stage}" for stage in STAGES)), 1.3)
    assert worse(compare(made(), made(seed=1, factor=slow))) == set(slow)
    found = compare(made(), made(seed=1, factor=slow, multiply=190.0))
    assert not found.regressions
    assert found.slower == pytest.approx(260 / 190, rel=0.1)


def test_what_is_gone_or_new_and_what_was_measured_differently_is_said():
    old, new = made(), made(bundles={"face": {"digest": "1"}})
    new["measures"] = [one for one in new["measures"] if one["name"] != "engine"]
    new["machine"] = {**new["machine"], "python": "3.12"}
    new["made"] = {**new["made"], "quick": True}
    found = compare(old, new)
    assert found.gone == ("engine face int8 onnxruntime",)
    assert compare(new, old).added == found.gone
    assert {"python differs: 3.11 and 3.12", "face is another bundle now: its digest differs"} <= set(found.notes)
    assert "measured differently: quick False and True" in found.notes
    other = copy.deepcopy(old)
    for one in other["measures"]:
        one["bundle"] = "another"
    with pytest.raises(BenchError, match="no figure in common"):
        compare(old, other)


def test_from_the_command_line(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    save(made(), old)
    save(made(seed=1, factor={"core/align": 1.2}), new)
    assert main(["compare", str(old), str(old)]) == 0
    assert "0 worse by more than 10 %" in capsys.readouterr().out
    assert main(["compare", str(old), str(new)]) == 1
    printed = capsys.readouterr().out
    assert "WORSE" in printed
    assert "core/align face int8 onnxruntime" in printed
    assert main(["compare", str(old), str(new), "--percent", "40"]) == 0
    assert main(["compare", str(old), str(tmp_path / "none.json")]) == 2
    assert "none.json: can't be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare", str(old), str(new), "--percent", "-1"])


def test_a_document_is_checked_before_it_is_believed(tmp_path):
    path = tmp_path / "bench.json"
    for damage, said in (
        (lambda one: one.pop("measures"), "measures is missing or garbled"),
        (lambda one: one.update(schema=99), "schema 99, this version reads 1"),
        (lambda one: one["measures"][2].pop("unit"), "a measure is garbled"),
        (lambda one: one["measures"][2].update(rounds=[]), "expected finite figures"),
        (lambda one: one["measures"][2].update(rounds=[float("nan")]), "expected finite figures"),
        (lambda one: one["measures"].append(one["measures"][2]), "is there twice"),
    ):
        document = made()
        damage(document)
        path.write_text(json.dumps(document))
        with pytest.raises(BenchError, match=said):
            load(path)
    for text, said in (("{", "no JSON"), ("[]", "not a document"), ('{"a": 1}', "not a document")):
        path.write_text(text)
        with pytest.raises(BenchError, match=said):
            load(path)
    with pytest.raises(BenchError, match="schema"):
        check({"schema": 2}, "it")


def test_a_document_comes_back_as_it_was(tmp_path):
    document = made()
    save(document, tmp_path / "a" / "bench.json")
    assert load(tmp_path / "a" / "bench.json") == document
    one = find(measures(document), "engine", precision="int8")
    assert one.low <= one.value <= one.high
    assert one.key == "engine face int8 onnxruntime"
    assert Measure("scale/faces", "ms", "less", (1.0,), at=3.0).key == "scale/faces@3"
    assert quantiles(range(101))["95"] == 95
