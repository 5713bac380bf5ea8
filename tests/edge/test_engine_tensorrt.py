"""The device path on a real GPU: ``pytest -m gpu``. What can be proved without one is in tests/tensorrt."""

import json

import numpy as np
import pytest

import edge
from edge.bundle import Bundle
from edge.check import check_engine
from edge.engine import open_engine
from edge.engine.admission import wanted
from edge.engine.library import library
from edge.engine.tensorrt import TensorRTEngine
from edge.errors import BackendError
from export.to_tensorrt import to_tensorrt

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def verdict():
    """The default bundle's plans in the user's cache, built where they aren't there: minutes the first time."""
    try:
        library()
        from edge.cuda import Device

        device = Device()
    except BackendError as error:
        pytest.skip(str(error))
    try:
        yield to_tensorrt(Bundle.open(), device, tell=print)
    finally:
        device.close()


@pytest.mark.parametrize("precision", wanted(Bundle.open()))
def test_plans_reproduce_the_golden_vectors(verdict, precision):
    row = verdict.of(precision)
    assert row.reproduces, row


def test_some_plan_is_admitted(verdict):
    assert verdict.chosen.backend == "tensorrt", verdict.rows


def test_the_engine_answers_as_the_cpu_does(verdict):
    bundle = Bundle.open()
    engine, cpu = TensorRTEngine(bundle, "fp16"), open_engine(bundle, "onnxruntime", "fp32")
    assert all(finding.passed for finding in check_engine(bundle, engine))
    rng = np.random.default_rng(0)
    for _ in range(50):
        inputs = {spec.name: rng.normal(size=spec.shape).astype(np.float32) for spec in bundle.inputs}
        found, there = engine.run(inputs)["logits"], cpu.run(inputs)["logits"]
        assert np.abs(found - there).max() < 0.05
    free = engine.device.free_memory()
    for _ in range(1000):
        engine.run(inputs)
    assert free - engine.device.free_memory() < 4 << 20
    engine.close()


def test_the_device_check_says_ok(verdict, tmp_path):
    from edge.ondevice import run

    text, report = run(Bundle.open(), tmp_path / "report.json")
    assert report["verdict"] == "ok", text
    assert report["seconds"] < 120
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "ok"


def test_a_recognizer_runs_on_it(verdict):
    with edge.Recognizer(
        "synthetic://?frames=50", backend="tensorrt", precision=verdict.chosen.precision
    ) as recognizer:
        results = list(recognizer)
    assert results[-1].faces[0].label == "happy"
