"""PyCUDA and the driver, found and fit; or one line that says which of them is missing, and what to type."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from edge.cuda.driver import Driver
from edge.errors import BackendError

OLDEST_DRIVER = (12, 2)
"""JetPack 6.0's. Capture, graphs and what TensorRT 10.3 wants are all there."""

WAY_OUT = "--backend onnxruntime"


def opened() -> tuple[Any, Driver]:
    """PyCUDA and the driver, both ready.

    Raises:
        BackendError: one of them is missing or too old, or there is no GPU.
    """
    if importlib.util.find_spec("pycuda") is None:
        raise BackendError(
            "the GPU is reached through PyCUDA, which is not installed; type: PATH=$PATH:/usr/local/cuda/bin "
            f"pip install 'edge-emotion[jetson]', or: {WAY_OUT}"
        )
    try:
        driver = Driver()
    except OSError as error:
        raise BackendError(
            f"no CUDA driver ({error}); expected JetPack 6 or newer (in a container: --runtime nvidia); type: {WAY_OUT}"
        ) from error
    except AttributeError as error:
        raise BackendError(f"this CUDA driver is too old ({error}); {_EXPECTED}") from error
    found = driver.version()
    if found < OLDEST_DRIVER:
        raise BackendError(f"this CUDA driver is too old: it runs CUDA {_dotted(found)}; {_EXPECTED}")
    try:
        drv: Any = importlib.import_module("pycuda.driver")
        drv.init()
    except ImportError as error:
        raise BackendError(
            f"PyCUDA can't be loaded with this driver, which runs CUDA {_dotted(found)} ({error}); "
            f"type: {_REINSTALL}, or: {WAY_OUT}"
        ) from error
    except Exception as error:  # pycuda.driver.Error, whose module is what could not be made ready
        raise BackendError(
            f"no GPU answers ({error}); expected one that nvidia-smi lists (in a container: --runtime nvidia); "
            f"type: {WAY_OUT}"
        ) from error
    built = tuple(drv.get_version())
    if built[0] > found[0]:
        raise BackendError(
            f"PyCUDA was built for CUDA {_dotted(built)}; this driver runs CUDA {_dotted(found)}; "
            f"type: {_REINSTALL}, or: {WAY_OUT}"
        )
    return drv, driver


_EXPECTED = f"expected CUDA {OLDEST_DRIVER[0]}.{OLDEST_DRIVER[1]} (JetPack 6) or newer; update it, or type: {WAY_OUT}"
_REINSTALL = "PATH=$PATH:/usr/local/cuda/bin pip install --force-reinstall --no-cache-dir --no-deps pycuda"


def _dotted(version: Sequence[int]) -> str:
    return f"{version[0]}.{version[1]}"
