"""Does a bundle still do what it did when it was exported? Its golden vectors are replayed, stage by stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from edge.bundle import ANSWER, WINDOW, Bundle
from edge.engine.contract import Engine
from edge.errors import BundleError
from edge.faces.detect import FaceDetector
from edge.smooth import softmax
from edge.window import Cutter, Windows


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
