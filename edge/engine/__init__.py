"""Inference behind one contract: named tensors in, named tensors out.

``open_engine`` gives exactly the backend that was asked for or raises; only ``auto`` chooses.
"""

from __future__ import annotations

from edge.bundle import Bundle
from edge.engine.contract import Engine
from edge.errors import BackendError, OptionError

BACKENDS = ("auto", "onnxruntime", "tensorrt")
PRECISIONS = ("auto", "fp32", "fp16", "int8")

__all__ = ["BACKENDS", "PRECISIONS", "Engine", "open_engine", "preferred"]


def preferred(bundle: Bundle) -> tuple[str, ...]:
    """A bundle's precisions, the fastest on ONNX Runtime's CPU provider first.

    An export admits INT8 only where it names FP32's label on 99 of 100 faces; it takes about 0.4 of FP32's time. FP16 a
    CPU computes in FP32, with a cast before and after.
    """
    return tuple(one for one in ("int8", "fp32", "fp16") if one in bundle.manifest.precisions)


def open_engine(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Engine:
    """Load a bundle's graphs.

    Args:
        bundle: opened and verified.
        backend: ``auto``, ``onnxruntime`` or ``tensorrt``.
        precision: ``auto``, ``fp32``, ``fp16`` or ``int8``; ``auto`` takes the bundle's fastest on this backend, see
            :func:`preferred`.

    Raises:
        OptionError: an unknown name.
        BackendError: the backend can't run here.
        BundleError: the bundle has no graphs of this precision, or they can't be trusted.
    """
    if backend not in BACKENDS:
        raise OptionError(f"backend {backend!r} is unknown; expected one of {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise OptionError(f"precision {precision!r} is unknown; expected one of {', '.join(PRECISIONS)}")
    if backend == "tensorrt":
        raise BackendError("the tensorrt backend is not part of this version; type: --backend onnxruntime (or auto)")
    if precision == "auto":
        precision = preferred(bundle)[0]
    from edge.engine.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, precision)
