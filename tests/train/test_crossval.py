"""Cross-validation with a real, fast classifier: what is kept, what is taken over, what is refused."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made import made

pytest.importorskip("torch")

from sklearn.linear_model import LogisticRegression

from train import report
from train.crossval import CrossvalError, FoldJob, FoldRunner, crossval, digest
from train.models import FAMILIES
from train.protocols import LeakError, ProtocolError, folds, parse_protocol
from train.recipe import Recipe

FAMILY = FAMILIES["cspp"]
CONFIG = FAMILY.config(classes=3)
RECIPE = Recipe(epochs=200)


def vectors(examples):
    (pixels,) = examples.arrays.values()
    return pixels.reshape(len(examples), -1) / 255


def fit(family, config, recipe, examples, out):
    """A logistic regression on the pixels; leaves a trace of each call in the fold's folder."""
    with (out / "fits.txt").open("a") as trace:
        trace.write(f"{len(examples)}\n")
    return LogisticRegression(max_iter=recipe.epochs).fit(vectors(examples), examples.labels)


def predict(fitted, examples):
    return fitted.predict_proba(vectors(examples)).astype(np.float32)


def run(out, examples=None, protocol="kfold:4", **more):
    settings = {"fit": fit, "predict": predict, **more}
    config, recipe = settings.pop("config", CONFIG), settings.pop("recipe", RECIPE)
    family = settings.pop("family", FAMILY)
    return crossval(family, config, recipe, made() if examples is None else examples, protocol, out, **settings)


def fits(out: Path) -> dict[str, int]:
    return {path.parent.name: len(path.read_text().splitlines()) for path in sorted(out.glob("fold-*/fits.txt"))}


def test_a_classifier_that_learns_is_told_from_chance(tmp_path):
    result = run(tmp_path / "real", made(subjects=12, copies=1))
    assert len(result.folds) == 4
    assert result.figures["fold_mean"] > 0.8
    assert result.figures["count"] == 72
    assert sum(map(sum, result.figures["confusion"])) == 72
    assert [fold.train for fold in result.folds] == [108] * 4
    assert [fold.test for fold in result.folds] == [18] * 4
    assert result.figures["resampled"] == "subjects"
    low, high = result.figures["interval"]
    assert 0 < low < result.figures["accuracy"] < high <= 1
    # The same classifier under labels that mean nothing.
    random = made(subjects=12)
    random = replace(random, labels=np.random.default_rng(0).permutation(random.labels))
    assert run(tmp_path / "random", random).figures["fold_mean"] < 0.6


def test_what_a_run_leaves(tmp_path):
    result = run(tmp_path)
    for name in ("01", "02", "03", "04"):
        stored = json.loads((tmp_path / f"fold-{name}" / "fold.json").read_text())
        with np.load(tmp_path / f"fold-{name}" / "predictions.npz", allow_pickle=False) as arrays:
            assert arrays["probabilities"].dtype == np.float32
            assert arrays["probabilities"].shape == (12, 3)
            accuracy = (arrays["probabilities"].argmax(1) == arrays["labels"]).mean()
            examples = made()
            assert arrays["sequences"].tolist() == [examples.sequences[i] for i in stored["test"]]
        assert accuracy == pytest.approx(result.figures["folds"][name])
    assert not list(tmp_path.rglob(".*"))
    assert report.read(tmp_path).figures["fold_mean"] == result.figures["fold_mean"]
    assert (tmp_path / "confusion.png").stat().st_size > 10_000


class KilledError(BaseException):
    """As an interrupt: not to be caught by anything on the way."""


def fit_killed_in_third(family, config, recipe, examples, out):
    if out.name == "fold-03":
        raise KilledError
    return fit(family, config, recipe, examples, out)


# A rerun has the same name for its callable, as a command that is given again has.
fit_killed_in_third.__qualname__ = fit.__qualname__


def test_a_killed_run_goes_on_without_fitting_finished_folds_again(tmp_path):
    with pytest.raises(KilledError):
        run(tmp_path, fit=fit_killed_in_third)
    assert fits(tmp_path) == {"fold-01": 1, "fold-02": 1}
    assert not (tmp_path / "result.json").exists()
    resumed = run(tmp_path)
    assert fits(tmp_path) == dict.fromkeys(("fold-01", "fold-02", "fold-03", "fold-04"), 1)
    whole = run(tmp_path.with_name("whole"))
    assert resumed.figures == whole.figures
    run(tmp_path, resume=False)
    assert set(fits(tmp_path).values()) == {2}


@pytest.mark.parametrize("damage", ["fold.json", "predictions.npz"])
def test_a_damaged_fold_is_fitted_again(tmp_path, damage):
    first = run(tmp_path)
    path = tmp_path / "fold-02" / damage
    path.write_bytes(path.read_bytes()[:-40])
    assert run(tmp_path).figures == first.figures
    assert fits(tmp_path) == {"fold-01": 1, "fold-02": 2, "fold-03": 1, "fold-04": 1}


def test_predictions_of_another_fold_are_not_taken_over(tmp_path):
    first = run(tmp_path)
    (tmp_path / "fold-02" / "predictions.npz").write_bytes((tmp_path / "fold-01" / "predictions.npz").read_bytes())
    assert run(tmp_path).figures == first.figures
    assert fits(tmp_path)["fold-02"] == 2


def another(examples):
    face = examples.arrays["face"].copy()
    face[-1, -1, -1] ^= 1
    return replace(examples, arrays={"face": face})


def predict_otherwise(fitted, examples):
    return predict(fitted, examples)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"recipe": replace(RECIPE, epochs=100)}, r"recipe.epochs 200 there, 100 here"),
        ({"config": replace(CONFIG, hidden=8)}, r"config.hidden 256 there, 8 here"),
        ({"seed": 1}, r"seed 0 there, 1 here"),
        ({"protocol": "losgo:4"}, r"protocol kfold:4 there, losgo:4 here"),
        ({"examples": another(made())}, r"\(data\)"),
        ({"predict": predict_otherwise}, r"predict .*test_crossval.predict there"),
    ],
)
def test_finished_folds_of_other_settings_are_refused(tmp_path, change, told):
    run(tmp_path)
    with pytest.raises(CrossvalError, match=rf"fold-01: finished with other settings or data .*{told}.*do not resume"):
        run(tmp_path, **change)
    assert set(fits(tmp_path).values()) == {1}


def fit_diverging_in_second(family, config, recipe, examples, out):
    return None if out.name == "fold-02" else fit(family, config, recipe, examples, out)


def predict_nan(fitted, examples):
    return np.full((len(examples), 3), np.nan, np.float32) if fitted is None else predict(fitted, examples)


def test_a_fold_that_diverges_keeps_the_others(tmp_path):
    with pytest.raises(
        CrossvalError, match=r"1 of 4 folds failed, the first is 02 \(.*not finite.*diverged.*error.txt"
    ):
        run(tmp_path, fit=fit_diverging_in_second, predict=predict_nan)
    kept = sorted(path.parent.name for path in tmp_path.glob("fold-*/fold.json"))
    assert kept == ["fold-01", "fold-03", "fold-04"]
    assert "diverged" in (tmp_path / "fold-02" / "error.txt").read_text()
    assert not (tmp_path / "result.json").exists()


def fit_raising(family, config, recipe, examples, out):
    raise FloatingPointError("loss is nan\nin epoch 3")


def test_an_error_is_told_in_one_line(tmp_path):
    with pytest.raises(
        CrossvalError, match=r"4 of 4 folds failed, the first is 01 \(loss is nan in epoch 3\)"
    ) as caught:
        run(tmp_path, fit=fit_raising)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda fitted, examples: np.ones((len(examples), 2), np.float32) / 2, r"gave \(12, 2\), expected \(12, 3\)"),
        (lambda fitted, examples: np.ones((len(examples), 3), np.float32), "not probabilities"),
    ],
)
def test_predictions_are_checked(tmp_path, wrong, message):
    with pytest.raises(CrossvalError, match=message):
        run(tmp_path, predict=wrong)


def test_a_fold_can_be_sent_to_another_process(tmp_path):
    examples = made()
    fold = folds(examples, parse_protocol("kfold:4"))[0]
    runner = FoldRunner("cspp", CONFIG, RECIPE, examples, None, {}, tmp_path, fit, predict)
    runner, job = pickle.loads(pickle.dumps((runner, FoldJob(fold, "key"))))
    outcome = runner(job)
    assert outcome.error == ""
    assert pickle.loads(pickle.dumps(outcome)).probabilities.shape == (12, 3)


def pooled(function, jobs):
    """Two threads, and the folds come back in reverse."""
    with ThreadPoolExecutor(2) as pool:
        return reversed(list(pool.map(function, jobs)))


def elsewhere(function, jobs):
    """A machine with a disk of its own: only what is returned comes back."""
    far = replace(function, out=function.out.with_name("far"))
    return [far(job) for job in jobs]


@pytest.mark.parametrize("map_folds", [pooled, elsewhere])
def test_folds_can_be_spread(tmp_path, map_folds):
    here = run(tmp_path / "here")
    spread = run(tmp_path / "spread", map_folds=map_folds)
    assert spread.figures == here.figures
    assert len(list((tmp_path / "spread").glob("fold-*/fold.json"))) == 4
    run(tmp_path / "spread", fit=fit)  # all folds are there to be taken over
    expected = {} if map_folds is elsewhere else dict.fromkeys(("fold-01", "fold-02", "fold-03", "fold-04"), 1)
    assert fits(tmp_path / "spread") == expected


def test_a_leak_is_refused_or_counted(tmp_path):
    examples = made()
    face = examples.arrays["face"].copy()
    face[-1] = face[0]
    leaking = replace(examples, arrays={"face": face})
    with pytest.raises(LeakError, match="pairs of the same picture on both sides"):
        run(tmp_path, leaking, "loso")
    assert fits(tmp_path) == {}
    result = run(tmp_path, leaking, "loso", leak_policy="list")
    # The copy is found from either side.
    assert [fold.leaks for fold in result.folds] == [1, 0, 0, 0, 0, 0, 0, 1]


def test_every_fold_is_tested_on_the_whole_other_corpus(tmp_path):
    others = made(subjects=5, each=3, corpus="other", copies=1)
    result = run(tmp_path, test_on=others)
    assert (result.corpus, result.test_on) == ("made", "other")
    assert [fold.test for fold in result.folds] == [15] * 4
    assert result.figures["count"] == 60
    assert result.figures["fold_mean"] == pytest.approx(np.mean([fold.accuracy for fold in result.folds]))
    # A person is one cluster, however many folds have predicted them.
    assert result.figures["resampled"] == "subjects"
    low, high = result.figures["interval"]
    assert low < result.figures["accuracy"] < high


def test_all_of_one_corpus_for_another(tmp_path):
    result = run(tmp_path, protocol="all", test_on=made(subjects=5, corpus="other"))
    assert [(fold.name, fold.train, fold.test) for fold in result.folds] == [("all", 48, 30)]
    with pytest.raises(CrossvalError, match="protocol all keeps nothing to test on"):
        run(tmp_path, protocol="all")


def test_labels_in_common(tmp_path):
    others = made(subjects=5, corpus="other", names=("happy", "sad", "angry", "fear"))
    with pytest.raises(ProtocolError, match="fear only in other.*say common"):
        run(tmp_path, test_on=others)
    result = run(tmp_path, test_on=others, common=True)
    assert result.names == ("angry", "happy", "sad")
    assert {fold.test for fold in result.folds} == {int((others.labels < 3).sum())}


def test_segments_of_a_video_count_once(tmp_path):
    """Families with a stride see segments; those without see stills, which count one by one."""
    examples = made(frames=3)
    stills = run(tmp_path / "stills", examples)
    family = FAMILIES["two_stream"]
    videos = run(tmp_path / "videos", examples, family=family, config=family.config(classes=3))
    assert (stills.averaged, stills.figures["count"]) == (False, 144)
    assert (videos.averaged, videos.figures["count"]) == (True, 48)
    assert [(fold.test, fold.predictions) for fold in videos.folds] == [(36, 12)] * 4
    assert videos.figures["accuracy"] >= stills.figures["accuracy"]


def test_classes_must_fit(tmp_path):
    with pytest.raises(CrossvalError, match=r"cspp has 7 classes, made 3 labels .*set classes to 3"):
        run(tmp_path, config=FAMILY.config())


def test_the_digest_sees_everything():
    examples = made()
    changed = [
        another(examples),
        replace(examples, labels=examples.labels[::-1].copy()),
        replace(examples, subjects=("x", *examples.subjects[1:])),
        replace(examples, sequences=("x", *examples.sequences[1:])),
        replace(examples, originals=np.r_[False, examples.originals[1:]]),
        replace(examples, corpus="x"),
        replace(examples, arrays={"clip": examples.arrays["face"]}),
    ]
    assert digest(examples) == digest(made())
    assert len({digest(each) for each in (examples, *changed)}) == len(changed) + 1
