"""What was trained is what runs: a checkpoint becomes a verified bundle, or nothing at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import edge
import train
from edge.__main__ import main as edge_main
from edge.bundle import Bundle
from edge.engine import open_engine
from export.__main__ import main
from export.errors import ExportError
from export.lower import Part, lower
from export.to_onnx import to_onnx
from train import batches, checkpoint, loop
from train.datasets import PICTURES
from train.models import FAMILIES, cspp
from train.recipe import Recipe
from train.stages import predict as predict_network


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy_corpus):
    out = tmp_path_factory.mktemp("run")
    recipe = Recipe(optimizer="adamw", learning_rate=0.003, batch=32, epochs=1, held_out=0.2)
    config = cspp.Config(variant="cspp", hidden=16, batch_norm=True)
    loop.train(FAMILIES["cspp"], config, recipe, PICTURES["fer2013"](toy_corpus, "train"), out)
    return out / "best.pt"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, trained, toy_corpus):
    out = tmp_path_factory.mktemp("bundles") / "toy"
    assert main([str(trained), "--out", str(out), "--evaluate", str(toy_corpus)]) == 0
    return out


def test_the_bundle_runs_without_torch(exported, portrait):
    assert sorted(path.name for path in exported.iterdir()) == ["golden.npz", "manifest.json", "window.fp32.onnx"]
    assert edge_main(["check", str(exported)]) == 0
    with edge.Recognizer(bundle=exported) as recognizer:
        assert recognizer.process(portrait).faces[0].label in recognizer.bundle.manifest.labels


def test_the_graph_answers_what_the_network_answers(exported, trained, toy_corpus):
    from export.accuracy import predict

    pictures = PICTURES["fer2013"](toy_corpus, "test")
    bundle, stored = Bundle.open(exported), checkpoint.load(trained)
    (spec,) = bundle.manifest.inputs
    ours = predict(bundle, open_engine(bundle), pictures)
    assert ours == pytest.approx(predict_network(stored.network(), pictures, (spec,)), abs=1e-4)
    figures = bundle.manifest.metrics["fer2013 test part"]
    assert figures["accuracy"] == pytest.approx((ours.argmax(1) == pictures.labels).mean())
    assert figures["count"] == 140
    assert bundle.manifest.temperature == pytest.approx(stored.temperature, abs=1e-5)


def test_no_trace_of_the_exporting_machine(exported):
    assert b"/site-packages/" not in (exported / "window.fp32.onnx").read_bytes()
    assert b"Traceback" not in (exported / "window.fp32.onnx").read_bytes()
    document = json.loads((exported / "manifest.json").read_text())
    assert document["data"]["corpus"] == "fer2013"


def test_every_rung_of_the_ladder_exports():
    import onnxruntime

    for variant in cspp.VARIANTS:
        for batch_norm in (False, True):
            torch.manual_seed(0)
            network = cspp.CSPP(cspp.Config(variant=variant, hidden=8, batch_norm=batch_norm))
            # As after training: with a fresh normalisation, folding it wrongly would not show.
            network(torch.randn(8, 1, 48, 48))
            network.eval()
            graph = to_onnx(lower(network, cspp.inputs(network.config)).part("window"))
            session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
            face = np.random.default_rng(0).standard_normal((1, 1, 48, 48)).astype(np.float32)
            with torch.inference_mode():
                wanted = network(torch.from_numpy(face)).numpy()
            assert session.run(["logits"], {"face": face})[0] == pytest.approx(wanted, abs=1e-5)


def test_what_cannot_be_exported_says_so():
    class Odd(torch.nn.Module):
        def forward(self, face):
            return torch.from_numpy(np.linalg.svd(face.numpy())[1])

    with pytest.raises(ExportError, match="can't be exported to ONNX"):
        to_onnx(Part("window", Odd(), (("face", (1, 1, 48, 48)),), (("logits", (1, 7)),)))


def test_bad_input_leaves_no_bundle(trained, exported, tmp_path, capsys):
    def refused(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        err = capsys.readouterr().err
        return err.splitlines()[-1]

    assert "no such checkpoint" in refused(tmp_path / "none.pt", "--out", tmp_path / "b")
    (tmp_path / "half.pt").write_bytes(trained.read_bytes()[:5000])
    assert "not a whole checkpoint" in refused(tmp_path / "half.pt", "--out", tmp_path / "b")
    assert "already exists" in refused(trained, "--out", exported)
    (tmp_path / "file").touch()
    assert "can't be written" in refused(trained, "--out", tmp_path / "file" / "b")
    assert "expected FER2013's" in refused(trained, "--out", tmp_path / "b", "--evaluate", tmp_path)
    assert not (tmp_path / "b").exists()
    assert not list(tmp_path.glob(".b*"))


def test_a_graph_that_is_not_the_network_is_refused(trained, tmp_path, monkeypatch, capsys):
    """Break the exporter: the weights of another network get into the graph."""
    import export.assemble as module

    def wrong(part):
        torch.manual_seed(1)
        other = cspp.CSPP(cspp.Config(hidden=16, batch_norm=True)).eval()
        return to_onnx(lower(other, cspp.inputs(cspp.Config())).part(part.role))

    monkeypatch.setattr(module, "to_onnx", wrong)
    assert main([str(trained), "--out", str(tmp_path / "b")]) == 2
    assert "the fp32 graph differs from the network by" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert not list(tmp_path.glob(".b*"))


@pytest.mark.slow
def test_the_shipped_bundle_gives_its_own_numbers(shared):
    """Through edge's preprocessing and engines, on PublicTest; INT8 costs half a point and changes one label in 100."""
    from export.accuracy import measure

    bundle = Bundle.open()
    figures = measure(bundle, bundle.manifest.precisions, "fer2013", shared / "fer2013" / "public_test.npz")
    assert tuple(figures) == ("fp32", "fp16", "int8")
    claimed = bundle.manifest.metrics["fer2013 test part"]
    assert figures["fp32"]["accuracy"] == pytest.approx(claimed["accuracy"], abs=0.002)
    assert figures["fp32"]["accuracy"] >= 0.67
    for name, bound in (("fp16", 0.999), ("int8", 0.99)):
        assert figures[name]["agreement"] >= bound
        assert abs(figures[name]["accuracy"] - figures["fp32"]["accuracy"]) <= 0.005
    for name, one in figures.items():
        claimed = bundle.manifest.metrics["precisions"][name]
        assert one["accuracy"] == pytest.approx(claimed["accuracy"], abs=0.002)
        low, high = one["interval"]
        assert low < one["accuracy"] < high
        assert 0.02 < high - low < 0.05
        assert one["covered"] > one["accuracy"] + 0.04


def test_int8_is_judged_on_faces_that_the_run_held_out(trained, exported, toy_corpus, monkeypatch):
    from export import faces

    def keys(tensors):
        return {one["face"].tobytes() for one in tensors}

    manifest, run = Bundle.open(exported).manifest, checkpoint.load(trained)
    everyone = PICTURES["fer2013"](toy_corpus, "train")
    learn, held_out = loop.split(everyone, Recipe(**run.recipe))
    seen, unseen = (
        {row.tobytes() for row in batches.tensors(part, np.arange(len(part)), run.inputs)["face"].numpy()[:, None]}
        for part in (learn, held_out)
    )
    few = faces.gather(toy_corpus, manifest)
    assert keys(few.fitting) <= seen
    assert keys(few.judging) & seen, "seventy can't judge alone"
    monkeypatch.setattr(faces, "ENOUGH", 10)
    gathered = faces.gather(toy_corpus, manifest)
    assert keys(gathered.judging) == unseen
    assert keys(gathered.fitting) <= seen
    elsewhere = replace(manifest, data={**manifest.data, "corpus": "another"})
    assert keys(faces.gather(toy_corpus, elsewhere).fitting) & unseen, "another corpus' run held nothing of this out"


def test_the_kept_checkpoint_is_the_shipped_bundles():
    """What a researcher starts from is what the robot runs."""
    stored, bundle = checkpoint.load(Path(train.__file__).parent / "checkpoints" / "face.pt"), Bundle.open()
    assert stored.temperature == pytest.approx(bundle.manifest.temperature, abs=1e-6)
    assert stored.recipe == checkpoint.plain(replace(FAMILIES["cspp"].recipes["face-pupil"], seed=11))
    (spec,) = bundle.manifest.inputs
    face = np.random.default_rng(0).normal(size=(1, 1, spec.height, spec.width)).astype(np.float32)
    with torch.inference_mode():
        wanted = stored.network()(torch.from_numpy(face)).numpy()
    answer = open_engine(bundle, precision="fp32").run({spec.name: face})["logits"]
    assert np.abs(answer - wanted).max() < 1e-3


def test_dam_cnn_leaves_its_decoders_at_home(tmp_path, capsys):
    from train.models.dam_cnn import Config as DamConfig

    torch.manual_seed(0)
    config = DamConfig(classes=7, decoders=2, width=1 / 64)
    network = FAMILIES["dam_cnn"].build(config)
    labels = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    facts = ("dam_cnn", checkpoint.plain(config), {}, labels, "toy", False)
    half = checkpoint.Checkpoint(*facts, "serd", False, 1, network.state_dict(), {}, 1.0, 0.0, {})
    half.save(tmp_path / "half.pt")
    assert main([str(tmp_path / "half.pt"), "--out", str(tmp_path / "b")]) == 2
    assert "from stage 'serd', and others follow; finish the run with --resume" in capsys.readouterr().err
    whole = checkpoint.Checkpoint(*facts, "multi-path", True, 1, network.state_dict(), {}, 1.0, 0.0, {})
    whole.save(tmp_path / "whole.pt")
    assert main([str(tmp_path / "whole.pt"), "--out", str(tmp_path / "b")]) == 0
    bundle = Bundle.open(tmp_path / "b")
    decoders = sum(p.numel() for p in network.mpvs.decoders.parameters())
    assert bundle.manifest.data["parameters"] == sum(p.numel() for p in network.parameters()) - decoders
    assert edge_main(["check", str(tmp_path / "b")]) == 0
