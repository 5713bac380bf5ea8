"""Does a bundle still do what it did when it was exported? Its golden vectors are replayed, stage by stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from edge.bundle import Bundle
from edge.engine.contract import Engine
from edge.errors import BundleError
from edge.faces.detect import FaceDetector
from edge.preprocess import face_crop, to_tensor
from edge.smooth import softmax


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing checked."""

    what: str
    passed: bool
    detail: str


def check_preprocessing(bundle: Bundle) -> list[Finding]:
    """Picture and eyes to tensor: largest difference from the golden tensor, in the tensor's unit, case by case."""
    (spec,) = bundle.manifest.inputs
    allowed = bundle.manifest.tolerances["tensor"]
    findings = []
    for case in bundle.cases:
        crop = face_crop(bundle.golden[f"picture/{case}"], bundle.golden[f"eyes/{case}"], spec)
        findings.append(
            _compare(f"pixels -> tensor, {case}", to_tensor(crop, spec), bundle.golden[f"tensor/{case}"], allowed)
        )
    return findings


def check_engine(bundle: Bundle, engine: Engine) -> list[Finding]:
    """Golden tensor to logits: largest difference in calibrated probability, case by case."""
    (spec,), (output,) = bundle.manifest.inputs, bundle.manifest.outputs
    allowed = bundle.manifest.tolerances[engine.precision]
    findings = []
    for case in bundle.cases:
        logits = engine.run({spec.name: np.ascontiguousarray(bundle.golden[f"tensor/{case}"])})[output.name]
        found = softmax(logits / bundle.manifest.temperature)
        wanted = softmax(bundle.golden[f"logits/{case}"] / bundle.manifest.temperature)
        findings.append(
            _compare(f"tensor -> probabilities, {engine.backend} {engine.precision}, {case}", found, wanted, allowed)
        )
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


def _compare(what: str, found: np.ndarray, wanted: np.ndarray, allowed: float) -> Finding:
    if found.shape != wanted.shape:
        return Finding(what, False, f"shape {found.shape}, expected {wanted.shape}")
    difference = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
    return Finding(what, difference <= allowed, f"differs by {difference:.1e}, allowed {allowed:.1e}")
