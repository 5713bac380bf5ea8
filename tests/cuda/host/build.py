"""Compiles CUDA kernels for the host, so that tests run the sources that a GPU runs."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(')

FLAGS = (
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-fno-math-errno",
    "-fno-strict-aliasing",
)


def names(source: Path) -> list[str]:
    """The kernels in a source, in its order."""
    return KERNEL.findall(source.read_text(encoding="utf-8"))


def build(sources: Sequence[Path], out_dir: Path, flags: Sequence[str] = ()) -> Path:
    """One shared library with a ``launch_NAME`` for every kernel.

    Args:
        sources: the ``.cu`` files.
        out_dir: where the library and what it is made of go.
        flags: more of g++'s, as ``-ffp-contract=off``.

    Raises:
        RuntimeError: it does not compile; the message is the compiler's.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise RuntimeError("g++ is absent; install it: apt install g++")
    out_dir.mkdir(parents=True, exist_ok=True)
    parts = [HERE / "host.cpp"]
    for source in sources:
        glue = out_dir / f"{source.stem}.host.cpp"
        lines = [f'#include "{HERE / "host.h"}"', f'#include "{source.resolve()}"']
        glue.write_text("\n".join([*lines, *(f"HOST_KERNEL({name})" for name in names(source))]) + "\n")
        parts.append(glue)
    # A library that is loaded already is never loaded again under the same name: what differs is named differently.
    made = "".join([*(path.read_text(encoding="utf-8") for path in [*parts, *sources, HERE / "host.h"]), *flags])
    library = out_dir / f"kernels-{hashlib.sha256(made.encode()).hexdigest()[:12]}.so"
    command = [compiler, *FLAGS, *flags, "-o", str(library), *map(str, parts)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return library
