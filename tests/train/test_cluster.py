"""Folds over a Ray cluster: the same results as one after the other, and a killed worker's fold is run again."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ray")

from edge.errors import EdgeError
from train.cluster import connected
from train.crossval import crossval
from train.data import Source, load_examples
from train.fitting import Fit, predict
from train.loop import Settings
from train.models import FAMILIES, cspp
from train.recipe import Recipe

CONFIG = cspp.Config(variant="baseline", classes=7, hidden=16, batch_norm=True)
RECIPE = Recipe(optimizer="adamw", learning_rate=0.003, batch=32, epochs=1, held_out=0.0)


def deadly(fit, marker):
    """Fits as ever, but the first worker that gets the second fold is killed. Defined here, it travels by value."""

    class Deadly:
        def __call__(self, family, config, recipe, examples, out):
            if out.name.endswith("2") and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return fit(family, config, recipe, examples, out)

    return Deadly()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_workers_and_a_killed_one(toy_corpus, tmp_path):
    family = FAMILIES["cspp"]
    examples = load_examples(Source("fer2013"), toy_corpus, family, CONFIG).examples
    examples = examples.subset(np.arange(0, len(examples), 2))
    examples = replace(examples, subjects=tuple(f"S{i // 25}" for i in range(len(examples))))
    fit = Fit(Settings(accelerator="cpu", progress=False), threads=1)

    def run(out, fit, map_folds):
        return crossval(
            family, CONFIG, RECIPE, examples, "kfold:3", tmp_path / out, fit=fit, predict=predict, map_folds=map_folds
        )

    with connected(None) as nothing:
        assert nothing is None
    one = run("serial", fit, map)
    with connected("auto") as spread:
        other = run("cluster", deadly(fit, tmp_path / "killed"), spread)
    assert (tmp_path / "killed").exists()
    assert [fold.accuracy for fold in one.folds] == [fold.accuracy for fold in other.folds]
    for path in (tmp_path / "serial").glob("fold-*/predictions.npz"):
        with np.load(path) as first, np.load(tmp_path / "cluster" / path.parent.name / path.name) as second:
            for name in first.files:
                assert np.array_equal(first[name], second[name]), (path, name)


def test_no_cluster_there():
    with pytest.raises(EdgeError, match="no Ray cluster answers at 127.0.0.1:1 .* or type --cluster auto"):
        with connected("127.0.0.1:1"):
            pass


def test_preparation_is_spread_too(tmp_path):
    """The real detector on real pictures, in Ray's workers and in this process: the same examples."""
    import cv2

    from edge.source import read_picture
    from edge.synthetic import PORTRAIT
    from train.data import Preparation

    portrait = read_picture(PORTRAIT)
    for name in ("happy", "sad"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number in range(3):
            shifted = np.roll(portrait, 7 * number, axis=1)
            cv2.imwrite(str(tmp_path / "faces" / name / f"S00{number}_001_0000000{number}.png"), shifted)
    (tmp_path / "faces" / "sad" / "S009_001_00000001.png").write_bytes(b"no picture")
    family, source = FAMILIES["cspp"], Source("manifest")

    def load(cache, spread, workers):
        preparation = Preparation(cache=tmp_path / cache, spread=spread, workers=workers, jitter=2)
        return load_examples(source, tmp_path / "faces", family, CONFIG, preparation)

    here = load("here", None, 1)
    with connected("auto") as spread:
        there = load("there", spread, 0)
    assert len(here.examples) == 6 * 3
    assert np.array_equal(here.examples.arrays["face"], there.examples.arrays["face"])
    assert here.failed == there.failed
    assert len(there.failed) == 1
