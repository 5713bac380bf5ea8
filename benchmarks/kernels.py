"""What the CUDA kernels cost, before any GPU is there: ``python -m benchmarks.kernels [--side N] [--arch sm_87 ...]``.

nvcc's own account of every kernel (registers, spills), the occupancy that follows from it and the launch plan, and the
bytes that the flow must move at least, beside what each board's memory can. Nothing here is a measured time.

Exit status 0, or 2 where nvcc is absent or does not compile a kernel.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from edge.errors import BackendError, EdgeError
from edge.flow.contract import CLG
from edge.flow.plan import KERNELS, NONE, Image, Launch, Number, Plan, Pointer, crop_plan, plan
from edge.manifest import Alignment, InputSpec, Normalisation

ARCHITECTURES = ("sm_87", "sm_110")
"""Orin and Thor."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What nvcc says of one kernel."""

    kernel: str
    arch: str
    registers: int
    """Of a thread."""
    static: int
    """Shared memory beside the launch's own, bytes a block."""
    stack: int
    """Local memory, bytes a thread."""
    spills: int
    """Bytes stored or loaded because registers ran out."""


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """What one holds at a time (cuda_occupancy.h of CUDA 13; threads as ptxas accepts them in launch bounds)."""

    warps: int
    blocks: int
    shared: int
    """Bytes, of which each block takes one KiB more than it asks for."""
    registers: int = 65536


HOLDS = {"sm_87": Multiprocessor(48, 16, 164 << 10), "sm_110": Multiprocessor(48, 24, 228 << 10)}


@dataclass(frozen=True, slots=True)
class Board:
    """A Jetson, by its data sheet."""

    name: str
    multiprocessors: int
    gigabytes_s: float
    """Of its memory."""


BOARDS = (
    Board("Orin Nano 8GB", 8, 68.0),
    Board("Orin NX 16GB", 8, 102.4),
    Board("AGX Orin 64GB", 16, 204.8),
    Board("AGX Thor", 20, 273.0),
)


def nvcc() -> str:
    """Where nvcc is: on PATH, or in the newest /usr/local/cuda.

    Raises:
        BackendError: nowhere.
    """
    usual = sorted(glob("/usr/local/cuda*/bin/nvcc"))
    if found := shutil.which("nvcc") or (usual[-1] if usual else None):
        return found
    raise BackendError("nvcc is absent; expected on PATH or in /usr/local/cuda*/bin; install the CUDA toolkit")


def compile_all(source: Path, arch: str) -> list[Compiled]:
    """Compiles a source as on a robot, and reads what ptxas says of it.

    Args:
        source: a ``.cu`` file.
        arch: as ``sm_87``.

    Raises:
        BackendError: no nvcc, or it refuses the source; the message has its first line.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc(), f"-arch={arch}", "-std=c++11", "-Xptxas", "-v", "-cubin", "-o", f"{folder}/x", str(source)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    said = result.stdout + result.stderr
    if result.returncode:
        raise BackendError(f"{source.name} does not compile for {arch}: {said.strip().splitlines()[0]}; correct it")
    found = []
    for part in said.split("Compiling entry function ")[1:]:
        name = part.split("'")[1]
        stack, stores, loads = (
            int(_one(rf"(\d+) bytes {what}", part)) for what in ("stack frame", "spill stores", "spill loads")
        )
        registers = int(_one(r"Used (\d+) registers", part))
        static = re.search(r"(\d+) bytes smem", part)
        found.append(Compiled(name, arch, registers, int(static[1]) if static else 0, stack, stores + loads))
    return sorted(found, key=lambda one: one.kernel)


def occupancy(compiled: Compiled, launch: Launch) -> tuple[int, float]:
    """Blocks that a multiprocessor holds at a time, and the share of its warps that they are."""
    holds = HOLDS[compiled.arch]
    warps = -(-launch.block[0] * launch.block[1] * launch.block[2] // 32)
    # Registers are given to a warp in pieces of 256; each quarter of a multiprocessor has a quarter of them.
    of_warp = -(-compiled.registers * 32 // 256) * 256
    by_registers = 4 * (holds.registers // 4 // of_warp) // warps
    by_shared = holds.shared // (-(-(launch.shared + compiled.static) // 128) * 128 + 1024)
    blocks = min(holds.blocks, holds.warps // warps, by_registers, by_shared)
    return blocks, blocks * warps / holds.warps


def bytes_moved(launch: Launch) -> int:
    """What a launch reads and writes at least: every number once, no tile's rim twice."""
    numbers = [one.value for one in launch.arguments if isinstance(one, Number)]
    pointers = [one.buffer for one in launch.arguments if isinstance(one, Pointer)]
    width, height = int(numbers[0]), int(numbers[1])
    pixels = width * height
    if launch.kernel == "smooth":
        return 2 * (1 + 4) * pixels
    if launch.kernel == "halve":
        return 2 * 4 * (pixels + (width + 1) // 2 * ((height + 1) // 2))
    if launch.kernel == "linearise":
        motion = int(numbers[2]) * int(numbers[3]) if numbers[4] != NONE else 0
        return (2 * 4 + 5 * 4 + 2 * 4) * pixels + 2 * 4 * motion
    if launch.kernel == "relax":
        fields = len(set(pointers[1:3])) + 1 + int(numbers[-1])
        return (5 * 4 + fields * 2 * 4) * pixels
    if launch.kernel == "draw":
        return (2 * 4 + 3 * {0: 1, 1: 4, 2: 2}[int(numbers[2])]) * pixels
    raise KeyError(launch.kernel)


def plans(side: int) -> tuple[Plan, ...]:
    """Plans that have every kernel in them, for square pictures."""
    spec = InputSpec(
        "face",
        "face",
        (1, 3, side, side),
        "float32",
        "bgr",
        "area",
        Normalisation("per_image"),
        Alignment((0.3, 0.35), (0.7, 0.35)),
    )
    image = Image("float16", Normalisation("fixed", (128.0,) * 3, (32.0,) * 3))
    return plan(side, side, CLG(), image), crop_plan(1080, 1920, spec, "float16")


def main(given: Sequence[str] | None = None) -> int:
    """The tables; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--side", type=int, default=227, help="of the pictures, pixels")
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES)
    options = parser.parse_args(given)
    try:
        motion, crop = plans(options.side)
        launches = {one.kernel: one for one in (*reversed(motion.launches), *crop.launches)}
        print("kernel     arch       block registers  shared spills blocks  occupancy")
        for arch in options.arch:
            for source in sorted(KERNELS.glob("*.cu")):
                for one in compile_all(source, arch):
                    launch = launches[one.kernel]
                    blocks, share = occupancy(one, launch)
                    block = "x".join(map(str, launch.block[:2]))
                    print(
                        f"{one.kernel:10} {arch:7} {block:>8} {one.registers:9} {launch.shared + one.static:7} "
                        f"{one.spills:6} {blocks:6}  {share:.0%}"
                    )
    except EdgeError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 2
    print(f"\nA flow of {options.side}x{options.side} and its image in half precision: {len(motion.launches)} launches")
    total = 0
    for kernel in dict.fromkeys(one.kernel for one in motion.launches):
        of = [one for one in motion.launches if one.kernel == kernel]
        moved = sum(map(bytes_moved, of))
        total += moved
        print(f"{kernel:10} {len(of):3} launches {moved / 1e6:7.2f} MB")
    scratch = sum(_size(one.dtype, one.shape) for one in motion.buffers)
    print(f"{'all':10} {len(motion.launches):3} launches {total / 1e6:7.2f} MB; buffers {scratch / 1e6:.2f} MB")
    for board in BOARDS:
        print(f"{board.name:14} {board.gigabytes_s:6.1f} GB/s: no less than {total / board.gigabytes_s / 1e6:.3f} ms")
    return 0


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    size = {"uint8": 1, "float16": 2, "float32": 4, "uint32": 4}[dtype]
    for side in shape:
        size *= side
    return size


def _one(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise BackendError(f"nvcc's report has no {pattern!r}; expected ptxas' -v; use CUDA 11 or newer")
    return found[1]


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C")
    sys.exit(main())
