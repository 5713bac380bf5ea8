"""Every family learns: on a small synthetic corpus whose classes are separable, each beats 90 % on what it never saw.

The networks are narrow and the pictures small, so that it takes seconds; everything else is as in a real run.
"""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from train import loop
from train.examples import Examples
from train.models import FAMILIES
from train.recipe import Recipe
from train.stages import predict

ADAM = Recipe(optimizer="adam", learning_rate=2e-3, batch=16, epochs=12, held_out=0.15)


def moving(count, side, frames, seed, classes=3, colour=True):
    """Clips of a bright square that moves right, down, or up-left, and their flow images; (N, T, H, W[, 3]) uint8.

    One picture of a clip says nothing about its class: where the square starts is random. The colour says it too, so
    that networks of single frames can learn as well.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    steps = np.array([[side / 16, 0], [0, side / 16], [-side / 16, -side / 16]])
    clips = rng.integers(0, 60, (count, frames, side, side, 3))
    flows = np.full((count, frames, side, side, 3), 128)
    size = side // 4
    for clip, flow, label in zip(clips, flows, labels, strict=True):
        start = rng.uniform(0.35 * side, 0.45 * side, 2)
        for time in range(frames):
            x, y = (start + steps[label] * (time - frames / 2)).astype(int)
            place = np.s_[max(0, y) : y + size, max(0, x) : x + size]
            clip[time][place] += 60
            clip[time][(*place, int(label))] += 120
            motion = 16 * np.array([*steps[label], np.hypot(*steps[label])])
            flow[time][place] = (128 + motion).clip(0, 255)
    clips = clips.clip(0, 255).astype(np.uint8)
    return clips if colour else clips.mean(-1).astype(np.uint8), flows.clip(0, 255).astype(np.uint8), labels


def examples(arrays, labels, people=10):
    count = len(labels)
    return Examples(
        corpus="toy",
        names=("right", "down", "back")[: labels.max() + 1],
        arrays=arrays,
        labels=labels.astype(np.int64),
        subjects=tuple(f"S{i // 3 % people}" for i in range(count)),
        sequences=tuple(f"q{i}" for i in range(count)),
        splits=(None,) * count,
        originals=np.ones(count, bool),
    )


def score(family, config, recipe, learn, test, out, **settings):
    """Accuracy on the test part, and the run's history."""
    entries = []
    family = FAMILIES[family]
    best = loop.train(family, config, recipe, learn, out, loop.Settings(progress=False, **settings), entries.append)
    logits = predict(best.network(), test, family.inputs(config))
    return (logits.argmax(1) == test.labels).mean(), entries


def clips(count, side, frames, seed, colour=True, flows=True):
    pixels, motion, labels = moving(count, side, frames, seed, colour=colour)
    return examples({"clip": pixels} | ({"flow": motion} if flows else {}), labels)


def test_conv_lstm(tmp_path):
    from train.models.conv_lstm import Config

    learn, test = (clips(n, 16, 8, seed, colour=False, flows=False) for seed, n in enumerate((96, 48)))
    config = Config(classes=3, side=16, filters=4, units=4)
    accuracy, _ = score("conv_lstm", config, replace(ADAM, epochs=15, learning_rate=5e-3), learn, test, tmp_path)
    assert accuracy > 0.9


def test_conv_lstm_with_two_paths(tmp_path):
    from train.models.conv_lstm import Config

    learn, test = (clips(n, 16, 8, seed, colour=False, flows=False) for seed, n in enumerate((96, 48)))
    config = Config(classes=3, side=16, filters=4, units=4, two_path=True)
    accuracy, entries = score("conv_lstm", config, replace(ADAM, epochs=15, learning_rate=5e-3), learn, test, tmp_path)
    assert accuracy > 0.9
    assert list(dict.fromkeys(entry["stage"] for entry in entries)) == ["face", "supervised"]


STREAM = replace(ADAM, learning_rate=1e-3, epochs=20, second_epochs=20)


def test_two_stream(tmp_path):
    from train.models.two_stream import Config

    learn, test = (clips(n, 64, 2, seed) for seed, n in enumerate((96, 30)))
    config = Config(classes=3, mode="dbn", depth=3, frames=2, width=1 / 16, dropout=0.1)
    accuracy, entries = score("two_stream", config, STREAM, learn, test, tmp_path)
    assert accuracy > 0.9
    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    assert stages == ["spatial", "temporal", "contrastive-1", "contrastive-2", "contrastive-3", "fine-tune", "svm"]
    for layer in (1, 2, 3):
        errors = [entry["loss"] for entry in entries if entry["stage"] == f"contrastive-{layer}"]
        assert errors[-1] < 0.9 * errors[0], f"reconstruction error of layer {layer}: {errors}"


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "spatial"},
        {"mode": "temporal"},
        {"mode": "score"},
        {"depth": 1},
        {"depth": 2},
        {"classifier": "softmax"},
    ],
    ids=str,
)
def test_two_stream_ablations_run(changes, tmp_path):
    from train.models.two_stream import Config

    learn = clips(18, 64, 2, 0)
    config = replace(Config(classes=3, frames=2, width=1 / 64), **changes)
    accuracy, entries = score("two_stream", config, replace(STREAM, epochs=1, second_epochs=1), learn, learn, tmp_path)
    assert 0 <= accuracy <= 1
    assert ("svm" in {entry["stage"] for entry in entries}) == (config.classifier == "svm" and config.mode != "score")


def test_emotional_vlan(tmp_path):
    from train.models.emotional_vlan import Config

    learn, test = (clips(n, 64, 2, seed) for seed, n in enumerate((96, 30)))
    config = Config(classes=3, length=3, width=1 / 8, dropout=0.1)
    accuracy, _ = score("emotional_vlan", config, STREAM, learn, test, tmp_path)
    assert accuracy > 0.9


@pytest.mark.parametrize(
    "changes",
    [
        {"streams": "spatial"},
        {"streams": "temporal"},
        {"layer": "fc6"},
        {"aggregation": "fixed"},
        {"keep": "frames"},
        {"keep": "streams"},
        {"shared": False},
    ],
    ids=str,
)
def test_emotional_vlan_ablations_run(changes, tmp_path):
    from train.models.emotional_vlan import Config

    learn = clips(18, 64, 2, 0)
    config = replace(Config(classes=3, length=3, width=1 / 64), **changes)
    accuracy, _ = score("emotional_vlan", config, replace(STREAM, epochs=1), learn, learn, tmp_path)
    assert 0 <= accuracy <= 1


def stills(count, seed, side=224):
    pixels, _, labels = moving(count, side, 1, seed)
    return examples({"face": pixels[:, 0]}, labels)


def test_dam_cnn(tmp_path):
    from train.models.dam_cnn import Config

    learn, test = stills(60, 0), stills(24, 1)
    config = Config(classes=3, decoders=2, width=1 / 32, dropout=0.1)
    recipe = replace(STREAM, learning_rate=1e-3, second_rate=1e-3)
    accuracy, entries = score("dam_cnn", config, recipe, learn, test, tmp_path)
    assert accuracy > 0.9
    assert list(dict.fromkeys(entry["stage"] for entry in entries)) == ["serd", "multi-path"]


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "vgg_face"},
        {"variant": "vgg_serd"},
        {"variant": "vgg_serd", "gamma1": 0.0},
        {"variant": "vgg_serd", "gamma2": 0.0},
        {"decoders": 3},
        {"decoders": 5},
    ],
    ids=str,
)
def test_dam_cnn_ablations_run(changes, tmp_path):
    from train.models.dam_cnn import Config

    learn = stills(12, 0)
    config = replace(Config(classes=3, decoders=2, width=1 / 128), **changes)
    accuracy, _ = score("dam_cnn", config, replace(STREAM, epochs=1, second_epochs=1, batch=4), learn, learn, tmp_path)
    assert 0 <= accuracy <= 1


def test_named_variations_choose_the_decoders_targets(tmp_path):
    from train.models.dam_cnn import Config

    learn = stills(24, 0)
    learn = replace(learn, variations=tuple("fm"[i // 3 % 2] for i in range(24)))
    config = Config(classes=3, decoders=2, width=1 / 128)
    recipe = replace(STREAM, epochs=1, second_epochs=1, batch=4, held_out=0.0)
    assert score("dam_cnn", config, recipe, learn, learn, tmp_path)[1]
    lonely = replace(learn, variations=("f",) * 23 + ("m",))
    with pytest.raises(ValueError, match="has no sample of variation 1"):
        score("dam_cnn", config, recipe, lonely, lonely, tmp_path / "lonely")


def test_a_run_of_several_stages_resumes(tmp_path):
    from train.models.two_stream import Config

    learn = clips(18, 64, 2, 0)
    config, recipe = Config(classes=3, depth=1, frames=2, width=1 / 64), replace(STREAM, epochs=2, second_epochs=2)
    family = FAMILIES["two_stream"]
    straight = loop.train(family, config, recipe, learn, tmp_path / "straight", loop.Settings(progress=False))

    class Stop(Exception):
        pass

    for stop_at in (("temporal", 1), ("contrastive-1", 1), ("fine-tune", 2)):

        def stop(entry, stop_at=stop_at):
            if (entry["stage"], entry["epoch"]) == stop_at:
                raise Stop

        settings = loop.Settings(progress=False, resume=True)
        with pytest.raises(Stop):
            loop.train(family, config, recipe, learn, tmp_path / "broken", settings, stop)
    resumed = loop.train(family, config, recipe, learn, tmp_path / "broken", settings)
    for name, weights in straight.weights.items():
        assert torch.equal(weights, resumed.weights[name]), name


def test_a_trunk_where_there_is_none(tmp_path):
    from train.models.conv_lstm import Config

    learn = clips(18, 16, 8, 0, colour=False, flows=False)
    with pytest.raises(loop.EdgeError, match="conv_lstm has no trunk that published weights fit; leave --trunk out"):
        score("conv_lstm", Config(classes=3, side=16), ADAM, learn, learn, tmp_path, trunk=tmp_path / "x.pt")
