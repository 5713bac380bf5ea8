"""Flow, crops and tensors on the device, against the CPU's. Run by test_pycuda.py, in a process of its own."""

import control
import cv2
import numpy as np
import pytest

from edge.bundle import Alignment, InputSpec, Normalisation
from edge.cuda import DeviceLostError
from edge.errors import FrameError, OptionError
from edge.flow import CLG, DIS, flow, flow_image
from edge.flow.cuda import Bound, DeviceCutter, DeviceFlow, kernels
from edge.flow.plan import Image, plan
from edge.preprocess import crop_specs, face_crop, to_tensor

FIXED = Normalisation("fixed", (127.5,) * 3, (58.0,) * 3)
PER_IMAGE = Normalisation("per_image")
EYES = np.array([[205, 215], [300, 210]], np.float32)


@pytest.fixture(scope="module")
def pictures(portrait):
    """A grey face, and the same moved by up to four pixels."""
    face = cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY)[20:247, 110:337]
    noise = np.random.default_rng(0).normal(size=(*face.shape, 2)).astype(np.float32)
    field = cv2.GaussianBlur(noise, (0, 0), 30)
    field *= np.float32(4 / np.hypot(*np.moveaxis(field, -1, 0)).max())
    x, y = np.meshgrid(*(np.arange(227, dtype=np.float32),) * 2)
    return cv2.remap(face, x + field[..., 0], y + field[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT), face


@pytest.mark.parametrize("shape", [(227, 227), (64, 64), (61, 93), (16, 16)])
def test_the_motion_is_the_cpus(device, pictures, shape):
    before, after = (cv2.resize(one, shape[::-1], interpolation=cv2.INTER_AREA) for one in pictures)
    method = CLG()
    on_gpu = DeviceFlow(device, *shape, method)
    assert on_gpu.graph.refusal is None
    found = on_gpu.between(before, after)
    assert found.shape == (*shape, 2)
    assert found.dtype == np.float32
    assert np.abs(found - flow(before, after, method)).max() < 1e-3
    assert not on_gpu.between(after, after).any()
    assert np.abs(on_gpu.between(after, before) - flow(after, before, method)).max() < 1e-3


def test_other_parameters(device, pictures):
    method = CLG(alpha=40, rho=1.0, sigma=0.0, warps=1, iterations=5)
    before, after = (cv2.resize(one, (80, 72)) for one in pictures)
    found = DeviceFlow(device, 72, 80, method).between(before, after)
    assert np.abs(found - flow(before, after, method)).max() < 1e-3
    assert np.abs(found - flow(before, after, CLG())).max() > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("how", [FIXED, PER_IMAGE], ids=["fixed", "per_image"])
def test_the_flow_image_goes_straight_into_the_engines_input(device, pictures, dtype, how):
    before, after = (cv2.resize(one, (96, 96), interpolation=cv2.INTER_AREA) for one in pictures)
    engine_input = device.buffer((1, 2, 3, 96, 96), dtype)
    device.clear(engine_input)
    second = engine_input.part(3 * 96 * 96, (3, 96, 96))
    on_gpu = DeviceFlow(device, 96, 96, CLG(), Image(dtype, how), second)
    on_gpu.between(before, after)
    got = np.zeros(engine_input.shape, dtype)
    device.download(got, engine_input)
    drawn = flow_image(flow(before, after, CLG()))
    spec = InputSpec(
        "flow", "flow", (1, 1, 3, 96, 96), "float32", "rgb", "area", how, Alignment((0.3, 0.35), (0.7, 0.35))
    )
    wanted = to_tensor(drawn, spec)[0]
    assert not got[0, 0].any()
    # A thousandth of a pixel of motion moves a few rounded levels to the next one.
    off = np.abs(got[0, 1].astype(np.float32) - wanted)
    level = np.abs(to_tensor(drawn, spec) - to_tensor(drawn ^ 1, spec)).max()
    assert off.max() < 1.1 * level + 0.01
    assert (off > 0.01).mean() < 0.01


def specs():
    align = Alignment((0.3, 0.35), (0.7, 0.35))
    return (
        InputSpec("face", "clip", (1, 4, 3, 48, 48), "float32", "rgb", "area", FIXED, align),
        InputSpec("motion", "flow", (1, 4, 3, 64, 64), "float32", "rgb", "area", PER_IMAGE, align),
    )


def cutter(device, inputs):
    targets = {one.name: device.buffer((1, 3, one.height, one.width), "float32") for one in inputs}
    return DeviceCutter(device, inputs, crop_specs(inputs), CLG(), targets), targets


def read(device, buffers):
    got = {name: np.zeros(one.shape, one.dtype) for name, one in buffers.items()}
    for name, one in buffers.items():
        device.download(got[name], one)
    return got


def test_from_frames_to_the_engines_inputs_as_on_the_host(device, portrait):
    from edge.window import Cutter

    inputs = specs()
    on_gpu, targets = cutter(device, inputs)
    host = object.__new__(Cutter)
    host._cut, host._specs, host._method = crop_specs(inputs), inputs, CLG()
    assert on_gpu.moves
    kept, known = {}, {}
    for at in range(3):
        frame = np.ascontiguousarray(np.roll(portrait, 2 * at, axis=1)[: 400 if at == 2 else 512])
        for face, eyes in ((1, EYES), (2, EYES + np.float32([11.3, 4.2]))):
            new, cut = on_gpu.cut(frame, eyes), host.cut(frame, eyes)
            if face in kept:
                answered = on_gpu.tensors(new, kept[face])
                assert answered == targets
                wanted = host.tensors(cut, known[face])
                for name, got in read(device, answered).items():
                    off = np.abs(got - wanted[name])
                    # One grey level, where a crop's rounding falls the other way; for a flow image, its consequence.
                    assert np.quantile(off, 0.99) < (0.02 if name == "face" else 0.05), name
                    assert off.max() < 0.5, name
            kept[face], known[face] = new, cut


def test_a_frame_allocates_nothing_after_the_first_ones(device, portrait):
    on_gpu, targets = cutter(device, specs())
    frames = [np.ascontiguousarray(np.roll(portrait, at, axis=0)) for at in range(8)]
    names = ("cuMemAlloc_v2", "cuMemHostAlloc", "cuModuleLoadData", "cuStreamCreate", "cuEventCreate")
    before, counted = None, None
    for at, frame in enumerate(frames):
        if at == 2:
            counted = {name: control.count(name) for name in names}
        uploads = control.count("cuMemcpyHtoDAsync_v2")
        for eyes in (EYES, EYES + 3):
            new = on_gpu.cut(frame, eyes)
        assert control.count("cuMemcpyHtoDAsync_v2") == uploads + 1, "a frame goes to the GPU once"
        if before is not None:
            on_gpu.tensors(new, before)
        before = new
        device.synchronize()
    assert {name: control.count(name) for name in names} == counted
    assert read(device, targets)["motion"].any()


def test_a_bundles_other_flow_has_no_kernels(device):
    with pytest.raises(OptionError, match="'dis' has no kernels"):
        DeviceFlow(device, 64, 64, DIS())


def test_what_does_not_fit_is_refused(device):
    on_gpu = DeviceFlow(device, 64, 64, CLG())
    with pytest.raises(FrameError, match=r"after is uint8 \(64, 65\); expected uint8 \(64, 64\)"):
        on_gpu.between(np.zeros((64, 64), np.uint8), np.zeros((64, 65), np.uint8))
    with pytest.raises(ValueError, match="before is Buffer"):
        Bound(device, plan(64, 64, CLG()), {"before": device.buffer((64, 63), np.uint8)})
    cut, _ = cutter(device, specs())
    with pytest.raises(FrameError, match="expected BGR, uint8"):
        cut.cut(np.zeros((64, 64), np.uint8), EYES)


def test_kernels_are_loaded_once(device):
    loads = control.count("cuModuleLoadData")
    kernels(device)
    kernels(device)
    assert control.count("cuModuleLoadData") == loads + 2


@pytest.mark.parametrize("kernel", ["linearise", "relax", "smooth"])
def test_a_gpu_that_is_lost_in_a_kernel(device, pictures, kernel):
    on_gpu = DeviceFlow(device, 227, 227, CLG())
    control.fail(f"run:{kernel}", 719, after=1)
    with pytest.raises(DeviceLostError, match="onnxruntime"):
        for _ in range(3):
            on_gpu.between(*pictures)
    with pytest.raises(DeviceLostError):
        on_gpu()


def test_the_kernels_answer_what_the_golden_crop_answers(device, portrait):
    """A face's crop on the device is the host's, to a level."""
    for spec in specs():
        spec = crop_specs((spec,))[spec.name]
        from edge.flow.plan import crop_plan, crop_slots

        frame = device.buffer(portrait.shape, np.uint8)
        device.upload(frame, portrait)
        bound = Bound(device, crop_plan(*portrait.shape[:2], spec, None), {"frame": frame})
        bound(crop_slots(EYES, spec))
        got = np.zeros(bound.buffers["crop"].shape, np.uint8)
        device.download(got, bound.buffers["crop"])
        wanted = face_crop(portrait, EYES, spec)
        wanted = wanted[None] if wanted.ndim == 2 else wanted.transpose(2, 0, 1)
        off = np.abs(got.astype(int) - wanted)
        assert off.max() <= 1
        assert (off > 0).mean() < 0.02
