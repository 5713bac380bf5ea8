"""``python -m export.lint MODEL.onnx ...``: one line a violation; status 1 if there is any, 2 for what is no model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from edge.arguments import BAD_INPUT, Parser
from export.lint import VERSIONS, LintError, lint
from export.lint.contract import parse_version
from export.lint.structure import LARGEST

FOUND = 1
"""Exit status where a model has violations."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(
        prog="python -m export.lint", description="Find what TensorRT would refuse in ONNX graphs, without TensorRT."
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument(
        "--tensorrt",
        default=",".join(VERSIONS),
        metavar="VERSIONS",
        help="with commas between (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    versions = [text.strip() for text in options.tensorrt.split(",")]
    try:
        for text in versions:
            parse_version(text)
    except LintError as error:
        parser.error(str(error))
    status = 0
    for path in options.models:
        try:
            violations = lint(read(path), versions, folder=path.parent)
        except LintError as error:
            print(f"lint: {error}", file=sys.stderr)
            status = BAD_INPUT
            continue
        for violation in violations:
            print(f"{path}: {violation}")
        if violations:
            status = max(status, FOUND)
        else:
            print(f"{path}: ok")
    return status


def read(path: Path) -> onnx.ModelProto:
    """An ONNX file, its external data left where it lies.

    Raises:
        LintError: it can't be read, is no ONNX, or is cut off.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise LintError(f"{path} is larger than 2 GiB, which no ONNX file is; save it with external data")
        model = onnx.ModelProto.FromString(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LintError(f"{path} can't be read: {reason}; expected an ONNX file") from error
    except DecodeError as error:
        raise LintError(f"{path} is no ONNX file, or a part of one; export it again") from error
    if not model.ir_version or not model.graph.node:
        raise LintError(f"{path} is no ONNX file, or one without a graph; export it again")
    return model


if __name__ == "__main__":
    sys.exit(main())
