"""A run that begins with another's weights, or learns another's answers beside the labels."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scipy.special import softmax

from train import checkpoint, loop, stages, teachers
from train.__main__ import main
from train.datasets import PICTURES
from train.models import FAMILIES, cspp
from train.recipe import Recipe

RECIPE = Recipe(optimizer="adamw", learning_rate=0.002, batch=32, epochs=4, held_out=0.2, average=0.8)
SMALL = cspp.Config(variant="plain7", hidden=16, batch_norm=True)
OPTIONS = ["--variant", "plain7", "--hidden", "16", "--batch-norm", "--optimizer", "adamw", "--batch", "32"]
OPTIONS += ["--held-out", "0.2", "--epochs", "1", "--jitter", "0"]


@pytest.fixture(scope="module")
def earlier(toy_corpus, tmp_path_factory):
    """A run of four epochs."""
    out = tmp_path_factory.mktemp("earlier")
    examples = PICTURES["fer2013"](toy_corpus, "train")
    loop.train(FAMILIES["cspp"], SMALL, RECIPE, examples, out, loop.Settings(progress=False))
    return out / "best.pt"


@pytest.fixture(scope="module")
def examples(toy_corpus):
    return PICTURES["fer2013"](toy_corpus, "train")


def test_a_teacher_answers_for_a_face_and_its_mirror_image(earlier, examples):
    examples = examples.subset(np.arange(0, len(examples), 4))
    said = teachers.answers([earlier], examples, RECIPE)
    stored = checkpoint.load(earlier)
    turned = replace(examples, arrays={"face": np.ascontiguousarray(examples.arrays["face"][..., ::-1])})
    views = [stages.predict(stored.network(), view, stored.inputs) / stored.temperature for view in (examples, turned)]
    assert said == pytest.approx((softmax(views[0], 1) + softmax(views[1], 1)) / 2, abs=1e-5)
    assert said.dtype == np.float32
    assert np.abs(views[0] - views[1]).max() > 0.01, "it does not answer alike, so the mean means something"
    assert teachers.answers([earlier, earlier], examples, RECIPE) == pytest.approx(said, abs=1e-6)


def test_answers_stand_beside_the_labels(earlier, examples):
    recipe = replace(RECIPE, distil=0.25)
    network = FAMILIES["cspp"].build(SMALL)
    work = stages.Work(FAMILIES["cspp"], SMALL, recipe, examples, examples, network)
    work.answers = teachers.answers([earlier], examples, recipe)
    (stage,) = stages.plan(work)
    chosen = torch.tensor([5, 0, 9])
    _, shares = stage.batch(chosen, torch.Generator().manual_seed(0))
    wanted = 0.75 * np.eye(len(examples.names))[examples.labels[[5, 0, 9]]] + 0.25 * work.answers[[5, 0, 9]]
    assert shares.numpy() == pytest.approx(wanted, abs=1e-6)


def test_a_run_begins_where_another_ended(earlier, toy_corpus, tmp_path):
    """At a rate of nearly nothing it ends there too; a second run from scratch would not."""
    arguments = ["cspp", "--data", str(toy_corpus), "--out", str(tmp_path), "--start", str(earlier), *OPTIONS]
    assert main([*arguments, "--learning-rate", "1e-9"]) == 0
    before, after = checkpoint.load(earlier), checkpoint.load(tmp_path / "best.pt")
    for name, weights in before.weights.items():
        if name.endswith(("weight", "bias")):
            assert torch.allclose(weights, after.weights[name], atol=1e-5), name


def test_a_student_comes_to_answer_like_its_teacher(earlier, examples, tmp_path):
    """The labels are left out altogether, and its teacher calls every class by the name of the next."""
    turned = checkpoint.load(earlier)
    weights = dict(turned.weights)
    for name in ("logits.weight", "logits.bias"):
        weights[name] = weights[name].roll(1, 0)
    teacher = tmp_path / "turned.pt"
    replace(turned, weights=weights).save(teacher)
    recipe = replace(RECIPE, distil=1.0, epochs=6)
    settings = loop.Settings(progress=False, teachers=(teacher,))
    student = loop.train(FAMILIES["cspp"], SMALL, recipe, examples, tmp_path / "student", settings)
    last = checkpoint.load(tmp_path / "student" / "last.pt")
    said = stages.predict(last.network(), examples, student.inputs).argmax(1)
    taught = teachers.answers([teacher], examples, recipe).argmax(1)
    assert (said == taught).mean() > 0.7
    assert (said == examples.labels).mean() < 0.3


def test_what_can_teach_nothing_is_refused(earlier, toy_corpus, tmp_path, capsys):
    def refused(*arguments):
        command = ["cspp", "--data", toy_corpus, "--out", tmp_path / "out", *OPTIONS, *arguments]
        assert main([str(one) for one in command]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    teach = ("--teacher", earlier, "--distil", "0.5")
    assert "it has learnt from pictures that this run wants to be judged by" in refused(*teach, "--held-out-seed", "1")
    assert "it has learnt from pictures" in refused("--start", earlier, "--held-out", "0.1")
    assert "expected both --teacher and --distil, or neither" in refused("--teacher", earlier)
    assert "expected both --teacher and --distil, or neither" in refused("--distil", "0.5")
    assert "has other layers" in refused("--start", earlier, "--hidden", "8")
    assert "no such checkpoint" in refused("--start", tmp_path / "nothing.pt")
    other = tmp_path / "other.pt"
    replace(checkpoint.load(earlier), labels=("a", "b", "c", "d", "e", "f", "g")).save(other)
    assert "knows a, b, c, d, e, f, g; expected angry" in refused("--teacher", other, "--distil", "0.5")
    assert "matched answers of no teacher" in refused("--matched")
    assert "give --matched, or no --turns" in refused(*teach, "--turns")
    assert not (tmp_path / "out" / "best.pt").exists()


def test_another_seed_of_the_rest_is_no_hindrance(earlier, toy_corpus, tmp_path):
    """Teachers that differ in their draws agree in what they hold out."""
    arguments = ["cspp", "--data", str(toy_corpus), "--out", str(tmp_path), *OPTIONS, "--seed", "3"]
    assert main([*arguments, "--teacher", str(earlier), "--distil", "0.5"]) == 0
    first, other = (checkpoint.load(path) for path in (earlier, tmp_path / "best.pt"))
    assert first.held_out["count"] == other.held_out["count"]
    assert (first.recipe["seed"], other.recipe["seed"]) == (0, 3)


def test_a_seed_that_drew_the_held_out_slice_is_remembered(earlier, tmp_path):
    """Before the slice had a seed of its own, it was drawn by the run's."""
    stored = checkpoint.load(earlier)
    recipe = {name: value for name, value in stored.recipe.items() if name != "held_out_seed"}
    replace(stored, recipe={**recipe, "seed": 5}).save(tmp_path / "old.pt")
    assert checkpoint.load(tmp_path / "old.pt").recipe["held_out_seed"] == 5


def test_a_network_option_that_is_younger_than_a_checkpoint_is_its_default(earlier, tmp_path):
    stored = checkpoint.load(earlier)
    config = {name: value for name, value in stored.config.items() if name != "width"}
    replace(stored, config=config).save(tmp_path / "old.pt")
    assert checkpoint.load(tmp_path / "old.pt").config == stored.config


def matched(earlier, examples, **changed):
    """The only stage of a run whose teacher is asked of each batch."""
    recipe = replace(RECIPE, distil=0.25, matched=True, **changed)
    torch.manual_seed(0)
    network = FAMILIES["cspp"].build(SMALL).eval()
    work = stages.Work(FAMILIES["cspp"], SMALL, recipe, examples, examples, network)
    work.ask = teachers.panel([earlier], examples, work.specs, recipe)
    (stage,) = stages.plan(work)
    return work, stage


def test_a_panel_answers_to_what_the_network_is_shown(earlier, examples):
    """Moved and mixed as it is, by hand: cross-entropy against a quarter of the answer and the rest of the label."""
    work, stage = matched(earlier, examples, mixup=0.4, rotation=20.0)
    given, shares, asked = stage.batch(torch.arange(32), torch.Generator().manual_seed(0))
    assert torch.equal(given["face"], asked["face"])
    stored = checkpoint.load(earlier)
    with torch.no_grad():
        said = torch.softmax(stored.network()(**given) / stored.temperature, 1)
        plain = torch.softmax(
            torch.from_numpy(stages.predict(stored.network(), examples, stored.inputs)[:32]) / stored.temperature, 1
        )
        logits = torch.log_softmax(work.network(**given), 1)
    assert torch.allclose(work.ask(given), said, atol=1e-5)
    assert (said - plain).abs().max() > 0.1, "it does not say what it says of the clean picture"
    by_hand = -((0.75 * shares + 0.25 * said) * logits).sum(1).mean()
    assert float(stage.loss(given, shares, asked).detach()) == pytest.approx(float(by_hand), rel=1e-5)


def test_a_panel_sees_better_than_its_pupil(earlier, examples):
    """The same pictures, moved alike, before they are blurred, noisy and covered; then mixed alike."""
    _, stage = matched(earlier, examples, rotation=20.0)
    _, _, asked = stage.batch(torch.arange(32), torch.Generator().manual_seed(0))
    _, stage = matched(earlier, examples, rotation=20.0, noise=20.0, blur=1.0, erase=0.5)
    given, _, same = stage.batch(torch.arange(32), torch.Generator().manual_seed(0))
    assert torch.equal(asked["face"], same["face"])
    difference = (given["face"] - asked["face"]).abs().flatten(1).mean(1)
    assert 20 < (difference > 0.02).sum() < 32
    _, stage = matched(earlier, examples, rotation=20.0, noise=20.0, mixup=0.4)
    given, shares, asked = stage.batch(torch.arange(32), torch.Generator().manual_seed(0))
    assert (shares.max(1).values < 0.9).any()
    alike = [
        np.corrcoef(one.ravel(), other.ravel())[0, 1]
        for one, other in zip(given["face"].numpy(), asked["face"].numpy(), strict=True)
    ]
    assert min(alike) > 0.6, "the same face mixed with the same other one"


def test_teachers_take_turns(earlier, examples, tmp_path):
    """Each picture is answered by one of them, also where they are more than the pictures; else by their mean."""
    stored = checkpoint.load(earlier)
    other = tmp_path / "other.pt"
    turned = {name: stored.weights[name].roll(1, 0) for name in ("logits.weight", "logits.bias")}
    replace(stored, weights={**stored.weights, **turned}).save(other)
    _, stage = matched(earlier, examples)
    given, *_ = stage.batch(torch.arange(9), torch.Generator().manual_seed(0))
    recipe = replace(RECIPE, distil=0.5, matched=True, turns=True)
    inputs = stored.inputs
    alone = [teachers.panel([path], examples, inputs, recipe)(given) for path in (earlier, other)]
    assert (alone[0] - alone[1]).abs().max() > 0.1
    wanted = torch.where((torch.arange(9) % 2 == 0)[:, None], *alone)
    assert torch.allclose(teachers.panel([earlier, other], examples, inputs, recipe)(given), wanted, atol=1e-5)
    one = {name: value[:1] for name, value in given.items()}
    assert torch.allclose(teachers.panel([earlier, other], examples, inputs, recipe)(one), wanted[:1], atol=1e-5)
    mean = teachers.panel([earlier, other], examples, inputs, replace(recipe, turns=False))(given)
    assert torch.allclose(mean, (alone[0] + alone[1]) / 2, atol=1e-5)


def test_a_loss_of_its_own_asks_nobody(earlier, examples):
    work, _ = matched(earlier, examples, mixup=0.4)
    own = stages.Supervised(work, "own", work.network, loss=lambda face, labels: labels.float().mean())
    given, labels = own.batch(torch.arange(8), torch.Generator().manual_seed(0))
    assert labels.tolist() == examples.labels[:8].tolist()
    assert float(own.loss(given, labels)) == pytest.approx(examples.labels[:8].mean())


def test_a_panel_is_asked_without_mixing_too(earlier, examples):
    work, stage = matched(earlier, examples)
    given, shares, asked = stage.batch(torch.tensor([5, 0, 9]), torch.Generator().manual_seed(0))
    assert shares.numpy() == pytest.approx(np.eye(len(examples.names))[examples.labels[[5, 0, 9]]])
    assert not work.ask(given).requires_grad
    stage.loss(given, shares, asked).backward()
    assert all(parameter.grad is not None for parameter in work.network.parameters())


def test_a_panel_teaches_in_bfloat16(earlier, examples, tmp_path):
    """Fabric hands a step's tensors on in the precision of its sums; the teachers' answers are float32."""
    recipe = replace(RECIPE, distil=0.5, matched=True, epochs=1, mixup=0.2)
    few = examples.subset(np.arange(0, len(examples), 5))
    settings = loop.Settings(progress=False, teachers=(earlier,), precision="bf16-mixed")
    (entry,) = loop.train(FAMILIES["cspp"], SMALL, recipe, few, tmp_path, settings).state["history"]
    assert 0 < entry["loss"] < 4


def test_a_panel_eats_what_its_pupil_does(earlier, examples, tmp_path):
    work, _ = matched(earlier, examples)
    (spec,) = work.specs
    other = replace(spec, normalisation=replace(spec.normalisation, min_std=2.0))
    with pytest.raises(teachers.TeacherError, match="leave --matched out"):
        teachers.panel([earlier], examples, [other], work.recipe)
