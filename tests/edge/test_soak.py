"""The soak's short form, in a process of its own as ``make soak`` runs it; and that its checks can fail."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edge
from benchmarks import soak as bench
from edge.mailbox import Mailbox
from edge.pipeline import Pipeline

ROOT = Path(edge.__file__).resolve().parents[1]


def test_the_short_form_holds(tmp_path):
    target = tmp_path / "soak.json"
    command = [sys.executable, "-m", "benchmarks.soak", "--frames", "2500", "--json", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict        held" in done.stdout
    found = json.loads(target.read_text())
    assert found["breaches"] == []
    assert found["pictures"] >= 2500
    assert found["answered"] > 0.7 * found["pictures"], "the camera is no faster than its consumer"
    assert 0.3 < found["with_face"] / found["answered"] < 0.9, "faces come and go"
    assert set(found["expected"]["faults"]) == {"unplugged", "still", "corrupt", "resolution", "hung", "burst"}
    assert found["health"]["reconnects"] >= 3
    assert found["health"]["corrupt"] >= 100
    assert len(found["samples"]) >= 10


def test_a_consumer_that_keeps_frames_is_found():
    kept = []
    found = bench.soak(1200, each=lambda frame, result: kept.append(frame.image.copy()))
    assert any("memory grows by" in breach for breach in found.breaches()), found
    assert found.slope_mb > 100
    kept.clear()


def test_what_is_lost_repeated_or_left_open_is_found(monkeypatch, tmp_path):
    """One result in a hundred is given twice, one picture in a mailbox is lost uncounted, and a file stays open."""
    answer, put = Pipeline.answer, Mailbox.put
    calls, left = [0, 0], []

    def stutter(self, seen):
        calls[0] += 1
        result = answer(self, seen)
        # The last ones too: a wrong number must not keep the run from ending.
        wrong = calls[0] % 100 == 0 or calls[0] > 700
        return replace(result, frame=result.frame - 1) if wrong else result

    def lose(self, item):
        calls[1] += 1
        return True if calls[1] == 500 else put(self, item)

    monkeypatch.setattr(Pipeline, "answer", stutter)
    monkeypatch.setattr(Mailbox, "put", lose)

    def leave(frame, result):
        if frame.index >= 300 and not left:
            left.append(open(tmp_path / "left", "w"))  # noqa: SIM115 - that is the fault

    breaches = bench.soak(900, each=leave).breaches()
    left[0].close()
    assert any("came twice or out of order" in breach for breach in breaches), breaches
    assert any(breach.startswith("1 pictures are neither answered nor counted") for breach in breaches), breaches
    assert any("descriptors before" in breach for breach in breaches), breaches


def test_what_ends_it_is_told():
    def fail(frame, result):
        if result.frame > 20:
            raise RuntimeError("consumer broke")

    assert "raised RuntimeError: consumer broke" in bench.soak(100, each=fail).breaches()


def test_the_slope():
    rng = np.random.default_rng(0)
    flat = [(n, 200 + rng.normal(0, 0.1)) for n in range(0, 30_000, 100)]
    growing = [(n, mb + 1.2 * n / 10_000) for n, mb in flat]
    assert abs(bench.slope(flat)) < 0.05
    assert bench.slope(growing) == pytest.approx(1.2, abs=0.05)
    assert np.isnan(bench.slope(flat[:2]))
    assert bench.allowed_slope(20_000) == bench.allowed_slope(108_000) == 1.0
    assert bench.allowed_slope(2_000) == 21
    found = bench.Found(0, "5", "", slope_mb=float("nan"), most_faces=10)
    assert found.breaches() == ["memory grows by nan MB in 10,000 pictures, allowed 40001.00"]


def test_the_same_seed_draws_the_same_faults():
    def draw(seed):
        script, plan = bench.Script(), bench.Plan(3000, None, seed)
        for _ in range(40):
            plan.more(script)
            while script._steps:
                script.taken += script.next().kind in ("frames", "burst", "freeze", "corrupt")
        return script.taken, plan.expected

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


@pytest.mark.parametrize("options", [["--frames", "0"], ["--seconds", "-1"], ["--landmarks", "7"]])
def test_options_that_can_not_be_used(options, capfd):
    with pytest.raises(SystemExit) as ended:
        bench.main(options)
    assert ended.value.code == 2
    capfd.readouterr()
    assert bench.main(["--bundle", "none-such"]) == 2
    assert "none-such" in capfd.readouterr().err
