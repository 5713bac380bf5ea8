"""Does a bundle still do what it did when it was exported? Its golden vectors are replayed, stage by stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edge.bundle import ANSWER, WINDOW, Bundle
from edge.engine.contract import Engine
from edge.errors import BundleError
from edge.faces.detect import FaceDetector
from edge.flow import CLG, flow, named
from edge.flow.contract import Grey
from edge.preprocess import crop_specs
from edge.smooth import softmax
from edge.source import read_picture
from edge.synthetic import PORTRAIT
from edge.window import Cutter, Windows

if TYPE_CHECKING:
    from edge.cuda import Device

MOTION_PIXELS = 1e-3
"""Largest difference between the motion that the GPU finds and the CPU's."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing checked."""

    what: str
    passed: bool
    detail: str
    difference: float | None = None
    """The largest one found, where numbers were compared."""


def check_preprocessing(bundle: Bundle) -> list[Finding]:
    """Pictures and eyes to tensors: largest difference from the golden ones, in the tensor's unit, case by case."""
    cutter, allowed = Cutter(bundle.manifest), bundle.manifest.tolerances["tensor"]
    findings = []
    for case in bundle.cases:
        frames = zip(bundle.golden[f"picture/{case}"], bundle.golden[f"eyes/{case}"], strict=True)
        wanted = bundle.window(case)
        for name, tensor in cutter.window(frames).items():
            what = case if len(wanted) == 1 else f"{case}, {name}"
            findings.append(_compare(f"pixels -> tensor, {what}", tensor, wanted[name], allowed))
    return findings


def check_engine(bundle: Bundle, engine: Engine, *, brief: bool = False) -> list[Finding]:
    """Golden tensors to logits, as the robot gets them: largest difference in calibrated probability, case by case.

    A bundle that sees windows is run image by image, through its encoders and its head.

    Args:
        bundle: opened.
        engine: of that bundle.
        brief: of a bundle that sees windows, one case will do: each is a window's work.
    """
    windows, allowed = Windows(engine), bundle.manifest.tolerances[engine.precision]
    what = f"{engine.backend} {engine.precision}"
    findings = []
    for case in bundle.cases[:1] if brief and bundle.manifest.streams else bundle.cases:
        logits = windows.stream(bundle.window(case))
        found = f"tensor -> probabilities, {what}, {case}"
        findings.append(_answers(bundle, found, logits, engine.precision, case, allowed))
    return findings


def check_window(bundle: Bundle, engine: Engine) -> list[Finding]:
    """Golden tensors to logits through the graph ``window``, where a bundle that sees windows has it in a precision.

    That graph is the whole network at once: what the encoders and the head must equal.
    """
    if not bundle.manifest.streams or not engine.offers(WINDOW):
        return []
    allowed = bundle.manifest.tolerances[engine.precision]
    findings = []
    for case in bundle.cases:
        logits = engine.run(bundle.window(case), WINDOW)[ANSWER][0]
        what = f"whole window -> probabilities, {engine.backend} {engine.precision}, {case}"
        findings.append(_answers(bundle, what, logits, engine.precision, case, allowed))
    return findings


def check_detector(bundle: Bundle, detector: FaceDetector) -> list[Finding]:
    """No face is found in the picture without one."""
    found = detector.find(cv2.cvtColor(bundle.golden["no_face"], cv2.COLOR_BGR2GRAY).astype(np.uint8))
    return [Finding("no face in the picture without one", not found, f"{len(found)} found")]


def check_motion(bundle: Bundle, device: Device) -> tuple[Finding, dict[str, Any]]:
    """The kernels' motion against the CPU's, with the bundle's own parameters where it wants motion.

    Args:
        bundle: opened.
        device: the GPU.

    Returns:
        The finding, and figures for a report: ``gpu_ms`` for a run, ``worst_pixels``.

    Raises:
        BackendError: the kernels can't be compiled or run.
    """
    from edge.flow.cuda import DeviceFlow

    facts = dict(bundle.manifest.flow or {})
    method = named(str(facts.pop("name")), **facts) if facts else CLG()
    # The only one that has kernels; a bundle that wants another gets its motion from the CPU.
    method = method if isinstance(method, CLG) else CLG()
    spec = next((one for one in bundle.inputs if one.kind == "flow"), None)
    height, width = (227, 227) if spec is None else (spec.height, spec.width)
    before, after = _moving(height, width)
    motion = DeviceFlow(device, height, width, method)
    worst = float(np.abs(motion.between(before, after) - flow(before, after, method)).max())
    timer, took = device.timer(), []
    for _ in range(10):
        timer.start()
        motion()
        timer.stop()
        took.append(timer.ms)
    ms = float(np.median(took))
    detail = f"differs by {worst:.1e} pixel, allowed {MOTION_PIXELS:.0e}; {ms:.2f} ms for {width}x{height}"
    finding = Finding("optical flow, GPU against CPU", worst <= MOTION_PIXELS, detail, worst)
    return finding, {"method": asdict(method), "size": [height, width], "worst_pixels": worst, "gpu_ms": ms}


def check_crops(bundle: Bundle, device: Device) -> list[Finding]:
    """What the kernels make of the golden pictures, as :func:`check_preprocessing` has it for the CPU.

    Args:
        bundle: opened.
        device: the GPU.

    Raises:
        OptionError: the bundle's optical flow has no kernels.
        BackendError: the kernels can't be compiled or run.
    """
    from edge.flow.cuda import DeviceCutter

    facts = dict(bundle.manifest.flow or {})
    method = named(str(facts.pop("name")), **facts) if facts else None
    targets = {one.name: device.buffer((1, *one.shape[-3:]), one.dtype) for one in bundle.inputs}
    cutter = DeviceCutter(device, bundle.inputs, crop_specs(bundle.inputs), method, targets)
    findings = []
    for case in bundle.cases:
        pictures, eyes = bundle.golden[f"picture/{case}"], bundle.golden[f"eyes/{case}"]
        crops = [cutter.cut(pictures[at], eyes[at]) for at in range(2 if cutter.moves else 1)]
        cutter.tensors(crops[-1], crops[0])
        for one in bundle.inputs:
            found = np.empty(targets[one.name].shape, one.dtype)
            device.download(found, targets[one.name])
            device.synchronize()
            tensor = bundle.window(case)[one.name]
            # With motion, the first tensors are those of the second picture.
            wanted = tensor if one.kind == "face" else tensor[:, 0]
            what = f"pixels -> tensor on the GPU, {case}, {one.name}"
            findings.append(_compare(what, found, wanted, bundle.manifest.tolerances["tensor"]))
    return findings


def _moving(height: int, width: int) -> tuple[Grey, Grey]:
    """A face, and the same turned and moved by some pixels: grey uint8 (height, width)."""
    face = cv2.resize(cv2.cvtColor(read_picture(PORTRAIT), cv2.COLOR_BGR2GRAY), (width, height))
    moved = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), 1.5, 1.01), np.float64)
    moved[:, 2] += (2.0, -1.5)
    turned = cv2.warpAffine(face, moved, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(face, np.uint8), np.asarray(turned, np.uint8)


def require(bundle: Bundle, findings: Iterable[Finding]) -> None:
    """Refuse a bundle that fails.

    Raises:
        BundleError: naming the first finding that did not pass.
    """
    for finding in findings:
        if not finding.passed:
            raise BundleError(
                f"{bundle.where}: golden vectors are not reproduced here ({finding.what}: {finding.detail}); "
                f"type: edge check {bundle.where}, and export the bundle again"
            )


def _answers(
    bundle: Bundle, what: str, logits: np.ndarray | None, precision: str, case: str, allowed: float
) -> Finding:
    if logits is None:
        return Finding(what, False, "no answer to a whole window")
    # Eight bits answer something else than the network does, and the same wherever they run.
    wanted = bundle.golden.get(f"logits.{precision}/{case}", bundle.golden[f"logits/{case}"])
    temperature = bundle.manifest.temperature
    return _compare(what, softmax(logits[None] / temperature), softmax(wanted / temperature), allowed)


def _compare(what: str, found: np.ndarray, wanted: np.ndarray, allowed: float) -> Finding:
    if found.shape != wanted.shape:
        return Finding(what, False, f"shape {found.shape}, expected {wanted.shape}")
    difference = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
    return Finding(what, difference <= allowed, f"differs by {difference:.1e}, allowed {allowed:.1e}", difference)
