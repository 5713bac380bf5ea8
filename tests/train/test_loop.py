"""The loop learns, resumes to the same weights, and stops with a clear word."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge.bundle import Normalisation
from edge.preprocess import normalise
from train import batches, checkpoint, loop, metrics, stages
from train.__main__ import main
from train.augment import augment, mix
from train.datasets import PICTURES, CorpusError
from train.examples import faces as face_examples
from train.examples import joined
from train.models import FAMILIES, cspp
from train.recipe import Recipe

QUICK = Recipe(
    optimizer="adamw", learning_rate=0.002, batch=32, epochs=2, held_out=0.2, average=0.8, shift=0.04, erase=0.2
)
SMALL = cspp.Config(variant="baseline", hidden=16, batch_norm=True)


def run(corpus, out, recipe=QUICK, report=None, **settings):
    examples = PICTURES["fer2013"](corpus, "train")
    return loop.train(FAMILIES["cspp"], SMALL, recipe, examples, out, loop.Settings(**settings), report)


def test_it_learns(toy_corpus, tmp_path, capsys):
    arguments = ["cspp", "--data", str(toy_corpus), "--out", str(tmp_path), "--recipe", "fer2013", "--epochs", "4"]
    arguments += ["--batch", "32", "--batch-norm", "--variant", "plain7", "--no-mirror", "--learning-rate", "0.002"]
    arguments += ["--average", "0.8", "--held-out", "0.2", "--rotation", "0", "--shift", "0.03", "--scale", "0.05"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    accuracy = float(out.split("test part: 140 examples, accuracy ")[1].split(",")[0])
    assert accuracy > 0.9
    stored = checkpoint.load(tmp_path / "best.pt")
    assert (stored.family, stored.corpus, stored.stage) == ("cspp", "fer2013", "supervised")
    assert stored.config["variant"] == "plain7"
    assert stored.temperature > 0
    assert 0 < stored.abstain_below <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU for this torch")
def test_it_learns_on_a_gpu(toy_corpus, tmp_path):
    """All that is drawn there is another draw, so what comes out is compared by what it can do."""
    recipe = replace(
        QUICK, epochs=30, learning_rate=0.004, mixup=0.2, rotation=5.0, blur=0.5, noise=3.0, mirror=True, gamma=0.2
    )
    made = run(toy_corpus, tmp_path, recipe, accelerator="cuda", precision="auto")
    assert made.held_out["accuracy"] > 0.6
    assert {value.device.type for value in made.weights.values()} == {"cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU for this torch")
def test_a_recorded_step_is_the_same_step(toy_corpus, tmp_path):
    """Launched whole it learns what it learns kernel by kernel, but for the order of sums."""
    recipe = replace(QUICK, epochs=3, mixup=0.2, average=0.0, optimizer="sgd", learning_rate=0.02)
    still = replace(SMALL, dropout=0.0)
    examples = PICTURES["fer2013"](toy_corpus, "train")
    losses = []
    for record in (False, True):
        settings = loop.Settings(accelerator="cuda", record=record)
        loop.train(FAMILIES["cspp"], still, recipe, examples, tmp_path / str(record), settings)
        history = checkpoint.load(tmp_path / str(record) / "last.pt").state["history"]
        losses.append([entry["loss"] for entry in history])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1][2] < losses[1][0]


def test_a_step_is_recorded_on_a_gpu_alone(toy_corpus, tmp_path):
    with pytest.raises(loop.TrainingError, match="1 of cpu; leave --record out"):
        run(toy_corpus, tmp_path, accelerator="cpu", record=True)


def test_it_looks_every_few_epochs_and_at_the_last(toy_corpus, tmp_path):
    recipe = replace(QUICK, epochs=5, every=3)
    run(toy_corpus, tmp_path, recipe)
    stored = checkpoint.load(tmp_path / "last.pt")
    assert [entry["epoch"] for entry in stored.state["history"]] == [1, 2, 3, 4, 5]
    looked = [entry["epoch"] for entry in stored.state["history"] if "held_out_accuracy" in entry]
    assert looked == [3, 5]
    often = run(toy_corpus, tmp_path / "often", replace(recipe, every=1))
    last = [checkpoint.load(folder / "last.pt").weights for folder in (tmp_path, tmp_path / "often")]
    assert all(torch.equal(value, last[1][name]) for name, value in last[0].items()), "looking changes nothing"
    assert often.epoch in (1, 2, 3, 4, 5)
    with pytest.raises(loop.TrainingError, match="every 0"):
        run(toy_corpus, tmp_path / "none", replace(recipe, every=0))


def test_a_resumed_run_ends_with_the_same_weights(toy_corpus, tmp_path):
    straight = run(toy_corpus, tmp_path / "straight")

    class Stop(Exception):
        pass

    def stop(figures):
        raise Stop

    with pytest.raises(Stop):
        run(toy_corpus, tmp_path / "broken", report=stop)
    assert checkpoint.load(tmp_path / "broken" / "last.pt").epoch == 1
    resumed = run(toy_corpus, tmp_path / "broken", resume=True)
    last = [checkpoint.load(tmp_path / name / "last.pt") for name in ("straight", "broken")]
    for name, weights in last[0].weights.items():
        assert torch.equal(weights, last[1].weights[name]), name
    assert last[0].state["history"] == last[1].state["history"]
    assert straight.held_out == resumed.held_out


def test_seeds_matter(toy_corpus, tmp_path):
    one = run(toy_corpus, tmp_path / "a", replace(QUICK, epochs=1))
    two = run(toy_corpus, tmp_path / "b", replace(QUICK, epochs=1))
    other = run(toy_corpus, tmp_path / "c", replace(QUICK, epochs=1, seed=1))
    name = "logits.weight"
    assert torch.equal(one.weights[name], two.weights[name])
    assert not torch.equal(one.weights[name], other.weights[name])


def test_resuming_another_runs_checkpoint_is_refused(toy_corpus, tmp_path):
    run(toy_corpus, tmp_path, replace(QUICK, epochs=1))
    with pytest.raises(loop.TrainingError, match="trained with other settings; give the same ones, or another --out"):
        run(toy_corpus, tmp_path, QUICK, resume=True)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(toy_corpus, tmp_path):
    run(toy_corpus, tmp_path, replace(QUICK, epochs=1))
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(
        loop.TrainingError, match=r"loss is (nan|inf) in epoch 1 of supervised; the last good checkpoint is .*last\.pt"
    ):
        run(toy_corpus, tmp_path, replace(QUICK, optimizer="sgd", learning_rate=1e30))
    assert (tmp_path / "last.pt").read_bytes() == before


def test_near_identical_pictures_stay_on_one_side():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (60, 48, 48), dtype=np.uint8)
    pixels, labels = np.repeat(base, 3, axis=0), np.repeat(np.arange(60) % 2, 3).astype(np.int64)
    examples = face_examples("toy", "train", ("a", "b"), pixels, labels)
    learn, held_out = loop.split(examples, replace(QUICK, held_out=0.2))
    assert len(learn) + len(held_out) == 180
    assert 20 < len(held_out) < 60
    sides = [{picture.tobytes() for picture in part.arrays["face"]} for part in (learn, held_out)]
    assert not sides[0] & sides[1]


def test_subjects_and_sequences_stay_on_one_side():
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (90, 48, 48), dtype=np.uint8), (np.arange(90) % 3).astype(np.int64)
    examples = replace(
        face_examples("toy", "train", ("a", "b", "c"), pixels, labels),
        subjects=tuple(f"S{i // 9}" for i in range(90)),
        originals=np.arange(90) % 2 == 0,
    )
    learn, held_out = loop.split(examples, replace(QUICK, held_out=0.2))
    assert not set(learn.subjects) & set(held_out.subjects)
    assert len(held_out)
    assert held_out.originals.all(), "copies are learnt from, never held out"
    alone = examples.subset(np.flatnonzero(examples.originals))
    assert loop.split(alone, replace(QUICK, held_out=0.2))[1].sequences == held_out.sequences, "nor do they choose it"
    chained = replace(examples, subjects=(None,) * 90, sequences=tuple(f"q{i // 30}" for i in range(90)))
    assert len(set(loop.related(chained).tolist())) == 3
    nothing = loop.split(examples, replace(QUICK, held_out=0.0))
    assert [len(part) for part in nothing] == [90, 0]


def test_bf16_is_chosen_where_the_processor_computes_in_it():
    flags = Path("/proc/cpuinfo").read_text().split()
    wanted = "bf16-mixed" if {"avx512_bf16", "amx_tile"} & set(flags) else "32-true"
    assert loop.fastest(loop.Settings(precision="auto", accelerator="cpu")) == wanted
    assert loop.fastest(loop.Settings(precision="bf16-mixed", accelerator="cpu")) == "bf16-mixed"


def test_a_blur_is_a_gaussian_of_the_pictures_own_width():
    import cv2

    point = torch.zeros(64, 1, 1, 25, 25)
    point[:, :, :, 12, 12] = 255.0
    blurred = augment({"face": point}, Recipe(blur=1.5), torch.Generator().manual_seed(0))["face"][:, 0, 0].numpy()
    peaks = blurred[:, 12, 12]
    assert len({round(float(peak), 3) for peak in peaks}) > 20, "each has a strength of its own"
    picture = blurred[peaks.argmin()]
    assert picture.sum() == pytest.approx(255.0, rel=1e-4)
    across = picture[12] / picture[12].sum()
    sigma = float(np.sqrt((across * (np.arange(25) - 12) ** 2).sum()))
    assert 1.0 < sigma <= 1.5
    wanted = cv2.GaussianBlur(point[0, 0, 0].numpy(), (11, 11), sigma)
    assert np.abs(picture - wanted).max() < 0.5


def test_batches_are_what_edge_would_feed(toy_corpus):
    from edge.preprocess import to_tensor

    examples = PICTURES["fer2013"](toy_corpus, "train")
    (spec,) = FAMILIES["cspp"].inputs(SMALL)
    chosen = np.array([3, 17, 349])
    faces = batches.tensors(examples, chosen, (spec,))["face"]
    for place, face in zip(chosen, faces, strict=True):
        assert torch.equal(face, torch.from_numpy(to_tensor(examples.arrays["face"][place], spec))[0])
    order = batches.epoch_order(350, 32, seed=1)
    assert [len(batch) for batch in order] == [32] * 10
    assert len(set(torch.cat(order).tolist())) == 320


def test_an_epoch_draws_one_of_each_picture_and_its_copies():
    groups = np.concatenate([np.arange(400), np.arange(0, 400, 2), np.arange(0, 400, 2)])
    orders = [torch.cat(batches.epoch_order(len(groups), 20, seed, groups)).numpy() for seed in range(30)]
    for order in orders:
        assert sorted(groups[order]) == list(range(400))
    assert np.mean([(order >= 400).sum() for order in orders]) == pytest.approx(200 * 2 / 3, abs=10), "each as often"
    early = np.mean([(groups[order[:100]] % 2 == 0).sum() for order in orders])
    assert early == pytest.approx(50, abs=5), "and those with copies no earlier than the others"


def test_a_run_draws_one_of_each_sequence_where_its_recipe_says_so(toy_corpus):
    examples = PICTURES["fer2013"](toy_corpus, "train")
    twice = joined(examples, replace(examples, originals=np.zeros(len(examples), bool)))
    for one_each, drawn in ((False, 2 * len(examples)), (True, len(examples))):
        recipe = replace(QUICK, batch=1, one_each=one_each)
        work = stages.Work(FAMILIES["cspp"], SMALL, recipe, twice, twice, FAMILIES["cspp"].build(SMALL))
        (stage,) = stages.plan(work)
        assert len(batches.epoch_order(stage.count, 1, 0, stage.groups)) == drawn


def test_temperature_is_fitted_on_held_out_copies_too(toy_corpus, tmp_path):
    """Here copies that say nothing; the figures are the corpus' own pictures' alone."""
    examples = PICTURES["fer2013"](toy_corpus, "train")
    _, held_out = loop.split(examples, QUICK)
    noise = np.random.default_rng(0).integers(0, 256, examples.arrays["face"].shape, dtype=np.uint8)
    held = np.isin(examples.sequences, held_out.sequences)[:, None, None]
    pixels = np.where(held, noise, examples.arrays["face"])
    copies = replace(examples, arrays={"face": pixels}, originals=np.zeros(len(examples), bool))
    twice = joined(joined(examples, copies), copies)
    chosen = loop.copies_of(held_out, twice)
    assert chosen.sequences == tuple(name for name in examples.sequences if name in held_out.sequences)
    assert not chosen.originals.any()
    made = loop.train(FAMILIES["cspp"], SMALL, replace(QUICK, one_each=True), joined(examples, copies), tmp_path)
    logits = [stages.predict(made.network(), one, made.inputs) for one in (held_out, chosen)]
    alone = metrics.fit_temperature(logits[0], held_out.labels)
    both = metrics.fit_temperature(np.concatenate(logits), np.concatenate([held_out.labels, chosen.labels]))
    assert made.temperature == pytest.approx(both, rel=1e-3)
    assert abs(both - alone) > 0.05 * alone
    assert made.held_out["count"] == len(held_out)
    assert made.held_out["accuracy"] == pytest.approx((logits[0].argmax(1) == held_out.labels).mean())


def test_augmentations_stay_in_range_and_off_means_off():
    pixels = {"face": 255 * torch.rand(16, 1, 1, 48, 48)}
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(augment(pixels, Recipe(), generator)["face"], pixels["face"])
    everything = Recipe(rotation=20, scale=0.2, shift=0.1, mirror=True, gamma=0.5, erase=1.0)
    changed = augment(pixels, everything, generator)["face"]
    assert changed.shape == pixels["face"].shape
    assert 0 <= changed.min() <= changed.max() <= 255.01
    blurred = augment(pixels, Recipe(blur=1.5), torch.Generator().manual_seed(1))["face"]
    noisy = augment(pixels, Recipe(noise=10.0), torch.Generator().manual_seed(1))["face"]
    assert noisy.min() >= 0
    assert noisy.max() <= 255
    for other in (blurred, noisy):
        same = torch.isclose(other, pixels["face"], atol=0.05).flatten(1).all(1)
        assert 0 < same.sum() < len(same), "half of the pictures stay as they are"
    mirrored = augment(pixels, Recipe(mirror=True), torch.Generator().manual_seed(1))["face"]
    pairs = list(zip(mirrored, pixels["face"], strict=True))
    flipped = sum(torch.allclose(m, p.flip(-1), atol=1e-2) for m, p in pairs)
    assert flipped + sum(torch.allclose(m, p, atol=1e-2) for m, p in pairs) == 16
    assert 3 < flipped < 13


def test_all_changes_stay_on_the_pixels_device():
    """Nothing is computed on ``meta``, but what mixes two devices fails there as it would on a GPU."""

    class Elsewhere:
        device = torch.device("meta")

    def drawn(draw):
        return lambda *shape, generator, device: draw(*shape, device=device)

    pixels = {"face": torch.empty(4, 1, 1, 48, 48, device="meta"), "flow": torch.empty(4, 2, 3, 8, 8, device="meta")}
    everything = Recipe(rotation=20, scale=0.2, shift=0.1, mirror=True, gamma=0.5, erase=1.0, blur=1.0, noise=5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", drawn(torch.rand))
        patch.setattr(torch, "randn", drawn(torch.randn))
        changed = augment(pixels, everything, Elsewhere(), motion=["flow"])
    assert {name: (value.shape, value.device.type) for name, value in changed.items()} == {
        name: (value.shape, "meta") for name, value in pixels.items()
    }
    mixed, labels = mix(changed, torch.empty(4, 7, device="meta"), 0.4, torch.Generator().manual_seed(0))
    assert {value.device.type for value in (*mixed.values(), labels)} == {"meta"}


@pytest.mark.parametrize(
    "how",
    [
        Normalisation("per_image", min_std=8.0),
        Normalisation("fixed", mean=(120.0, 110.0, 90.0), std=(50.0, 60.0, 70.0)),
    ],
    ids=lambda how: how.kind,
)
def test_a_gpu_normalises_as_the_robot_does(how):
    pixels = torch.randint(0, 256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    pixels[1] = 7.0
    pixels[2] = pixels[2] / 64 + 100
    wanted = normalise(pixels.numpy(), how)
    assert batches.normalised(pixels, how).numpy() == pytest.approx(wanted, abs=0)
    assert batches._on_device(pixels, how).numpy() == pytest.approx(wanted, abs=1e-5)


def test_the_held_out_slice_has_a_seed_of_its_own(toy_corpus):
    examples = PICTURES["fer2013"](toy_corpus, "train")

    def held_out(**changed):
        return loop.split(examples, replace(QUICK, **changed))[1].sequences

    assert held_out(seed=1) == held_out()
    assert held_out(held_out_seed=1) != held_out()


def test_mixing_mixes_inputs_and_labels_alike():
    """Mixup, Zhang et al. 2018, equation 1: one share for both, and for all inputs of an example."""
    count = 64
    labels = torch.eye(count)
    given = {"face": labels.reshape(count, 1, 8, 8).clone(), "frames": labels.reshape(count, 2, 1, 4, 8).clone()}
    mixed, mixed_labels = mix(given, labels, 0.4, torch.Generator().manual_seed(1))
    for name in given:
        assert torch.allclose(mixed[name].flatten(1), mixed_labels)
    assert torch.allclose(mixed_labels.sum(1), torch.ones(count))
    shares = mixed_labels.max(1).values
    assert shares.min() < 0.7, "some are mixed well"
    assert (shares > 0.99).any(), "some hardly"
    again, _ = mix(given, labels, 0.4, torch.Generator().manual_seed(1))
    assert torch.equal(again["face"], mixed["face"])
    other, _ = mix(given, labels, 0.4, torch.Generator().manual_seed(2))
    assert not torch.equal(other["face"], mixed["face"])


def test_a_stage_mixes_where_its_loss_is_cross_entropy(toy_corpus):
    """What is mixed by half costs least where both labels are named alike."""
    examples = PICTURES["fer2013"](toy_corpus, "train")
    network = FAMILIES["cspp"].build(SMALL).eval()
    recipe = replace(QUICK, mixup=0.4)
    work = stages.Work(FAMILIES["cspp"], SMALL, recipe, examples, examples, network)
    (stage,) = stages.plan(work)
    given, labels = stage.batch(torch.arange(32), torch.Generator().manual_seed(0))
    assert labels.shape == (32, len(examples.names))
    assert torch.allclose(labels.sum(1), torch.ones(32))
    loss = stage.loss(given, labels)
    logits = network(**given)
    by_hand = -(labels * torch.log_softmax(logits, 1)).sum(1).mean()
    assert float(loss) == pytest.approx(float(by_hand), rel=1e-5)
    own = stages.Supervised(work, "own", network, loss=lambda face, labels: face.sum())
    assert own.batch(torch.arange(32), torch.Generator().manual_seed(0))[1].dtype == torch.int64


def test_a_clip_changes_as_one_and_its_motion_is_mirrored_with_it():
    frame = 255 * torch.rand(8, 1, 3, 40, 40)
    flow = torch.full((8, 4, 3, 40, 40), 128.0)
    flow[:, :, 0, :, :20] = 160.0  # the left half moves two pixels to the right
    pixels = {"clip": frame.expand(8, 4, 3, 40, 40).clone(), "flow": flow}
    recipe = Recipe(rotation=15, shift=0.1, mirror=True, gamma=0.3)
    done = augment(pixels, recipe, torch.Generator().manual_seed(0), motion=["flow"])
    for time in range(1, 4):
        assert torch.equal(done["clip"][:, time], done["clip"][:, 0])
    left, right = done["flow"][:, 0, 0, 0, 0], done["flow"][:, 0, 0, 0, -1]
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == {(160.0, 128.0), (128.0, 96.0)}


def test_bad_corpora(tmp_path, toy_corpus, capsys):
    def refused(*arguments):
        assert main([*map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    assert "expected FER2013's train.npz there (--data FOLDER)" in refused("cspp", "--data", tmp_path)
    (tmp_path / "train.npz").write_bytes(b"no archive")
    assert "not FER2013 as npz" in refused("cspp", "--data", tmp_path)
    np.savez(tmp_path / "train.npz", x=np.zeros((0, 48, 48), np.uint8), y=np.zeros(0, np.uint8))
    assert "holds no pictures" in refused("cspp", "--data", tmp_path)
    np.savez(tmp_path / "train.npz", x=np.zeros((9, 48, 48), np.uint8), y=np.full(9, 7, np.uint8))
    assert "label code 7; FER2013 has 0..6, unknown codes are refused" in refused("cspp", "--data", tmp_path)
    np.savez(tmp_path / "train.npz", x=np.zeros((9, 48, 48), np.uint8), y=np.zeros(9, np.uint8))
    assert "0 examples of disgust; expected at least 2 of every class" in refused("cspp", "--data", tmp_path)
    assert "unknown C-SPP variant 'x'" in refused("cspp", "--data", toy_corpus, "--variant", "x")
    assert "unknown optimizer 'lion'" in refused("cspp", "--data", toy_corpus, "--optimizer", "lion")


def test_bad_checkpoints(tmp_path, toy_corpus):
    with pytest.raises(checkpoint.CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt")
    run(toy_corpus, tmp_path, replace(QUICK, epochs=1))
    data = (tmp_path / "best.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(checkpoint.CheckpointError, match="not a whole checkpoint"):
        checkpoint.load(tmp_path / "half.pt")
    whole = torch.load(tmp_path / "best.pt", weights_only=True)
    for change, message in (
        ({"format": 9}, "checkpoint format 9, this version reads 2"),
        ({"family": "resnet"}, "unknown family 'resnet'; known: .*cspp"),
        ({"weights": {}}, "not a whole cspp checkpoint"),
        ({"config": {"depth": 3}}, "not a whole cspp checkpoint"),
    ):
        torch.save({**whole, **change}, tmp_path / "changed.pt")
        with pytest.raises(checkpoint.CheckpointError, match=message):
            checkpoint.load(tmp_path / "changed.pt")


def test_a_run_from_before_a_setting_existed_goes_on(toy_corpus, tmp_path):
    recipe = replace(QUICK, epochs=1)
    run(toy_corpus, tmp_path, recipe)
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    del last["recipe"]["one_each"]
    torch.save(last, tmp_path / "last.pt")
    assert checkpoint.load(tmp_path / "last.pt").recipe == checkpoint.plain(recipe)
    run(toy_corpus, tmp_path, recipe, resume=True)


def test_the_real_corpus(shared):
    pictures = PICTURES["fer2013"](shared / "fer2013", "train")
    assert len(pictures) == 28709
    assert np.bincount(pictures.labels).tolist() == [3995, 436, 4097, 7215, 4830, 3171, 4965]
    assert len(PICTURES["fer2013"](shared / "fer2013", "test")) == 3589
    with pytest.raises(CorpusError):
        PICTURES["fer2013"](shared, "train")
