"""Several processes take the steps of one: each computes its share of the same batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from train import checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent


def test_two_processes_take_the_steps_of_one(toy_corpus, tmp_path):
    """The same loss curve and the same weights, to rounding. Dropout is off: its masks differ by process."""
    arguments = ["train", "cspp", "--data", toy_corpus, "--variant", "baseline", "--dropout", "0", "--hidden", "16"]
    arguments += ["--optimizer", "sgd", "--learning-rate", "0.02", "--epochs", "2", "--batch", "32", "--jitter", "0"]
    arguments += ["--held-out", "0.2", "--shift", "0.05", "--rotation", "5", "--threads", "1", "--accelerator", "cpu"]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    for out, start in (("one", [sys.executable, "-m"]), ("two", two)):
        done = subprocess.run(
            [*start, *map(str, arguments), "--out", str(tmp_path / out)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, other = (checkpoint.load(tmp_path / out / "last.pt") for out in ("one", "two"))
    losses = [[entry["loss"] for entry in stored.state["history"]] for stored in (one, other)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0][1] < losses[0][0]
    for name, weights in one.weights.items():
        assert torch.allclose(weights, other.weights[name], atol=1e-4), name
