"""TensorRT's real Python bindings over stub libraries: every class, enum and signature of a version, without a GPU.

The bindings are small wheels; TensorRT's own libraries are not to be had where those are. The bindings' shared object
asks for eleven C functions of three libraries. Libraries with those names whose functions answer nothing
let it be imported; whatever would build or run an engine then fails, as it should.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

VERSIONS = {
    "10.3": ("tensorrt_cu12_bindings", "10.3.0"),
    "10.13": ("tensorrt_cu13_bindings", "10.13.3.9"),
    "10.16": ("tensorrt_cu13_bindings", "10.16.1.11"),
    "11.4": ("tensorrt_cu13_bindings", "11.4.0.106"),
}
"""JetPack 6; JetPack 7.0 and 7.1; JetPack 7.2; a desktop. By the name that tests have: package and version."""

LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")

STUB = """
void *createInferBuilder_INTERNAL(void *logger, int version) { return 0; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) { return 0; }
void *createInferRuntime_INTERNAL(void *logger, int version) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) { return 0; }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { return 0; }
void *getBuilderPluginRegistry(int capability) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
void *getPluginRegistry(void) { return 0; }
int initLibNvInferPlugins(void *logger, const char *space) { return 1; }
void *getLogger(void) { return 0; }
int getInferLibVersion(void) { return 0; }
"""


class Unavailable(Exception):
    """Why a version's bindings can't be had here."""


@dataclass(frozen=True)
class Bindings:
    """One version, ready to be imported as ``tensorrt`` by a process of its own."""

    version: str
    python: str
    """The interpreter that the wheel is for."""
    path: Path
    """Holds the package ``tensorrt``."""
    libraries: Path
    """For LD_LIBRARY_PATH."""

    def environment(self, *more: Path | str) -> dict[str, str]:
        """The environment of such a process; ``more`` comes first on its path."""
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*map(str, more), str(self.path)]),
            "LD_LIBRARY_PATH": f"{self.libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":"),
            "OMP_NUM_THREADS": "1",
        }


def folder() -> Path:
    """Where downloads and stub libraries are kept between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edge-emotion-tests" / "tensorrt"


def bindings(name: str, *, python: str = sys.executable) -> Bindings:
    """A version's bindings, fetched and unpacked the first time.

    Raises:
        Unavailable: no compiler, or the wheel can't be had for this interpreter.
    """
    package, version = VERSIONS[name]
    tag = subprocess.run(
        [python, "-c", "import sys; print('cp%d%d' % sys.version_info[:2])"], capture_output=True, text=True, check=True
    ).stdout.strip()
    unpacked = folder() / f"{version}-{tag}"
    if not (unpacked / "tensorrt").exists():
        _unpack(_wheel(package, version, python, tag), unpacked)
    return Bindings(version, python, unpacked, _stubs(version.split(".")[0]))


def _wheel(package: str, version: str, python: str, tag: str) -> Path:
    wheels = folder() / "wheels"
    pattern = f"{package}-{version}-{tag}-*.whl"
    if not (found := sorted(wheels.glob(pattern))):
        done = subprocess.run(
            [python, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(wheels),
             f"{package.replace('_', '-')}=={version}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        found = sorted(wheels.glob(pattern))
        if done.returncode or not found:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise Unavailable(f"{package} {version} can't be downloaded for {tag}: {said[0] if said else 'no wheel'}")
    return found[0]


def _unpack(wheel: Path, target: Path) -> None:
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(partial)
    # The package that users import is a name for this one, which the registry has as a meta package.
    (partial / "tensorrt_bindings").rename(partial / "tensorrt")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _stubs(major: str) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    target = folder() / f"stubs-{major}"
    made = [target / f"lib{name}.so.{major}" for name in LIBRARIES]
    if all(path.is_file() for path in made):
        return target
    if compiler is None:
        raise Unavailable("no C compiler for the stub libraries; type: sudo apt install gcc")
    target.mkdir(parents=True, exist_ok=True)
    for path in made:
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(partial), f"-Wl,-soname,{path.name}"]
        subprocess.run(command, input=STUB, text=True, check=True, capture_output=True)
        partial.rename(path)
    return target
