"""The card: its figures are those of the benchmark, its page shows them, and it is refused beside another bundle."""

import functools
import json
import re
import shutil
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from benchmarks import accuracy as benchmark
from edge.__main__ import main as edge_main
from edge.bundle import Bundle
from edge.engine import open_engine
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks
from edge.preprocess import face_crop
from edge.recognizer import UNRELATED
from edge.smooth import Smoother
from edge.types import FaceState
from export import card, card_page, robust, scenes
from export.__main__ import main as export_main
from export.card import main
from export.errors import ExportError
from export.measure import figures, interval
from train import loop
from train.datasets import PICTURES
from train.examples import faces
from train.models import FAMILIES, cspp
from train.recipe import Recipe

FEW = 21
CONDITIONS = (robust.Condition(robust.blur, "pixels", (1, 4)), robust.Condition(robust.size, "pixels", (96, 24)))


@pytest.fixture(scope="module")
def bundle():
    return Bundle.open()


@pytest.fixture(scope="module")
def document(bundle, toy_corpus):
    return card.measure(bundle, "fer2013", toy_corpus, most=FEW, conditions=CONDITIONS, others=(scenes.Scene(64),))


@pytest.fixture
def beside(document, bundle, tmp_path):
    """A copy of the shipped bundle with a card."""
    folder = tmp_path / "face"
    folder.mkdir()
    for name in ("manifest.json", *bundle.manifest.files):
        shutil.copyfile(bundle.where / name, folder / name)
    card.write(document, Bundle.open(folder), folder)
    return folder


@pytest.fixture(scope="module")
def portraits(bundle, portrait):
    """The portrait as a corpus' crops: as it is, mirrored, brighter and darker; all happy."""
    detector, landmarks = FaceDetector(), Landmarks()
    grey = np.asarray(portrait.mean(axis=2), np.uint8)
    (found,) = detector.find(grey)
    crop = face_crop(portrait, landmarks.eyes(landmarks.points(grey, found.box)), bundle.inputs[0])
    crops = [crop, crop[:, ::-1], np.clip(crop * 1.2, 0, 255), crop * 0.6]
    names = bundle.manifest.labels
    labels = np.full(4, names.index("happy"), np.int64)
    return faces("fer2013", "test", names, np.stack(crops).astype(np.uint8), labels)


def test_the_cards_figures_are_the_benchmarks(bundle, toy_corpus):
    measured = card.measure(bundle, "fer2013", toy_corpus, most=FEW, others=())
    told = benchmark.run(["face"], toy_corpus, most=FEW, worse=True)["bundles"]["face"]
    told = json.loads(json.dumps(told))
    assert measured["digest"] == told["digest"]
    assert measured["precisions"] == told["precisions"]
    assert measured["robust"] == told["robust"]
    assert {row["condition"] for row in told["robust"]["rows"]} == {"none", *(one.name for one in robust.CONDITIONS)}


def test_a_card_lies_beside_its_bundle(beside, document, capsys):
    files = sorted(beside.glob("card*"))
    assert sum(path.stat().st_size for path in files) < 300_000
    text = (beside / "card.md").read_text()
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert sorted([*pictures, "card.md", "card.json"]) == [path.name for path in files]
    assert all((beside / name).read_text().startswith("<svg") for name in pictures)
    assert json.loads((beside / "card.json").read_text()) == document
    assert edge_main(["check", str(beside)]) == 0
    assert main([str(beside), "--check"]) == 0
    assert "the card of this bundle" in capsys.readouterr().out


def test_the_page_shows_what_was_measured(document, bundle):
    text = card_page.page(document, bundle.manifest)
    chosen = document["precisions"]["int8"]
    assert f"**{interval(chosen)} right** on {FEW} pictures" in text
    for one in document["precisions"].values():
        assert interval(one) in text
        assert f"{one['ece']:.3f}" in text
    for row in document["robust"]["rows"][1:]:
        assert f"| {row['condition']} | {row['strength']:g} {row['unit']} | {row['accuracy']:.1%} |" in text
    for name, count in document["classes"]["test"].items():
        trained = document["classes"]["training"][name]
        assert f"| {name} | {trained:,} | {trained / 350:.1%} | {count:,} |" in text
    for words in ("Article 5(1)(f)", "Article 50(3)", bundle.manifest.licence, "research", "are not recorded"):
        assert words in text or words == "are not recorded"
    assert "not recorded" in text
    assert all(len({line.count("|") for line in block.splitlines()}) == 1 for block in tables(text))


def tables(text):
    return [block for block in text.split("\n\n") if block.startswith("|")]


def test_another_figure_gives_another_page(document, bundle):
    """No figure of the page is its own: each of these moves it."""
    text = card_page.page(document, bundle.manifest)
    for change in (
        lambda one: one["precisions"]["int8"].update(accuracy=0.123),
        lambda one: one["precisions"]["fp16"].update(ece=0.456),
        lambda one: one["precisions"]["int8"]["confusion"][3].__setitem__(0, 11),
        lambda one: one["precisions"]["int8"]["threshold"].update(coverage=0.321),
        lambda one: one["robust"]["rows"][2].update(said=0.111),
        lambda one: one["scenes"]["rows"][0].update(found=7, **found_row()),
        lambda one: one["classes"]["test"].update(angry=99),
    ):
        other = json.loads(json.dumps(document))
        change(other)
        assert card_page.page(other, bundle.manifest) != text


def found_row():
    one = {"count": 7, "accuracy": 0.5, "interval": [0.1, 0.9], "ece": 0.1}
    return {"crop": one, "eyes": one, "runtime": one, "difference": 0.1, "difference_interval": [0, 0.2]} | {
        "same": 0.5,
        "states": {"ok": 0.9},
        "ok": 0.7,
    }


def test_a_card_that_does_not_fit_is_refused(beside, document, face_bundle, capsys):
    page = beside / "card.md"
    page.write_text(page.read_text().replace("right**", "right, really**"))
    assert main([str(beside), "--check"]) == 2
    assert "does not show the figures of card.json; write it again with --redraw" in capsys.readouterr().err
    assert main([str(beside), "--redraw"]) == 0
    assert main([str(beside), "--check"]) == 0
    shutil.copyfile(beside / "card.json", face_bundle / "card.json")
    for what in ("--check", "--redraw"):
        assert main([str(face_bundle), what]) == 2
        assert "measure it again with --evaluate DATA" in capsys.readouterr().err
    assert not (face_bundle / "card.md").exists()
    for text, said in (("{", "can't be read"), ('{"format": 0}', "not a card of format 1")):
        (face_bundle / "card.json").write_text(text)
        assert main([str(face_bundle), "--check"]) == 2
        assert said in capsys.readouterr().err


def test_refusals(tmp_path, toy_corpus, bundle, capsys, monkeypatch):
    def refused(*arguments):
        assert main([str(one) for one in arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "expected FER2013's public_test.npz there" in refused("face", "--evaluate", tmp_path)
    assert "no-such-bundle" in refused("no-such-bundle", "--evaluate", toy_corpus)
    assert "no card.json in it; make it with" in refused("face", "--check", "--out", tmp_path)
    shutil.make_archive(str(tmp_path / "face"), "zip", bundle.where)
    assert "its card goes into a folder: --out FOLDER" in refused(tmp_path / "face.zip", "--evaluate", toy_corpus)
    for arguments in (["face"], ["face", "--evaluate", "x", "--pictures", "1"], ["face", "--check", "--redraw"]):
        with pytest.raises(SystemExit):
            main(arguments)
    with pytest.raises(SystemExit):
        export_main(["x.pt", "--out", str(tmp_path / "b"), "--card"])
    assert "give its folder: --evaluate DATA" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'type: pip install "edge-emotion[bench]"' in refused("face", "--evaluate", toy_corpus)


def test_a_corpus_that_gives_no_crops_is_refused(bundle):
    from dataclasses import replace

    assert card.corpus_of(bundle) == "fer2013"
    other = replace(bundle, manifest=replace(bundle.manifest, data={"corpus": "ckplus"}))
    with pytest.raises(ExportError, match="trained on ckplus, and crops are read of fer2013; name one with --corpus"):
        card.corpus_of(other)


@pytest.mark.timeout(300)
def test_an_export_brings_its_card(toy_corpus, tmp_path, monkeypatch):
    recipe = Recipe(optimizer="adamw", learning_rate=0.003, batch=64, epochs=1, held_out=0.2)
    config = cspp.Config(variant="cspp", hidden=8, batch_norm=True)
    loop.train(FAMILIES["cspp"], config, recipe, PICTURES["fer2013"](toy_corpus, "train"), tmp_path / "run")
    quick = functools.partial(card.measure, most=7, conditions=CONDITIONS, others=())
    monkeypatch.setattr(card, "measure", quick)
    out = tmp_path / "bundle"
    checkpoint = str(tmp_path / "run" / "best.pt")
    assert export_main([checkpoint, "--out", str(out), "--evaluate", str(toy_corpus), "--card"]) == 0
    card.check(Bundle.open(out), out)
    assert "card.md" not in Bundle.open(out).manifest.files
    assert card.read(out)["chosen"] == "fp32"


def test_whole_pictures_go_through_the_runtime(bundle, portraits):
    rows = scenes.measure(bundle, open_engine(bundle, precision="int8"), portraits)
    assert [row["landmarks"] for row in rows] == ["5", "68"]
    for row in rows:
        assert row["found"] == row["pictures"] == 4
        assert row["found_by_label"] == {"happy": 1.0}
        assert row["more"] == 0
        assert row["runtime"]["accuracy"] == row["crop"]["accuracy"] == row["eyes"]["accuracy"] == 1
        assert row["difference"] == 0
        assert row["states"] == {"ok": 1.0}
        assert row["ok"] == 1
    (small,) = scenes.measure(bundle, open_engine(bundle, precision="int8"), portraits, scenes.Scene(24), ("68",))
    assert small["found"] == 0
    assert small["runtime"] is None
    assert scenes.table([*rows, small]).splitlines()[-1].startswith("| 24 | 0° | 68 | 4 | 0.0% | - |")


def test_a_scene_is_what_it_says(bundle, portraits):
    view = next(robust.views(portraits))
    image, eyes = scenes.place(view, scenes.Scene(96), np.random.default_rng(0))
    assert image.shape == (192, 192, 3)
    assert (image[:40] == scenes.GREY).all()
    assert np.hypot(*(eyes[1] - eyes[0])) == pytest.approx(2 * np.hypot(*(view.eyes[1] - view.eyes[0])), rel=1e-4)
    # Cut where the eyes are said to be, it is the crop again, but for the resampling.
    again = face_crop(image, eyes, bundle.inputs[0]).astype(int)
    assert np.abs(again - portraits.arrays["face"][0]).mean() < 3
    _, turned = scenes.place(view, scenes.Scene(96, 20), np.random.default_rng(0))
    along = turned[1] - turned[0]
    assert abs(np.degrees(np.arctan2(along[1], along[0]))) == pytest.approx(20, abs=0.5)


def test_the_threshold_is_the_one_that_results_follow(bundle):
    """The share that the card says gets an answer is the share that the runtime calls ``ok``."""
    manifest = bundle.manifest
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.2, (400, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 400)
    smoother = Smoother(manifest.temperature, manifest.abstain_below, UNRELATED)
    said = [smoother.update(number, one, 0) for number, one in enumerate(logits)]
    ok = np.array([state is FaceState.OK for _, _, state in said])
    right = np.array([label for label, _, _ in said]) == labels
    found = figures(logits, labels, manifest.labels, manifest.temperature, logits.argmax(1), manifest.abstain_below)[
        "threshold"
    ]
    assert 0.1 < ok.mean() < 0.9
    assert found["coverage"] == pytest.approx(ok.mean())
    assert found["accuracy"] == pytest.approx(right[ok].mean())


def test_reliability_and_coverage_add_up(bundle):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (500, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 500)
    found = figures(logits, labels, bundle.manifest.labels, 1.0, logits.argmax(1))
    bins = found["reliability"]
    assert sum(one["count"] for one in bins) == 500
    gap = sum(one["count"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / 500
    assert gap == pytest.approx(found["ece"], abs=1e-6)
    curve = found["curve"]
    assert curve[-1]["coverage"] == 1
    assert curve[-1]["accuracy"] == pytest.approx(found["accuracy"])
    assert curve[15]["coverage"] == pytest.approx(0.8, abs=0.01)
    assert curve[15]["accuracy"] == pytest.approx(found["covered"])
    assert sum(found["said"].values()) == 500


def test_the_shipped_cards_belong_to_their_bundles(shared):
    from edge.bundle import packaged
    from export.measure import measure, read

    cards = [Bundle.open(name) for name in packaged() if (Bundle.open(name).where / card.FIGURES).exists()]
    if not cards:
        pytest.skip("no card ships")
    for bundle in cards:
        card.check(bundle, bundle.where)
        document = card.read(bundle.where)
        pictures, _ = read(document["corpus"], shared / "fer2013" / "public_test.npz")
        now = measure(bundle, pictures, None, (document["chosen"],))[document["chosen"]]
        then = document["precisions"][document["chosen"]]
        assert now["count"] == then["count"]
        # Vector instructions differ between processors: a few labels may.
        for key in ("accuracy", "ece", "covered", "macro_f1"):
            assert now[key] == pytest.approx(then[key], abs=3e-3)
