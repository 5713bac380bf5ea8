"""TensorRT's library: found and fit to run here, or refused with what to type. Only imported where a GPU is wanted."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

from edge.device import describe
from edge.engine.plans import Place
from edge.errors import BackendError

if TYPE_CHECKING:
    from edge.cuda import Device

OLDEST = (10, 3)
"""Strongly typed networks as we build them; JetPack 6 has it."""

ELSE = "or type: --backend onnxruntime"

_NOT_HERE = re.compile(r"SM \d+ is not supported|[Uu]nsupported SM|no kernel image", re.ASCII)


def library() -> Any:
    """The module ``tensorrt``.

    Raises:
        BackendError: it is not installed, can't be loaded, or is too old; the message says what to type.
    """
    absent: ImportError | None = None
    trt: Any = None
    try:
        trt = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        absent = error
    except (ImportError, OSError) as error:
        raise BackendError(
            f"the tensorrt backend can't run here: TensorRT can't be loaded ({first_line(error)}); "
            f"install the libraries of the same version as its Python package, {ELSE}"
        ) from error
    # Any folder of that name on Python's path makes a module without anything in it.
    if not hasattr(trt, "Builder"):
        raise BackendError(
            "the tensorrt backend can't run here: TensorRT is not installed; JetPack brings it for the system Python: "
            "type: python3 -m venv --system-site-packages VENV (desktop: pip install 'edge-emotion[tensorrt]'), "
            f"{ELSE}"
        ) from absent
    version = str(trt.__version__)
    numbers = tuple(int(one) for one in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        raise BackendError(
            f"the tensorrt backend needs TensorRT {OLDEST[0]}.{OLDEST[1]} or newer (JetPack 6), and here is {version}; "
            f"update JetPack, {ELSE}"
        )
    return trt


def place(device: Device) -> Place:
    """Where plans that are built or run now belong."""
    trt = library()
    major, minor = device.capability
    return Place(str(trt.__version__), f"{major}.{minor}", device.name, describe().l4t or "")


def log_of() -> Any:
    """A logger for TensorRT that keeps what it complains of, instead of printing it.

    Returns:
        An ``ILogger`` with ``words()``, the latest error in one line, and ``clear()``.
    """
    trt = library()

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]  # the class is known at run time alone
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            # It is called from the builder's threads, and an exception here would end the process.
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors = [*self._errors[-15:], str(msg)]

        def words(self) -> str:
            """What went wrong, shortened; the first error is the cause of the others."""
            return first_line(self._errors[0]) if self._errors else "TensorRT says nothing of the cause"

        def clear(self) -> None:
            self._errors = []

    return Log()


def refusal(what: str, words: str, tensorrt: Place) -> BackendError:
    """The error for a thing that TensorRT would not do, with the way out that its words point to."""
    version = tensorrt.tensorrt
    low = words.lower()
    if _NOT_HERE.search(words):
        way = (
            f"this TensorRT has no kernels for SM {tensorrt.sm}: install TensorRT 10.16 or newer (JetPack 7.2), or the "
            f"version that JetPack brings, {ELSE}"
        )
    elif "memory" in low or "could not find any implementation" in low or "allocat" in low:
        way = f"memory may be too short: close other programs or add swap, and try again, {ELSE}"
    elif "insufficient" in low or "error: 35" in low or "driver" in low:
        way = f"the CUDA driver may be too old for TensorRT {version}: update it (JetPack), {ELSE}"
    else:
        way = f"type: edge check --device, and attach its report to a bug, {ELSE}"
    return BackendError(f"{what}: {words}; {way}")


def first_line(error: object, limit: int = 300) -> str:
    """The first line of what was said, in one piece."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:limit] if lines else type(error).__name__
