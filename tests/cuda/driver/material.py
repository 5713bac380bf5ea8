"""The real PyCUDA, built once, over the tests' driver: what tests need to run the GPU's side on a machine without one.

Both are kept in a user's cache folder (``EDGE_TEST_CACHE``, else ``~/.cache/edge-emotion-tests``): building PyCUDA
takes about a minute, and its compiled module depends on the interpreter and the toolkit's headers alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PYCUDA = "2026.1"
"""The version that is built here. A Jetson builds its own, of any version since 2022: ``jetson/`` says which."""

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

DRIVERS = [
    f"/usr/lib/{place}/libcuda.so.1"
    for place in (".", "x86_64-linux-gnu", "aarch64-linux-gnu", "aarch64-linux-gnu/nvidia", "aarch64-linux-gnu/tegra")
]
"""Where a real driver would be."""


class Absent(Exception):
    """Something that this machine does not have; the tests that want it are skipped, with this text."""


def cache() -> Path:
    """Where what is built is kept."""
    own = os.environ.get("EDGE_TEST_CACHE")
    return Path(own) if own else Path.home() / ".cache" / "edge-emotion-tests"


def toolkit() -> Path:
    """The CUDA toolkit's folder.

    Raises:
        Absent: there is none, or no C++ compiler.
    """
    if not all(map(shutil.which, ("gcc", "g++", "nm"))):
        raise Absent("no gcc, g++ or nm: the tests' CUDA driver and PyCUDA can't be built; apt install g++")
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    numbered = sorted(Path("/usr/local").glob("cuda-*"), reverse=True)
    for folder in (*map(Path, named), Path("/usr/local/cuda"), *numbered):
        if (folder / "include" / "cuda.h").is_file() and (folder / "bin" / "nvcc").is_file():
            return folder
    raise Absent("no CUDA toolkit (cuda.h, nvcc) in CUDA_HOME or /usr/local/cuda: PyCUDA can't be built")


def pycuda() -> Path:
    """The folder that holds the package ``pycuda``, for this interpreter.

    Raises:
        Absent: no toolkit, or its source can't be had.
    """
    cuda = toolkit()
    facts = hashlib.sha256((cuda / "include" / "cuda.h").read_bytes()).hexdigest()[:12]
    made = cache() / f"pycuda-{PYCUDA}-{sys.implementation.cache_tag}-{facts}"
    if made.is_dir():
        return made
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as name:
        folder = Path(name)
        # Linked against next to nothing: the loader finds the tests' driver when the module is imported. One function
        # must be there, or the linker leaves the library out.
        (folder / "empty.c").write_text("int cuInit(unsigned flags) { return flags ? 1 : 100; }\n")
        library = folder / "libcuda.so"
        _done(["gcc", "-shared", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(folder / "empty.c")])
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        exactly = ["--no-deps", "--no-build-isolation", "--no-binary", "pycuda"]
        try:
            _done([*pip, "download", *exactly, "--dest", name, f"pycuda=={PYCUDA}"])
        except RuntimeError as error:
            raise Absent(f"PyCUDA {PYCUDA}'s source can't be had: {str(error).strip().splitlines()[-1]}") from error
        with tarfile.open(next(folder.glob("pycuda-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        source = next(one for one in folder.glob("pycuda-*") if one.is_dir())
        settings = {
            "CUDA_ROOT": str(cuda),
            "CUDA_ENABLE_CURAND": False,
            "CUDADRV_LIB_DIR": [str(folder)],
            "CUDADRV_LIBNAME": ["cuda"],
            "CXXFLAGS": ["-O0", "-w"],
        }
        lines = [f"{key} = {value!r}\n" for key, value in settings.items()]
        (source / "siteconf.py").write_text("".join(lines))
        _done([*pip, "install", "--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(source)])
        try:
            os.replace(folder / "site", made)
        except OSError:
            if not made.is_dir():  # another run of the tests was faster
                raise
    return made


def driver(site: Path) -> Path:
    """The folder that holds the tests' ``libcuda.so.1``.

    What PyCUDA wants of a driver and the tests' one does not have, it gets as a function that is not supported.

    Args:
        site: of :func:`pycuda`.
    """
    cuda = toolkit()
    source = HERE / "libcuda.cpp"
    module = next((site / "pycuda").glob("_driver*.so"))
    key = hashlib.sha256(source.read_bytes() + module.read_bytes()).hexdigest()[:12]
    made = cache() / f"driver-{key}"
    if made.is_dir():
        return made
    with tempfile.TemporaryDirectory(dir=cache()) as name:
        folder = Path(name) / "lib"
        folder.mkdir()
        library = folder / "libcuda.so.1"
        command = ["g++", "-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-I", str(cuda / "include"), "-shared"]
        command += ["-Wl,-soname,libcuda.so.1", "-o", str(library), str(source), "-ldl"]
        _done(command)
        absent = sorted(_symbols(module, "--undefined-only") - _symbols(library, "--defined-only"))
        rest = Path(name) / "rest.cpp"
        rest.write_text(
            "".join(f'extern "C" int {one}() {{ return 801; }}  // CUDA_ERROR_NOT_SUPPORTED\n' for one in absent)
        )
        _done([*command, str(rest)])
        try:
            os.replace(folder, made)
        except OSError:
            if not made.is_dir():
                raise
    return made


def kernels() -> Path:
    """The package's kernels and the tests' own, compiled for the host."""
    sources = [*sorted((ROOT / "edge" / "flow" / "kernels").glob("*.cu")), HERE / "scale.cu"]
    sys.path.insert(0, str(ROOT / "tests" / "cuda" / "host"))
    try:
        import build
    finally:
        sys.path.pop(0)
    library: Path = build.build(sources, cache() / "host")
    return library


def environment(**settings: str) -> dict[str, str]:
    """The variables of a process that finds PyCUDA, and the tests' driver in place of a real one.

    Args:
        settings: more of them, as ``EDGE_DRIVER_DEVICES="0"``.

    Raises:
        Absent: see :func:`pycuda`.
    """
    site = pycuda()
    found = dict(os.environ)
    found["LD_LIBRARY_PATH"] = str(driver(site))
    found["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(site)])
    found["PATH"] = os.pathsep.join([found["PATH"], str(toolkit() / "bin")])
    found["EDGE_CACHE"] = str(cache() / "edge")
    found["EDGE_DRIVER_KERNELS"] = str(kernels())
    found.update(settings)
    return found


def _symbols(library: Path, which: str) -> set[str]:
    lines = _done(["nm", "-D", which, str(library)]).splitlines()
    return {name for line in lines if (name := line.split()[-1]).startswith("cu")}


def _done(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{result.stdout}{result.stderr}")
    return result.stdout
