"""What is this machine? Facts only, gathered without loading anything heavy or failing where something is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine's facts; None where there is nothing to tell."""

    system: str
    python: str
    processor: str
    cores: int
    memory_gib: float | None
    board: str | None
    """The board's name, as the device tree has it."""
    l4t: str | None
    """Jetson Linux release, for example ``36.4.3``."""
    cuda_driver: bool
    """Whether the CUDA driver library is there."""
    cameras: tuple[str, ...]
    packages: dict[str, str | None]
    """Version by distribution, None where not installed."""


PACKAGES = ("numpy", "opencv", "dlib", "face_recognition_models", "onnxruntime", "tensorrt", "pycuda")

REMEDIES = {
    "numpy": "pip install numpy",
    "opencv": "pip install opencv-python-headless",
    "dlib": "pip install dlib-bin",
    "face_recognition_models": "pip install face_recognition_models",
    "onnxruntime": "pip install onnxruntime",
}
"""What to type for a package that the runtime can't do without."""

_DISTRIBUTIONS = {
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "dlib": ("dlib-bin", "dlib"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}
_MODULES = {"opencv": "cv2"}


def describe() -> Machine:
    """Gather the facts."""
    release = _read("/etc/nv_tegra_release") or ""
    l4t = re.search(r"R(\d+).*?REVISION: ([\d.]+)", release)
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo") or "")
    model = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo") or "")
    board = _read("/proc/device-tree/model")
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        processor=model.group(1).strip() if model else platform.processor() or platform.machine(),
        cores=cores,
        memory_gib=int(memory.group(1)) / 2**20 if memory else None,
        board=board.strip("\0\n ") if board else None,
        l4t=f"{l4t.group(1)}.{l4t.group(2)}" if l4t else None,
        cuda_driver=_has_library("libcuda.so.1"),
        cameras=tuple(sorted(str(path) for path in Path("/dev").glob("video*"))),
        packages={name: version(name) for name in PACKAGES},
    )


def version(package: str) -> str | None:
    """The installed version of a package, without importing it; None where it is not installed."""
    for distribution in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    # A distribution's own packages (JetPack's cv2 and tensorrt) may carry no metadata.
    try:
        found = importlib.util.find_spec(_MODULES.get(package, package))
    except (ImportError, ValueError):
        return None
    # A mere folder of that name has no origin.
    return "present" if found is not None and found.origin is not None else None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return None


def _has_library(name: str) -> bool:
    folders = ["/usr/lib", "/usr/lib64", "/usr/lib/aarch64-linux-gnu", "/usr/lib/x86_64-linux-gnu"]
    folders += ["/usr/lib/aarch64-linux-gnu/tegra", "/usr/lib/aarch64-linux-gnu/nvidia", "/usr/local/nvidia/lib64"]
    folders += os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return any((Path(folder) / name).exists() for folder in folders if folder)
