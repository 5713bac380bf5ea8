"""The CUDA kernels' very sources, compiled for the host and run by the launch plan, give what the CPU's flow gives."""

import importlib.util
import platform
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import OptionError
from edge.flow import CLG, DIS, flow, flow_image
from edge.flow.plan import KERNELS, Image, Pointer, crop_plan, crop_slots, plan
from edge.manifest import Alignment, InputSpec, Normalisation
from edge.preprocess import face_crop, normalise, to_tensor

HOST = Path(__file__).resolve().parent.parent / "cuda" / "host"
SOURCES = sorted(KERNELS.glob("*.cu"))

PIXEL = 1e-3
"""How far CPU and GPU may be apart, pixels; 2e-4 was seen."""


def part(name):
    """A module of tests/cuda/host, under a name that nothing else has."""
    if f"host_{name}" not in sys.modules:
        spec = importlib.util.spec_from_file_location(f"host_{name}", HOST / f"{name}.py")
        sys.modules[f"host_{name}"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[f"host_{name}"])
    return sys.modules[f"host_{name}"]


def built(folder, *flags, sources=SOURCES):
    if shutil.which("g++") is None:
        pytest.skip("g++ is absent")
    return part("launch").Library(part("build").build(sources, folder, flags))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return built(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def face(portrait):
    return cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY)


def moving(face, height, width, largest=8.0, seed=0):
    """A face, what it was before it moved smoothly, and how: x and y, of which the longest is ``largest`` pixels."""
    after = cv2.resize(face[20:247, 110:337], (width, height), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(seed).normal(size=(height, width, 2)).astype(np.float32)
    field = cv2.GaussianBlur(noise, (0, 0), min(height, width) / 7.5)
    field *= np.float32(largest / np.hypot(field[..., 0], field[..., 1]).max())
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    before = cv2.remap(after, x + field[..., 0], y + field[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return before, after, field


def found(library, before, after, method):
    """What the kernels say, (H, W, 2)."""
    made = library.run(plan(*before.shape, method), {"before": before, "after": after})
    return made["motion"].transpose(1, 2, 0)


def apart(one, other):
    return float(np.abs(one - other).max())


@pytest.mark.parametrize("shape", [(64, 64), (16, 33), (65, 97), (48, 49), (227, 227), (301, 333), (512, 512)])
def test_kernels_give_the_cpu_s_flow_on_every_pixel(library, face, shape):
    before, after, _ = moving(face, *shape, largest=min(8, min(shape) / 8))
    wanted = flow(before, after, "clg")
    assert np.abs(wanted).max() > 1
    assert apart(found(library, before, after, CLG()), wanted) < PIXEL


@pytest.mark.parametrize(
    "method",
    [
        CLG(rho=1, sigma=0),
        CLG(rho=2.5, sigma=2.5),
        CLG(iterations=1),
        CLG(iterations=8),
        CLG(iterations=25, warps=1),
        CLG(coarsest=60),
        CLG(alpha=200, spectral_radius=0.5, warps=3),
    ],
)
def test_with_any_parameters(library, face, method):
    before, after, _ = moving(face, 101, 77, largest=4, seed=2)
    assert apart(found(library, before, after, method), flow(before, after, method)) < PIXEL


@pytest.mark.parametrize("method", [CLG(rho=0), CLG(rho=0.4, sigma=0)])
def test_almost_everywhere_without_a_window(library, face, method):
    """Plain Horn and Schunck sees motion across an edge only; where warps wander, a few pixels amplify rounding."""
    before, after, _ = moving(face, 101, 77, largest=4, seed=2)
    away = np.abs(found(library, before, after, method) - flow(before, after, method))
    assert (away > PIXEL).mean() < 0.005


def test_noise_and_flat_regions_too(library, face):
    """Where nothing holds the motion, differences of rounding would grow first."""
    before, after, _ = moving(face, 120, 130, largest=5, seed=4)
    before, after = before.copy(), after.copy()
    before[20:70, 30:90] = after[20:70, 30:90] = 77
    noise = np.random.default_rng(0).integers(0, 256, (2, 50, 130), np.uint8)
    before[70:], after[70:] = noise
    assert apart(found(library, before, after, CLG()), flow(before, after, "clg")) < PIXEL


def test_with_the_multiplications_of_a_gpu(tmp_path, face):
    """A GPU multiplies and adds in one rounding; so does this build, where the processor can."""
    flags = ("-ffp-contract=fast", "-march=native") if platform.machine() == "x86_64" else ("-ffp-contract=fast",)
    before, after, _ = moving(face, 131, 97, largest=6, seed=3)
    assert apart(found(built(tmp_path, *flags), before, after, CLG()), flow(before, after, "clg")) < PIXEL


def test_no_barrier_is_missing(library, face):
    """Threads between two barriers may run in any order: bit for bit the same, forwards and backwards."""
    before, after, _ = moving(face, 101, 120, largest=4)
    forwards = found(library, before, after, CLG())
    library.backwards(True)
    try:
        assert np.array_equal(found(library, before, after, CLG()), forwards)
    finally:
        library.backwards(False)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("largest", [2, 8])
def test_kernels_find_known_motion_of_a_real_face(library, face, largest, seed):
    before, after, truth = moving(face, 227, 227, largest, seed)
    error = np.hypot(*np.moveaxis(found(library, before, after, CLG()) - truth, -1, 0)).mean()
    assert error < 0.3
    assert error < 0.06 + 0.013 * largest


@pytest.mark.parametrize("shape", [(64, 64), (227, 150)])
def test_nothing_moves_exactly_nothing(library, face, shape):
    still = cv2.resize(face, shape[::-1])
    assert not found(library, still, still, CLG()).any()


FIXED = Normalisation("fixed", (128.0, 120.0, 140.0), (32.0, 31.0, 30.0))


@pytest.mark.parametrize("how", [FIXED, Normalisation("per_image"), Normalisation("per_image", min_std=200.0)])
def test_the_flow_image_goes_straight_into_the_tensor(library, face, how):
    before, after, _ = moving(face, 90, 107)
    made = {
        dtype: library.run(plan(90, 107, CLG(), Image(dtype, how)), {"before": before, "after": after})
        for dtype in ("float32", "float16")
    }
    picture = flow_image(np.ascontiguousarray(made["float32"]["motion"].transpose(1, 2, 0)))
    wanted = normalise(picture.transpose(2, 0, 1)[None], how)[0]
    tensor = made["float32"]["tensor"]
    assert tensor.dtype == np.float32
    assert np.ptp(picture) > 60
    # A magnitude on the edge between two grey levels may fall to either side.
    level = 1.01 / min(how.std, default=max(float(picture.std()), how.min_std))
    assert apart(tensor, wanted) < level
    assert (np.abs(tensor - wanted) > 1e-4).mean() < 1e-3
    half = made["float16"]["tensor"]
    assert half.dtype == np.float16
    assert np.array_equal(half, tensor.astype(np.float16))


@pytest.mark.parametrize(("std", "kind"), [(1e-4, "inf"), (3e6, "subnormal"), (1e-3, "large")])
def test_half_precision_rounds_as_numpy_does(library, face, std, kind):
    how = Normalisation("fixed", (128.0,) * 3, (std,) * 3)
    before, after, _ = moving(face, 64, 80)
    single, half = (
        library.run(plan(64, 80, CLG(), Image(dtype, how)), {"before": before, "after": after})["tensor"]
        for dtype in ("float32", "float16")
    )
    with np.errstate(over="ignore"):
        wanted = single.astype(np.float16)
    seen = {
        "inf": np.isinf(wanted).any(),
        "subnormal": ((wanted != 0) & (np.abs(wanted) < 2**-14)).any(),
        "large": (np.abs(wanted[np.isfinite(wanted)]) > 30000).any(),
    }
    assert seen[kind]
    assert np.array_equal(half, wanted)


EYES = {
    "shrunk": np.array([[180, 120], [262, 116]], np.float32),
    "grown": np.array([[200, 120], [212, 123]], np.float32),
    "at the border": np.array([[-5, 20], [60, 80]], np.float32),
    "upside down": np.array([[300, 300], [200, 280]], np.float32),
}


def spec_of(colour, interpolation="area", how=None, width=72, height=64):
    channels = 1 if colour == "grey" else 3
    return InputSpec(
        "face",
        "face",
        (1, channels, height, width),
        "float32",
        colour,
        interpolation,
        how or Normalisation("per_image"),
        Alignment((0.32, 0.36), (0.68, 0.36)),
    )


@pytest.mark.parametrize("interpolation", ["area", "linear"])
@pytest.mark.parametrize("colour", ["grey", "bgr", "rgb"])
@pytest.mark.parametrize("eyes", EYES)
def test_a_face_is_cut_out_of_a_frame(library, portrait, eyes, colour, interpolation):
    spec = spec_of(colour, interpolation)
    frame = np.ascontiguousarray(portrait[:400])
    wanted = face_crop(frame, EYES[eyes], spec)
    made = library.run(crop_plan(400, 512, spec, "float32"), {"frame": frame}, crop_slots(EYES[eyes], spec))
    planes = wanted[None] if wanted.ndim == 2 else wanted.transpose(2, 0, 1)
    away = np.abs(made["crop"].astype(int) - planes)
    # OpenCV before 5 reads a frame at 32 places a pixel, and its weights are rounded.
    exact = int(cv2.__version__.split(".")[0]) >= 5
    assert away.max() <= (1 if exact else 4)
    assert away.mean() < (0.005 if exact else 0.15)
    assert apart(made["tensor"], normalise(made["crop"][None], spec.normalisation)[0]) < 1e-6
    assert apart(made["tensor"], to_tensor(wanted, spec)[0]) < 4.5 / wanted.std()


@pytest.mark.parametrize("finer", [1, 2, 3, 4, 5, 6])
def test_a_large_face_is_sampled_as_finely(library, portrait, finer):
    spec = spec_of("bgr", width=20, height=20)
    apart_by = (finer - 0.5) * 0.36 * 20
    eyes = np.array([[256 - apart_by / 2, 200], [256 + apart_by / 2, 203]], np.float32)
    slots = crop_slots(eyes, spec)
    assert slots["finer"] == finer
    made = library.run(crop_plan(512, 512, spec, None), {"frame": portrait}, slots)
    assert "tensor" not in made
    assert np.abs(made["crop"].astype(int) - face_crop(portrait, eyes, spec).transpose(2, 0, 1)).max() <= 2


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_crop_with_fixed_normalisation_takes_one_launch(library, portrait, dtype):
    for colour, how in (("rgb", FIXED), ("grey", Normalisation("fixed", (127.5,), (64.0,)))):
        spec = spec_of(colour, how=how)
        work = crop_plan(512, 512, spec, dtype)
        assert len(work.launches) == 1
        made = library.run(work, {"frame": portrait}, crop_slots(EYES["shrunk"], spec))
        assert made["tensor"].dtype == dtype
        assert np.array_equal(made["tensor"], normalise(made["crop"][None], how)[0].astype(dtype))


def test_a_flat_crop_is_not_blown_up(library):
    spec = spec_of("grey")
    frame = np.full((100, 100, 3), 90, np.uint8)
    made = library.run(crop_plan(100, 100, spec, "float32"), {"frame": frame}, crop_slots(EYES["shrunk"] / 4, spec))
    assert not made["tensor"].any()


def test_a_plan_holds_together(library):
    spec = spec_of("rgb")
    image = Image("float16", Normalisation("per_image"))
    names = {source.name: part("build").names(source) for source in SOURCES}
    assert set(names) == {"flow.cu", "tensor.cu"}
    for work in (plan(227, 227, CLG(), image), plan(16, 512, CLG()), crop_plan(1080, 1920, spec, "float16")):
        buffers = [one.name for one in work.buffers]
        assert len(set(buffers)) == len(buffers)
        written = {one.name for one in work.buffers if one.role == "input"}
        for launch in work.launches:
            assert launch.kernel in names[launch.source]
            assert launch.shared <= 48 << 10
            pointers = {one.buffer for one in launch.arguments if isinstance(one, Pointer)}
            assert pointers <= set(buffers)
            written |= pointers
        assert written == set(buffers)
    assert crop_plan(8, 8, spec, None).slots == tuple(crop_slots(EYES["shrunk"], spec))
    with pytest.raises(KeyError):
        work.buffer("nobody")
    assert work.buffer("crop").shape == (3, 64, 72)


def test_what_has_no_kernels_is_refused():
    with pytest.raises(OptionError, match="'dis' has no kernels; expected 'clg'"):
        plan(64, 64, DIS())
    with pytest.raises(OptionError, match="64x8 pixels; expected 16x16"):
        plan(8, 64, CLG())
    with pytest.raises(OptionError, match="'int8'; expected float32 or float16"):
        plan(64, 64, CLG(), Image("int8", FIXED))
    with pytest.raises(OptionError, match="'float64'; expected float32 or float16"):
        crop_plan(64, 64, spec_of("grey"), "float64")
    with pytest.raises(ValueError, match="coincide"):
        crop_slots(np.zeros((2, 2), np.float32), replace(spec_of("grey")))
