"""Which engine is admitted, by its figures alone; that real ones are examined so is in tests/tensorrt."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from edge.bundle import ANSWER, WINDOW, Bundle
from edge.cache import own_folder, write_own
from edge.check import check_engine
from edge.doctor import screen
from edge.engine import Engine, choices, open_engine, pace
from edge.engine.admission import ORDER, Row, Verdict, decide, every, examine, parse, wanted
from edge.engine.fallback import FallbackEngine
from edge.engine.plans import Place
from edge.errors import BackendError, BundleError, OptionError

FACE = Bundle.open()


def row(backend, precision, ms, reproduces=True):
    return Row(backend, precision, reproduces, 1e-3, 1e-2, ms if reproduces else None, ms, False, "found")


def admitted(found, others):
    return [f"{one.backend} {one.precision}" for one in decide(found, others) if one.admitted]


@pytest.mark.parametrize(
    ("int8", "fp16", "cpu", "expected"),
    [
        (1.0, 2.0, 9.0, ["tensorrt int8", "tensorrt fp16", "onnxruntime int8"]),
        (2.03, 2.0, 9.0, ["tensorrt int8", "tensorrt fp16", "onnxruntime int8"]),  # they are as fast
        (2.1, 2.0, 9.0, ["tensorrt fp16", "onnxruntime int8"]),
        (1.0, 9.5, 9.0, ["tensorrt int8", "onnxruntime int8"]),
        (9.3, 9.2, 9.0, ["onnxruntime int8"]),  # what is refused itself is no rival
        (None, 2.0, 9.0, ["tensorrt fp16", "onnxruntime int8"]),
        (1.0, None, 9.0, ["tensorrt int8", "onnxruntime int8"]),
        (9.5, None, 9.0, ["onnxruntime int8"]),
        (None, None, 9.0, ["onnxruntime int8"]),
        (5.0, 4.0, None, ["tensorrt fp16"]),
        (None, None, None, []),
    ],
)
def test_int8_then_fp16_then_onnx_runtime(int8, fp16, cpu, expected):
    found = [row("tensorrt", "int8", int8, int8 is not None), row("tensorrt", "fp16", fp16, fp16 is not None)]
    assert admitted(found, [row("onnxruntime", "int8", cpu, cpu is not None)]) == expected


def test_fp32_is_nobodys_rival_but_int8s():
    found = [row("tensorrt", one, ms) for one, ms in zip(ORDER, (2.5, 3.0, 2.0), strict=True)]
    # FP16 has ONNX Runtime in its place: FP32 is built where somebody wants FP32.
    assert admitted(found, [row("onnxruntime", "int8", 9.0)])[:2] == ["tensorrt int8", "tensorrt fp16"]
    assert admitted([found[0], found[2]], [row("onnxruntime", "int8", 9.0)])[0] == "tensorrt fp32"


def test_reasons_hold_the_figures():
    rows = decide([row("tensorrt", "int8", 9.5)], [row("onnxruntime", "int8", 9.0)])
    assert "tensorrt int8: is slower than onnxruntime int8's 9.00 ms, 9.50 ms a frame, differs by 1.0e-03" in str(
        rows[0]
    )


def test_plans_that_are_worth_it():
    assert wanted(FACE) == ("int8", "fp16")

    def only(*precisions):
        graph = FACE.manifest.graphs[WINDOW]
        files = {one: graph.files[one] for one in precisions}
        return replace(FACE, manifest=replace(FACE.manifest, graphs={WINDOW: replace(graph, files=files)}))

    assert wanted(only("fp32")) == ("fp32",)
    assert wanted(only("fp32", "int8")) == ("int8", "fp32")


def test_a_real_engine_is_examined(monkeypatch):
    monkeypatch.setattr(pace, "WARM_S", 0.0)
    monkeypatch.setattr(pace, "COUNTED_S", 0.05)
    engine = open_engine(FACE, "onnxruntime", "fp32")
    found = examine(engine, FACE)
    assert found.reproduces
    assert found.difference < found.allowed
    assert 0 < found.median_ms <= found.p95_ms < 1000
    run = engine._run
    engine._run = lambda graph, inputs: {ANSWER: run(graph, inputs)[ANSWER] + np.arange(7, dtype=np.float32)}
    found = examine(engine, FACE)
    assert not found.reproduces
    assert found.median_ms is None
    assert "does not reproduce the golden vectors (tensor -> probabilities, onnxruntime fp32" in found.reason


def verdict():
    rows = decide([row("tensorrt", "int8", 1.25)], [row("onnxruntime", "int8", 9.0)])
    place = Place("10.3.0", "8.7", "Orin", "36.4.3")
    return Verdict("face", "0" * 64, place, {"window.int8": "1" * 64}, rows, "2026-11-21T00:00:00Z")


def test_a_verdict_is_kept_and_shown(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    assert every() == ()
    one = verdict()
    assert parse(json.loads(json.dumps(asdict(one)))) == one
    folder = own_folder(tmp_path / "verdicts")
    write_own(folder / "one.json", json.dumps(asdict(one)).encode())
    write_own(folder / "garbled.json", b"{")
    assert every() == (one,)
    text, _ = screen()
    assert "face: tensorrt int8 is used; TensorRT 10.3.0 on Orin (SM 8.7, Jetson Linux 36.4.3)" in text
    assert "ok  tensorrt int8: meets onnxruntime int8's 9.00 ms, 1.25 ms a frame" in text
    (folder / "one.json").chmod(0o666)
    assert every() == (), "somebody else could have written it"


def test_what_is_tried_without_a_gpu(monkeypatch):
    monkeypatch.setattr("edge.engine._may_have_gpu", lambda: False)
    assert choices(FACE) == (("onnxruntime", "int8"), ("onnxruntime", "fp32"), ("onnxruntime", "fp16"))
    assert choices(FACE, "auto", "fp16") == (("onnxruntime", "fp16"),)
    assert choices(FACE, "onnxruntime", "auto")[0] == ("onnxruntime", "int8")
    assert choices(FACE, "tensorrt", "auto") == (("tensorrt", "auto"),)
    for wrong in (("cuda", "auto"), ("auto", "int4")):
        with pytest.raises(OptionError, match="is unknown; expected one of auto"):
            choices(FACE, *wrong)
    with pytest.raises(BackendError, match="the tensorrt backend can't run here: .* or type: --backend onnxruntime"):
        open_engine(FACE, "tensorrt")


class Failing(Engine):
    """ONNX Runtime's answers, until it is told to fail."""

    backend = "tensorrt"

    def __init__(self, bundle):
        super().__init__(bundle, "fp32")
        self.inner, self.fails, self.closed = open_engine(bundle, "onnxruntime", "fp32"), False, 0
        self.load()

    def _load(self, graph):
        self.inner.load(graph)

    def _run(self, graph, inputs):
        if self.fails:
            raise BackendError("the GPU was lost")
        return self.inner._run(graph, inputs)

    def close(self):
        self.closed += 1


def test_auto_goes_on_when_the_gpu_fails(caplog):
    first = Failing(FACE)
    engine = FallbackEngine(FACE, first, lambda: open_engine(FACE, "onnxruntime", "int8"))
    before = engine.run(FACE.window("portrait"))[ANSWER]
    assert (engine.backend, engine.precision, engine.fell) == ("tensorrt", "fp32", None)
    first.fails = True
    after = engine.run(FACE.window("portrait"))[ANSWER]
    assert (engine.backend, engine.precision, engine.fell) == ("onnxruntime", "int8", "the GPU was lost")
    assert first.closed == 1
    assert after.argmax() == before.argmax()
    assert "the GPU was lost; going on with onnxruntime int8" in caplog.text
    assert all(finding.passed for finding in check_engine(FACE, engine))


def test_an_error_is_told_where_nothing_can_take_over():
    first = Failing(FACE)
    first.fails = True

    def nothing():
        raise BundleError("altered")

    engine = FallbackEngine(FACE, first, nothing)
    with pytest.raises(BackendError, match="the GPU was lost"):
        engine.run(FACE.window("portrait"))


def test_a_wrong_input_is_no_failure_of_the_gpu():
    first = Failing(FACE)
    engine = FallbackEngine(FACE, first, lambda: open_engine(FACE, "onnxruntime", "fp32"))
    with pytest.raises(BackendError, match="engine was given"):
        engine.run({"face": np.zeros((1, 1, 2, 2), np.float32)})
    assert engine.fell is None
