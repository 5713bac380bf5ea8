"""The TensorRT engine on the device: its real bindings, the real PyCUDA, rings and states in the tests' device memory.

Only what TensorRT itself would do is ONNX Runtime's work (``tests/tensorrt/stand_in.py``), queued on the stream like
any other. Run by test_pycuda.py, in a process of its own.
"""

import os
from pathlib import Path

import control
import numpy as np
import pytest
import stand_in
from made import bundles

import edge.engine
from edge.bundle import ANSWER, WINDOW, Bundle
from edge.cuda import Device, DeviceLostError, DeviceMemoryError
from edge.engine import admission, open_engine, pace
from edge.engine.tensorrt import TensorRTEngine
from edge.window import Windows
from export.to_tensorrt import to_tensorrt

ALLOCATING = ("cuMemAlloc_v2", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate", "cuGraphInstantiateWithFlags")
MOVING = ("cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuLaunchHostFunc")


PACES = {("tensorrt", "int8"): 1.0, ("tensorrt", "fp16"): 2.0, ("tensorrt", "fp32"): 3.0}
"""Milliseconds that a frame is said to take: what the stand-in takes says nothing. ONNX Runtime's are the others' 9."""


def said(bundle, engine):
    step, close = pace.frames(bundle, engine)
    step()
    close()
    told = PACES.get((engine.backend, engine.precision), 9.0)
    return pace.Pace(told, 1.1 * told, 1)


@pytest.fixture(autouse=True)
def _stand_in(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    # Plans are each test's own; kernels need compiling only once.
    kernels = Path(os.environ["EDGE_CACHE"]) / "kernels"
    kernels.mkdir(parents=True, exist_ok=True, mode=0o700)
    (tmp_path / "kernels").symlink_to(kernels)
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    stand_in.install()
    monkeypatch.setattr(edge.engine, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(admission, "pace", said)


@pytest.fixture
def face():
    return Bundle.open()


def build(bundle, **options):
    device = Device()
    verdict = to_tensorrt(bundle, device, tell=lambda line: None, **options)
    device.close()
    return verdict


def counts(names):
    return {name: control.count(name) for name in names}


def test_plans_are_built_admitted_and_answer_as_the_cpu_does(face):
    verdict = build(face)
    assert all(row.reproduces for row in verdict.rows), verdict.rows
    with_gpu, cpu = open_engine(face, "tensorrt", "fp16"), open_engine(face, "onnxruntime", "fp32")
    inputs = face.window("portrait")
    wanted = cpu.run(inputs)[ANSWER]
    assert np.abs(with_gpu.run(inputs)[ANSWER] - wanted).max() < 0.05
    with_gpu.close()
    with_gpu.close()


def test_a_frame_is_a_copy_a_replay_and_a_copy_back(face):
    build(face, precisions=("fp32",))
    engine = TensorRTEngine(face, "fp32")
    assert engine.loaded(WINDOW).replay.refusal is None
    inputs = face.window("portrait")
    first = engine.run(inputs)[ANSWER]
    allocated, moved, replayed = counts(ALLOCATING), counts(MOVING), control.count("cuGraphLaunch")
    for _ in range(10):
        assert np.array_equal(engine.run(inputs)[ANSWER], first)
    assert counts(ALLOCATING) == allocated
    assert {name: number - moved[name] for name, number in counts(MOVING).items()} == {
        "cuMemcpyHtoDAsync_v2": 10 * len(inputs),
        "cuMemcpyDtoHAsync_v2": 10,
        "cuLaunchHostFunc": 0,
    }
    assert control.count("cuGraphLaunch") == replayed + 10
    engine.close()


def frames(windows, bundle, number, faces=(1, 2)):
    """The answers of some frames, the same images for all who ask."""
    rng, spec = np.random.default_rng(0), bundle.manifest.inputs[0]
    crops = {spec.name: np.zeros((spec.height, spec.width), np.uint8)}
    for at in range(number):
        for one in faces:
            image = {spec.name: rng.normal(size=(1, *spec.shape[2:])).astype(np.float32)}
            windows.advance(one, crops, at * 40_000_000)
            yield windows.answer(one, image)


@pytest.mark.parametrize("which", [0, 1], ids=["states", "images"])
def test_rings_and_states_stay_on_the_device(which, tmp_path):
    bundle = bundles(tmp_path)[which]
    build(bundle, precisions=("fp32",))
    cpu, gpu = open_engine(bundle, "onnxruntime", "fp32"), TensorRTEngine(bundle, "fp32")
    host, there = Windows(cpu), Windows(gpu)
    allocated, answers, moved = counts(ALLOCATING), 0, counts(MOVING)
    for one, two in zip(frames(host, bundle, 20), frames(there, bundle, 20), strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            answers += 1
            assert np.abs(one - two).max() < 1e-5
    assert answers > 20
    assert counts(ALLOCATING) == allocated
    # Up goes one image a face and frame, down come its logits: no feature and no state crosses over.
    assert {name: number - moved[name] for name, number in counts(MOVING).items()} == {
        "cuMemcpyHtoDAsync_v2": 40,
        "cuMemcpyDtoHAsync_v2": answers,
        "cuLaunchHostFunc": 0,
    }
    gpu.close()


EYES = np.array([[205, 215], [300, 210]], np.float32)


def watched(windows, frames, faces):
    """What is answered for some faces in some frames, each cut where the window wants it cut."""
    for at, frame in enumerate(frames):
        for one, eyes in faces.items():
            tensors = windows.advance(one, windows.cutter.cut(frame, eyes), at * 40_000_000)
            yield None if tensors is None else windows.answer(one, tensors)


def test_from_a_frame_to_its_logits_on_the_gpu(face, portrait):
    """A frame goes up once for all its faces, and only logits come down."""
    build(face, precisions=("fp32",))
    gpu, cpu = TensorRTEngine(face, "fp32"), open_engine(face, "onnxruntime", "fp32")
    there, host = Windows(gpu, gpu=True), Windows(cpu)
    pictures = [np.ascontiguousarray(np.roll(portrait, 3 * at, axis=1)) for at in range(6)]
    faces = {1: EYES, 2: EYES + np.float32([6.5, -3.25])}
    # The first frame takes the memory for frames of this size and for a face at a time.
    first = [*watched(there, pictures[:1], faces)]
    allocated, moved = counts(ALLOCATING), counts(MOVING)
    found = [*first, *watched(there, pictures[1:], faces)]
    assert counts(ALLOCATING) == allocated
    assert {name: number - moved[name] for name, number in counts(MOVING).items()} == {
        "cuMemcpyHtoDAsync_v2": 5,
        "cuMemcpyDtoHAsync_v2": 10,
        "cuLaunchHostFunc": 0,
    }
    for one, two in zip(found, watched(host, pictures, faces), strict=True):
        assert np.abs(one - two).max() < 0.1
        assert one.argmax() == two.argmax()
    gpu.close()


@pytest.mark.parametrize("fault", ["copy", "run:cut", "run:normalise"])
def test_a_gpu_lost_between_frame_and_logits(face, portrait, fault):
    build(face, precisions=("fp32",))
    engine = open_engine(face, "auto", "fp32")
    assert engine.backend == "tensorrt"
    windows = Windows(engine, gpu=True)
    answers = []
    for at in range(6):
        if at == 3:
            control.fail(fault, 719)
        answers += watched(windows, [portrait], {1: EYES})
    assert engine.backend == "onnxruntime"
    assert all(one is not None for one in (answers[0], answers[-1]))
    assert sum(one is None for one in answers) <= 1
    assert np.abs(answers[0] - answers[-1]).max() < 0.1
    engine.close()


def test_a_lost_gpu_and_the_process_goes_on(face):
    build(face, precisions=("fp32",))
    inputs = face.window("portrait")
    engine = TensorRTEngine(face, "fp32")
    wanted = engine.run(inputs)[ANSWER]
    control.fail("copy", 719)
    with pytest.raises(DeviceLostError, match="--backend onnxruntime"):
        engine.run(inputs)
    engine.close()
    cpu = open_engine(face, "onnxruntime", "fp32")
    assert np.abs(cpu.run(inputs)[ANSWER] - wanted).max() < 1e-4


def test_auto_goes_on_by_itself(tmp_path):
    bundle = bundles(tmp_path)[0]
    build(bundle)
    engine = open_engine(bundle, "auto")
    assert engine.backend == "tensorrt"
    windows = Windows(engine)
    told = [one is not None for one in frames(windows, bundle, 20)]
    assert told[-1]
    control.fail("copy", 700)
    told = [one is not None for one in frames(windows, bundle, 20)]
    assert engine.backend == "onnxruntime"
    assert told[-1]
    engine.close()


@pytest.mark.parametrize("after", [0, 1])
def test_full_memory_while_opening(face, after):
    build(face, precisions=("fp32",))
    control.fail("cuMemAlloc_v2", 2, after, always=True)
    with pytest.raises(DeviceMemoryError, match="out of GPU memory while"):
        TensorRTEngine(face, "fp32")
    # Left to choose, the package takes the CPU, and says why.
    engine = open_engine(face, "auto")
    assert engine.backend == "onnxruntime"
    engine.close()
