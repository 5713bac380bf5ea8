"""The machine that was measured on: what it is, how it is set, what it can do at most, and what it draws."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.device import describe, version

ROOT = Path(__file__).parents[1]

COPIED = 64 << 20
"""Bytes that are copied to measure the memory's bandwidth: more than most caches hold."""

SIDE = 512
"""Of the square matrices whose product gives the rate of arithmetic."""

EVERY_S = 0.05
"""How often power and the device's memory are read."""


def description() -> dict[str, Any]:
    """What this machine is and how it is set; what it does not tell is None or empty."""
    facts = asdict(describe())
    facts["packages"] = {
        **facts["packages"],
        **{name: version(name) for name in ("onnx", "pytest-benchmark", "matplotlib") if _installed(name)},
    }
    return {
        **facts,
        "cameras": list(facts["cameras"]),
        "governors": sorted({_read(path) for path in _cpus("cpufreq/scaling_governor")} - {""}),
        "clocks_mhz": clocks(),
        "power_mode": _said("nvpmodel", "-q"),
        "gpu": _said(
            "nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"
        ),
        "caches": caches(),
    }


def clocks() -> dict[str, float]:
    """Megahertz now: ``cpu`` (the mean over the cores) and ``gpu``, where the system tells them."""
    found = {}
    cores = [int(value) / 1e3 for path in _cpus("cpufreq/scaling_cur_freq") if (value := _read(path)).isdigit()]
    cores = cores or [float(value) for value in re.findall(r"cpu MHz\s*:\s*([\d.]+)", _read(Path("/proc/cpuinfo")))]
    if cores:
        found["cpu"] = round(sum(cores) / len(cores), 1)
    for path in (
        sorted(Path("/sys/class/devfreq").glob("*gpu*/cur_freq")) if Path("/sys/class/devfreq").is_dir() else ()
    ):
        if (value := _read(path)).isdigit():
            found["gpu"] = int(value) / 1e6
    return found


def caches() -> dict[str, str]:
    """Sizes of the first core's caches, as the kernel writes them."""
    found = {}
    for path in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = {"Data": "d", "Instruction": "i"}.get(_read(path / "type"), "")
        found[f"L{_read(path / 'level')}{kind}"] = _read(path / "size")
    return found


def commit(root: Path = ROOT) -> dict[str, Any]:
    """Which version of this project it is: ``commit``, and whether it was ``changed`` since; None where unknown."""
    said = _said("git", "-C", str(root), "rev-parse", "HEAD")
    changed = _said("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return {"commit": said, "changed": None if said is None else bool(changed)}


def _installed(name: str) -> bool:
    try:
        return version(name) is not None
    except (ValueError, ModuleNotFoundError):
        return False


def _cpus(what: str) -> list[Path]:
    return sorted(Path("/sys/devices/system/cpu").glob(f"cpu[0-9]*/{what}"))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _said(*command: str) -> str | None:
    """What a program writes, or None where there is no such program, or it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# -- what it can do at most --------------------------------------------------------------------------------------------


def copy_gb_s(size: int = COPIED, seconds: float = 0.15) -> float:
    """Bytes read and written by one core's copying, 10^9 a second; the best of several, as a limit has to be.

    Args:
        size: bytes that are copied: what fits into a cache is copied within it.
        seconds: to spend.
    """
    source, target = np.ones(max(1, size // 8)), np.zeros(max(1, size // 8))
    np.copyto(target, source)  # the first time, the system looks for the pages
    times = max(1, (1 << 22) // size)  # long enough for the clock
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        begun = time.perf_counter()
        for _ in range(times):
            np.copyto(target, source)
        best = min(best, (time.perf_counter() - begun) / times)
    return 2 * source.nbytes / best / 1e9


def multiply_gop_s(kind: str = "fp32", seconds: float = 0.3) -> float:
    """Operations (two a multiply-add) of a product of matrices by ONNX Runtime on one thread, 10^9 a second; the best.

    Args:
        kind: ``fp32`` or ``int8`` (unsigned by signed, into 32 bits).
        seconds: to spend.

    Raises:
        ImportError: onnx isn't installed.
    """
    import onnxruntime
    from onnx import TensorProto, helper

    one, two, result, name = {
        "fp32": (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT, "MatMul"),
        "int8": (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, "MatMulInteger"),
    }[kind]
    generator = np.random.default_rng(0)
    weights: Any
    if kind == "fp32":
        left, weights = generator.random((SIDE, SIDE), np.float32), generator.random((SIDE, SIDE), np.float32)
    else:
        left = generator.integers(0, 127, (SIDE, SIDE)).astype(np.uint8)
        weights = generator.integers(-63, 64, (SIDE, SIDE)).astype(np.int8)
    # A constant matrix is packed once, as a network's weights are.
    graph = helper.make_graph(
        [helper.make_node(name, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", one, (SIDE, SIDE))],
        [helper.make_tensor_value_info("c", result, (SIDE, SIDE))],
        [helper.make_tensor("b", two, (SIDE, SIDE), weights.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {"a": left})
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        begun = time.perf_counter()
        session.run(None, {"a": left})
        best = min(best, time.perf_counter() - begun)
    return 2 * SIDE**3 / best / 1e9


# -- what it draws ----------------------------------------------------------------------------------------------------


def ina_watts(root: Path = Path("/sys/bus/i2c/drivers/ina3221")) -> dict[str, float]:
    """Watts by rail, from the INA3221 sensors of a Jetson's board; empty where there are none.

    Millivolts times milliamperes of each labelled channel, as the kernel's hwmon interface has them.
    """
    found = {}
    for label in sorted(root.glob("*/hwmon/hwmon*/in*_label")):
        number = re.sub(r"\D", "", label.name)
        volts, amperes = (_read(label.with_name(f"{kind}{number}_input")) for kind in ("in", "curr"))
        if volts.isdigit() and amperes.isdigit():
            found[_read(label)] = int(volts) * int(amperes) / 1e6
    return found


def total_watts(rails: Mapping[str, float]) -> float | None:
    """What the module draws: its input rail where the board has one, else the sum of the rails; None without any."""
    for name in ("VDD_IN", "VIN_SYS_5V0", "POM_5V_IN"):
        if name in rails:
            return rails[name]
    return sum(rails.values()) if rails else None


def rapl_joules(root: Path = Path("/sys/class/powercap")) -> float | None:
    """Joules that the processor's packages have drawn since some time, from Intel's and AMD's RAPL; None without it."""
    counters = [_read(path / "energy_uj") for path in sorted(root.glob("intel-rapl:[0-9]"))]
    return sum(map(int, counters)) / 1e6 if counters and all(one.isdigit() for one in counters) else None


def device_mb(pid: int) -> float | None:
    """Memory that a process holds on an NVIDIA device, MB (10^6 bytes); None where nothing tells.

    A Jetson's memory is one for processor and device: there it is what all processes together have mapped for it.
    """
    if mapped := re.search(r"NvMapMemUsed:\s+(\d+) kB", _read(Path("/proc/meminfo"))):
        return int(mapped.group(1)) * 1024 / 1e6
    return device_mb_of(
        _said("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"), pid
    )


def device_mb_of(said: str | None, pid: int) -> float | None:
    """A process' share of what ``nvidia-smi`` says of them all, MB (10^6 bytes); 0 where it isn't among them."""
    if said is None:
        return None
    found = re.findall(r"^\s*(\d+)\s*,\s*(\d+)\s*$", said, re.MULTILINE)
    return sum(int(mib) for one, mib in found if int(one) == pid) * 2**20 / 1e6


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a machine drew while something ran; None where it does not tell."""

    seconds: float
    joules: float | None
    by: str | None
    """``ina3221`` (the whole module) or ``rapl`` (the processor alone)."""
    device_mb: float | None
    """The most."""


class Meter:
    """Reads power and the device's memory beside what runs: ``with Meter() as meter: ...`` then ``meter.drawn``.

    Args:
        watts: power by rail, now.
        joules: a counter that only grows; used where ``watts`` gives nothing.
    """

    drawn: Drawn

    def __init__(
        self,
        watts: Callable[[], Mapping[str, float]] = ina_watts,
        joules: Callable[[], float | None] = rapl_joules,
    ) -> None:
        self._watts, self._joules = watts, joules
        self._stop = threading.Event()
        self._samples: list[tuple[float, float]] = []
        self._device: list[float] = []
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Meter:
        self._begun, self._counter = time.monotonic(), self._joules()
        self._has_watts = total_watts(self._watts()) is not None
        self._has_device = device_mb(os.getpid()) is not None
        if self._has_watts or self._has_device:
            self._thread = threading.Thread(name="bench-meter", target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        seconds = time.monotonic() - self._begun
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        joules, by = None, None
        if self._samples:
            times, watts = zip(*self._samples, strict=True)
            # From the first reading to the last, the mean for the ends.
            at, drawn = np.array(times), np.array(watts)
            spanned = float((np.diff(at) * (drawn[1:] + drawn[:-1]) / 2).sum())
            joules = spanned + (seconds - (times[-1] - times[0])) * sum(watts) / len(watts)
            by = "ina3221"
        elif self._counter is not None and (after := self._joules()) is not None and after >= self._counter:
            joules, by = after - self._counter, "rapl"
        self.drawn = Drawn(seconds, joules, by, max(self._device, default=None))

    def _watch(self) -> None:
        while True:
            watts = total_watts(self._watts()) if self._has_watts else None
            if watts is not None:
                self._samples.append((time.monotonic(), watts))
            if self._has_device and (held := device_mb(os.getpid())) is not None:
                self._device.append(held)
            if self._stop.wait(EVERY_S):
                return
