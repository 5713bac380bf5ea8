"""The GPU's side of the package over the real PyCUDA, on a driver that does its work on the host.

The tests lie in ``tests/cuda/driver/inside_*.py`` and run in processes of their own, whose loader finds that driver.
Here each of them has its name, and the processes that end badly on purpose.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

DRIVER = Path(__file__).resolve().parents[1] / "cuda" / "driver"
ROOT = DRIVER.parents[2]
sys.path.insert(0, str(DRIVER))
try:
    import material
finally:
    sys.path.remove(str(DRIVER))


def names(module: Path) -> list[str]:
    """The tests of a module, without importing it."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    return [one.name for one in tree.body if isinstance(one, ast.FunctionDef) and one.name.startswith("test_")]


# Whichever test comes first waits for PyCUDA to be built.
pytestmark = pytest.mark.timeout(600)

INSIDE = [(module.stem, name) for module in sorted(DRIVER.glob("inside_*.py")) for name in names(module)]


@pytest.fixture(scope="session")
def environment():
    """The variables of a process with PyCUDA and the tests' driver; a minute the first time."""
    try:
        return material.environment()
    except material.Absent as error:
        pytest.skip(str(error))


def with_bindings(environment):
    """The same, with TensorRT's real bindings over stub libraries, and what stands in for those."""
    folders = [ROOT / "tests" / "tensorrt", ROOT / "tests" / "edge"]
    sys.path.insert(0, str(folders[0]))
    try:
        import bindings
    finally:
        sys.path.remove(str(folders[0]))
    pytest.importorskip("onnx")
    try:
        found = bindings.bindings("10.16")
    except bindings.Unavailable as error:
        pytest.skip(str(error))
    path = os.pathsep.join([environment["PYTHONPATH"], *map(str, folders), str(found.path)])
    libraries = os.pathsep.join([environment["LD_LIBRARY_PATH"], str(found.libraries)])
    return environment | {"PYTHONPATH": path, "LD_LIBRARY_PATH": libraries}


@pytest.fixture(scope="session")
def verdicts(environment, tmp_path_factory):
    """By module: what its tests came to, and what its process printed. Each runs once, when first asked for."""
    done = {}

    def of(module):
        if module not in done:
            report = tmp_path_factory.mktemp(module) / "report.xml"
            command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
            # A log that is kept for the report keeps an error's frames, and what is in them on the GPU.
            command += [
                "-p",
                "no:logging",
                "-o",
                "python_files=inside_*.py",
                f"--junitxml={report}",
                str(DRIVER / f"{module}.py"),
            ]
            found = with_bindings(environment) if module == "inside_engine" else environment
            result = subprocess.run(command, env=found, cwd=ROOT, capture_output=True, text=True, check=False)
            cases = ElementTree.parse(report).iter("testcase") if report.is_file() else []
            found = {}
            for case in cases:
                bad = [one.get("message", "") + (one.text or "") for one in case if one.tag in ("failure", "error")]
                found.setdefault(case.get("name").split("[")[0], []).extend(bad)
            done[module] = found, result
        return done[module]

    return of


@pytest.mark.parametrize(("module", "name"), INSIDE)
def test_inside(verdicts, module, name):
    found, result = verdicts(module)
    assert name in found, f"the process ended before it: {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert not found[name], "\n".join(found[name])


@pytest.mark.parametrize("module", sorted({module for module, _ in INSIDE}))
def test_the_process_ends_well_and_says_nothing(verdicts, module):
    _, result = verdicts(module)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""


def python(environment, code, **settings):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


OPEN = """
from edge.cuda import Device
from edge.errors import BackendError
try:
    Device({})
except BackendError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("settings", "ordinal", "says"),
    [
        (
            {"EDGE_DRIVER_DEVICES": "0"},
            0,
            "no GPU answers (cuInit failed: no CUDA-capable device is detected); expected",
        ),
        ({"EDGE_DRIVER_VERSION": "11040"}, 0, "this CUDA driver is too old: it runs CUDA 11.4; expected CUDA 12.2"),
        (
            {"EDGE_DRIVER_VERSION": "12060"},
            0,
            "PyCUDA was built for CUDA 13.0; this driver runs CUDA 12.6; type: PATH=",
        ),
        ({"LD_LIBRARY_PATH": ""}, 0, "no CUDA driver (libcuda.so.1: cannot open shared object file"),
        (
            {"PYTHONPATH": str(ROOT)},
            0,
            "PyCUDA, which is not installed; type: PATH=$PATH:/usr/local/cuda/bin pip install",
        ),
        ({}, 1, "GPU 1 was asked for; this machine has 1, counted from 0"),
        ({}, -1, "GPU -1 was asked for; this machine has 1, counted from 0"),
    ],
)
def test_a_machine_that_cannot_is_told_why(environment, settings, ordinal, says):
    if "LD_LIBRARY_PATH" in settings and any(Path(one).exists() for one in material.DRIVERS):
        pytest.skip("this machine has a real CUDA driver")
    result = python(environment, OPEN.format(ordinal), **settings)
    assert says in result.stdout, result.stdout + result.stderr
    assert "--backend onnxruntime" in result.stdout
    assert result.stdout.count("\n") == 1
    assert result.returncode == 0


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(0)", "device.close()", "del device"])
def test_a_process_that_ends_without_closing_ends_quietly(environment, end):
    code = f"""
import numpy as np
from edge.cuda import Device
device = Device()
array = device.pinned((4,), np.float32)
timer, buffer = device.timer(), device.buffer((4,), np.float32)
device.upload(buffer, array)
{end}
"""
    result = python(environment, code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_process_whose_gpu_was_lost_ends_quietly(environment):
    code = f"""
import sys
sys.path.insert(0, {str(DRIVER)!r})
import control, numpy as np
from edge.cuda import Device, DeviceLostError
device = Device()
array, buffer = device.pinned((4,), np.float32), device.buffer((4,), np.float32)
control.fail("copy", 719)
device.upload(buffer, array)
try:
    device.synchronize()
except DeviceLostError as error:
    print("lost")
"""
    result = python(environment, code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "lost\n", "")


def test_the_host_is_kept_out_of_device_memory(environment):
    """The tests' driver is as strict as a GPU: reading a device address kills the process."""
    code = """
import ctypes
from edge.cuda import Device
device = Device()
print(ctypes.string_at(device.buffer((64,), "uint8").pointer, 4))
"""
    result = python(environment, code)
    assert result.returncode < 0
    assert result.stdout == ""


def test_edge_and_its_gpu_side_import_without_pycuda():
    code = "import sys, edge, edge.cuda, edge.engine; assert not {'pycuda', 'tensorrt'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
