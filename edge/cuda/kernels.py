"""CUDA sources to functions on the GPU: compiled on this machine once, kept, and launched with arguments that stay.

Machine code that was built elsewhere is no use here: what CUDA 13's compiler writes, JetPack 6's driver (12.6) refuses.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.cache import own_folder, read_own, write_own
from edge.errors import BackendError

if TYPE_CHECKING:
    from edge.cuda.device import Buffer, Device

COMPILER_PLACES = ("/usr/local/cuda/bin/nvcc", "/usr/bin/nvcc")
"""Where JetPack and Debian put it; JetPack leaves it off PATH."""

OPTIONS = ("-O3",)


def compiled(
    source: Path, arch: str, cache: Path, driver: tuple[int, int], *, options: Sequence[str] = OPTIONS
) -> bytes:
    """The machine code (a cubin) of one source.

    Args:
        source: a ``.cu`` file; what it includes lies beside it.
        arch: ``sm_87`` and the like.
        cache: the folder that keeps it.
        driver: the version of what will load it.
        options: for nvcc.

    Raises:
        BackendError: there is no nvcc, or it refuses the source: its first error is in the message.
    """
    kept = cache / "kernels" / f"{source.stem}-{arch}-{_key(source, arch, driver, options)}.cubin"
    if (code := _trusted(kept)) is not None:
        return code
    nvcc = os.environ.get("EDGE_NVCC") or shutil.which("nvcc") or next(filter(os.path.exists, COMPILER_PLACES), None)
    if nvcc is None:
        raise BackendError(
            f"the kernels of {source.name} must be compiled once for this GPU ({arch}), and there is no nvcc; "
            "type: sudo apt install cuda-nvcc-12-6 (JetPack 6), cuda-nvcc-13-2 (JetPack 7.2), or: --backend onnxruntime"
        )
    with tempfile.TemporaryDirectory(prefix="edge-nvcc-") as folder:
        out = Path(folder) / "kernel.cubin"
        command = [nvcc, "-cubin", f"-arch={arch}", *options, "-I", str(source.parent), "-o", str(out), str(source)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise BackendError(
                f"{nvcc} can't be run: {error.strerror}; set EDGE_NVCC to CUDA's nvcc, or: --backend onnxruntime"
            ) from error
        if done.returncode or not out.is_file():
            lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            why = next(
                (line for line in lines if "error" in line or "fatal" in line), lines[0] if lines else "no reason"
            )
            raise BackendError(
                f"{nvcc} can't compile {source.name} for {arch}: {why}; expected a CUDA toolkit that knows {arch}; "
                "set EDGE_NVCC to another nvcc, or: --backend onnxruntime"
            )
        code = out.read_bytes()
    _keep(kept, code)
    return code


def _key(source: Path, arch: str, driver: tuple[int, int], options: Sequence[str]) -> str:
    """Changes with everything that the machine code depends on; a compiler changes with the driver, on a Jetson."""
    found = hashlib.sha256(repr((arch, driver, tuple(options))).encode())
    for path in [source, *sorted((*source.parent.glob("*.cuh"), *source.parent.glob("*.h")))]:
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:32]


def _trusted(kept: Path) -> bytes | None:
    """What was kept, if nobody else can have written it and it is whole."""
    try:
        whole = read_own(kept)
    except (FileNotFoundError, BackendError):
        return None
    digest, code = whole[:32], whole[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _keep(kept: Path, code: bytes) -> None:
    """Write it whole or not at all; a folder that can't be written to only costs the next start its seconds."""
    with suppress(BackendError):
        own_folder(kept.parent)
        write_own(kept, hashlib.sha256(code).digest() + code)


class Loaded:
    """Modules and what was found in them, while the device is open. It knows no device, so it keeps none alive."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self.modules = list(modules)
        self.functions: dict[str, Any] = {}

    def release(self) -> None:
        """Let go of them."""
        self.functions.clear()
        self.modules.clear()


class Launch:
    """A kernel with its grid and arguments: calling it queues one run. Made by :meth:`Kernels.launch`."""

    __slots__ = ("_block", "_device", "_grid", "_loaded", "_packed", "_shared", "kernel")

    def __init__(
        self,
        device: Device,
        loaded: Loaded,
        kernel: str,
        shape: tuple[tuple[int, int, int], tuple[int, int, int], int],
        arguments: Sequence[Buffer | int | float | np.generic],
    ) -> None:
        self.kernel = kernel
        self._device, self._loaded, self._packed = device, loaded, packed_arguments(arguments)
        self._grid, self._block, self._shared = shape

    def give(self, arguments: Sequence[Buffer | int | float | np.generic]) -> None:
        """Other arguments from the next call on; what is captured in a graph keeps those it had."""
        self._packed = packed_arguments(arguments)

    def __call__(self) -> None:
        """Queue it on the device's stream.

        Raises:
            DeviceLostError: the GPU is gone.
            BackendError: the driver refuses the launch.
        """
        device = self._device
        with device.doing(f"starting {self.kernel}"):
            # Function.prepared_async_call packs the arguments anew each time, and sets the block through a call that
            # CUDA has deprecated; this is what it does in the end.
            self._loaded.functions[self.kernel]._launch_kernel(
                self._grid, self._block, self._packed, self._shared, device.queue
            )


class Kernels:
    """The ``extern "C" __global__`` functions of some sources, on the GPU. Made by :meth:`Device.kernels`."""

    def __init__(self, device: Device, loaded: Loaded) -> None:
        self._device, self._loaded = device, loaded

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Buffer | int | float | np.generic],
        shared: int = 0,
    ) -> Launch:
        """Bind a kernel to its arguments, once.

        Args:
            kernel: its name in the source.
            grid: blocks, 1 to 3 numbers.
            block: threads, 1 to 3 numbers.
            arguments: in the source's order: a buffer is passed as its pointer, a Python int as C's int, a float as
                float, a NumPy scalar as what it is.
            shared: bytes of dynamic shared memory, at most 48 KiB.

        Raises:
            BackendError: no such kernel.
        """
        self._find(kernel)
        return Launch(self._device, self._loaded, kernel, (_three(grid), _three(block), shared), arguments)

    def _find(self, kernel: str) -> None:
        functions = self._loaded.functions
        if kernel not in functions:
            with self._device.doing(f"looking for the kernel {kernel}"):
                for module in self._loaded.modules:
                    try:
                        functions[kernel] = module.get_function(kernel)
                        break
                    except self._device.drv.Error as error:
                        if "not found" not in str(error):
                            raise
        if kernel not in functions:
            raise BackendError(f'none of the loaded sources has a kernel {kernel!r}; expected an extern "C" __global__')


def packed_arguments(arguments: Sequence[Buffer | int | float | np.generic]) -> bytes:
    """Arguments as the driver takes them: one after another, each at a multiple of its own size."""
    form, values = "@", []
    for one in arguments:
        if isinstance(one, np.generic):
            form += one.dtype.char
            values.append(one.item())
        elif isinstance(one, bool):
            raise TypeError("a kernel has no bool argument; give an int")
        elif isinstance(one, int):
            form += "i"
            values.append(one)
        elif isinstance(one, float):
            form += "f"
            values.append(one)
        else:
            form += "P"
            values.append(one.pointer)
    return struct.pack(form, *values)


def _three(numbers: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*map(int, numbers), 1, 1)[:3]
    return x, y, z
