"""The table of rules, and what runs them over a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx

from export.lint import operators, precision, quantised, structure
from export.lint.contract import VERSIONS, Finding, LintError, Violation, parse_version
from export.lint.graph import Graph

RULES: dict[str, Callable[[Graph], Iterator[Finding]]] = {
    "opset": structure.opset,
    "domain": structure.domain,
    "size": structure.size,
    "valid-onnx": structure.valid,
    "initialiser-names": structure.names,
    "sparse": structure.sparse,
    "external-data": structure.external,
    "edge-types": structure.edges,
    "tensor-types": structure.tensor_types,
    "static-shapes": structure.shapes,
    "declarations": structure.declarations,
    "operators": operators.operators,
    "batch-norm": operators.batch_norm,
    "dropout": operators.dropout,
    "operator-types": operators.operator_types,
    "integers": operators.integers,
    "constants": operators.constants,
    "weights": operators.weights,
    "outputs": operators.outputs,
    "pooling": operators.pools,
    "resize": operators.resizes,
    "pad": operators.pads,
    "grid-sample": operators.grids,
    "mixed-types": precision.mixtures,
    "fp16-finite": precision.finite,
    "fp16-range": precision.reach,
    "int8-only": quantised.int8_only,
    "zero-point": quantised.zero_point,
    "scale": quantised.scales,
    "scale-type": quantised.scale_types,
    "scale-axis": quantised.granularity,
    "qdq-pairs": quantised.pairs,
    "quantised-bias": quantised.bias,
    "quantised-batch-norm": quantised.before_batch_norm,
    "concat-scales": quantised.concat_scales,
    "quantised-gates": quantised.squashed,
    "quantised-transpose": quantised.transposed,
    "int8-channels": quantised.channels,
}
"""What is looked for, by key. Each rule is a function of the graph alone; its docstring names its source."""

FEW = 3


def lint(model: onnx.ModelProto, versions: Sequence[str] = VERSIONS, *, folder: Path | None = None) -> list[Violation]:
    """Everything that a strongly typed build of the model would refuse or run badly.

    Args:
        model: loaded with ``load_external_data=False`` if it has external data.
        versions: of TensorRT, as ``10.3`` or ``10.3.0.30``; from 10.3 to 11.x.
        folder: where the model's external data lies. None checks only how the data is described, and weights that
            are stored there are not read.

    Returns:
        In the order of :data:`RULES`, and within a rule in the graph's order; empty if a build should go through.

    Raises:
        LintError: a version that is not known here.
    """
    asked = {text: parse_version(text) for text in versions}
    graph = Graph(model, folder)
    found = []
    for rule, check in RULES.items():
        for finding in check(graph):
            broken = tuple(text for text, version in asked.items() if finding.broken_in(version))
            if broken:
                found.append(Violation(finding.node, rule, broken, finding.problem, finding.remedy))
    return found


def require(
    model: onnx.ModelProto, name: str, versions: Sequence[str] = VERSIONS, *, folder: Path | None = None
) -> None:
    """Refuse a model with violations.

    Args:
        model: as for :func:`lint`.
        name: what to call it in the message, as its file's name.
        versions: as for :func:`lint`.
        folder: as for :func:`lint`.

    Raises:
        LintError: with the first few violations, each with its node, rule and remedy, in one line.
    """
    violations = lint(model, versions, folder=folder)
    if violations:
        rest = len(violations) - FEW
        more = f" | and {rest} more: python -m export.lint {name}" if rest > 0 else ""
        raise LintError(f"TensorRT would refuse {name}: {' | '.join(map(str, violations[:FEW]))}{more}")
