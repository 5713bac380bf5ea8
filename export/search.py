"""Which calibration method INT8 takes, and which layers it leaves high: by measured score."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from export.calibration import Ranges
from export.errors import ExportError
from export.int8 import RULES, Rules, quantisable, to_int8


@dataclass(frozen=True)
class Quantised:
    """What :func:`search` settled on."""

    model: onnx.ModelProto
    method: str
    kept: tuple[str, ...]
    """Layers that stayed high."""
    record: list[dict[str, Any]] = field(default_factory=list)
    """Every step: ``step``, ``method``, ``kept`` (a list) and ``score``."""


def search(
    model: onnx.ModelProto,
    ranges_by_method: Mapping[str, Ranges],
    evaluate: Callable[[onnx.ModelProto], float],
    *,
    floor: float,
    high: str = "fp32",
    fp32: Collection[str] = (),
    rules: Rules = RULES,
) -> Quantised:
    """The calibration method that scores best, and as few layers left high as the floor asks for.

    All methods are tried. Where none reaches the floor, each layer is quantised alone to see what it costs, with the
    best method first; the costliest are left high, one more at a time, until the floor is reached; then each that turns
    out not to be needed is given back. The next best method follows where this fails.

    Args:
        model: fp32.
        ranges_by_method: of :func:`export.calibration.calibrate`.
        evaluate: a score of a quantised model, the higher the better, always the same for the same model.
        floor: the score that will do.
        high: see :func:`to_int8`.
        fp32: see :func:`to_int8`.
        rules: see :func:`to_int8`.

    Raises:
        ExportError: no method was given, or the floor is out of reach with a single layer in INT8.
    """
    if not ranges_by_method:
        raise ExportError("no ranges were given to choose from; expected those of at least one method; see calibrate()")
    layers = quantisable(model, rules=rules)
    record: list[dict[str, Any]] = []

    def attempt(step: str, method: str, kept: Collection[str]) -> tuple[float, onnx.ModelProto]:
        made = to_int8(model, ranges_by_method[method], keep=kept, high=high, fp32=fp32, rules=rules)
        score = float(evaluate(made))
        ordered = [name for name in layers if name in kept]
        record.append({"step": step, "method": method, "kept": ordered, "score": score})
        return score, made

    scores = {method: attempt("method", method, ())[0] for method in ranges_by_method}
    for method in sorted(scores, key=lambda name: -scores[name]):  # stable: the first of equals
        if scores[method] >= floor:
            made = to_int8(model, ranges_by_method[method], high=high, fp32=fp32, rules=rules)
            return Quantised(made, method, (), record)
        alone = {name: attempt("alone", method, set(layers) - {name})[0] for name in layers}
        costliest = sorted(layers, key=lambda name: alone[name])
        kept: list[str] = []
        score = scores[method]
        while score < floor and len(kept) + 1 < len(layers):
            kept.append(costliest[len(kept)])
            score, best = attempt("keep", method, kept)
        if score < floor:
            continue
        for name in kept[:-1]:
            fewer = [one for one in kept if one != name]
            score, made = attempt("give back", method, fewer)
            if score >= floor:
                kept, best = fewer, made
        return Quantised(best, method, tuple(name for name in layers if name in kept), record)
    raise ExportError(
        f"INT8 reaches {max(entry['score'] for entry in record):.4f} at best; expected {floor:.4f}; "
        "calibrate with more samples, or ship fp16"
    )
