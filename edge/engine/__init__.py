"""Inference behind one contract: named tensors in, named tensors out.

``open_engine`` gives exactly the backend that was asked for or raises; only ``auto`` chooses: TensorRT where a plan of
this machine is admitted (:mod:`edge.engine.admission`), else ONNX Runtime on the CPU.
"""

from __future__ import annotations

import logging

from edge.bundle import Bundle
from edge.engine.contract import Engine, Memory
from edge.errors import BundleError, EdgeError, OptionError

_LOG = logging.getLogger(__name__)

BACKENDS = ("auto", "onnxruntime", "tensorrt")
PRECISIONS = ("auto", "fp32", "fp16", "int8")

__all__ = ["BACKENDS", "PRECISIONS", "Engine", "Memory", "choices", "open_engine", "preferred"]


def preferred(bundle: Bundle) -> tuple[str, ...]:
    """A bundle's precisions, the fastest on ONNX Runtime's CPU provider first.

    An export admits INT8 only where it names FP32's label on 99 of 100 faces; it takes about 0.4 of FP32's time. FP16 a
    CPU computes in FP32, with a cast before and after.
    """
    return tuple(one for one in ("int8", "fp32", "fp16") if one in bundle.manifest.precisions)


def choices(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> tuple[tuple[str, str], ...]:
    """What to try for a bundle, in order, each a backend and a precision for :func:`open_engine`.

    Only what was left open is chosen: one thing to try where both were named.

    Raises:
        OptionError: an unknown name.
    """
    _known(backend, precision)
    if backend == "tensorrt":
        return (("tensorrt", precision),)
    on_cpu = tuple(("onnxruntime", one) for one in (preferred(bundle) if precision == "auto" else (precision,)))
    return (("auto", precision), *on_cpu) if backend == "auto" and _may_have_gpu() else on_cpu


def open_engine(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Engine:
    """Load a bundle's graphs.

    Args:
        bundle: opened and verified.
        backend: ``auto``, ``onnxruntime`` or ``tensorrt``. ``auto`` takes TensorRT where it is installed and admitted
            for this bundle, says why where it is not, and goes on with ONNX Runtime should the GPU fail.
        precision: ``auto``, ``fp32``, ``fp16`` or ``int8``; ``auto`` takes the bundle's fastest on this backend, see
            :func:`preferred`, and :mod:`edge.engine.admission` for TensorRT's.

    Raises:
        OptionError: an unknown name.
        BackendError: the backend can't run here.
        BundleError: the bundle has no graphs of this precision, or they can't be trusted.
    """
    _known(backend, precision)
    if precision not in ("auto", *bundle.manifest.precisions):
        there = ", ".join(bundle.manifest.precisions)
        raise BundleError(f"{bundle.where}: no {precision} graph in this bundle; it has {there}")
    if backend == "tensorrt":
        from edge.engine.admission import open_admitted

        return open_admitted(bundle, precision)
    if backend == "auto" and _may_have_gpu():
        from edge.engine.admission import open_admitted
        from edge.engine.fallback import FallbackEngine

        try:
            return FallbackEngine(bundle, open_admitted(bundle, precision), lambda: _proven_on_cpu(bundle, precision))
        except EdgeError as error:
            _LOG.warning("ONNX Runtime is used: %s", error)
    return _on_cpu(bundle, precision)


def _known(backend: str, precision: str) -> None:
    if backend not in BACKENDS:
        raise OptionError(f"backend {backend!r} is unknown; expected one of {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise OptionError(f"precision {precision!r} is unknown; expected one of {', '.join(PRECISIONS)}")


def _on_cpu(bundle: Bundle, precision: str) -> Engine:
    from edge.engine.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, preferred(bundle)[0] if precision == "auto" else precision)


def _proven_on_cpu(bundle: Bundle, precision: str) -> Engine:
    """What takes over from a GPU in the middle of a run: it too must give the bundle's own answers."""
    from edge.check import check_engine, require

    engine = _on_cpu(bundle, precision)
    require(bundle, check_engine(bundle, engine, brief=True))
    return engine


def _may_have_gpu() -> bool:
    """Whether TensorRT is worth a try: what costs nothing to find out."""
    from edge.device import describe

    machine = describe()
    return machine.cuda_driver and None not in (machine.packages["tensorrt"], machine.packages["pycuda"])
