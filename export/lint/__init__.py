"""What a strongly typed TensorRT build would refuse or run badly, found on the desktop.

``python -m export.lint --help``. TensorRT's parser stops at the first bad node, and only on a board; this reads
the graph alone and names every one::

    for violation in lint(onnx.load("model.onnx")):
        print(violation)
"""

from export.lint.contract import VERSIONS, LintError, Violation
from export.lint.rules import RULES, lint, require

__all__ = ["RULES", "VERSIONS", "LintError", "Violation", "lint", "require"]
