"""TensorRT's real Python bindings, four versions of them: every name and call that our code uses, and what it does.

Each runs in a process of its own over stub libraries (``bindings.py``); what those can't do, ONNX Runtime does
(``stand_in.py``). Only an engine on a GPU is thereby left unproven: docs/device-status.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bindings import VERSIONS, Unavailable, bindings

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent


def ours() -> list[str]:
    """Every file of ours that names a thing of TensorRT's."""
    found = []
    for room in ("edge", "export"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if re.search(r"\btrt\.\w|import tensorrt", path.read_text(encoding="utf-8")):
                found.append(str(path))
    return found


@pytest.fixture(params=VERSIONS)
def version(request):
    try:
        return bindings(request.param)
    except Unavailable as error:
        pytest.skip(str(error))


def run(version, *arguments, check=True):
    environment = version.environment(ROOT, HERE, ROOT / "tests" / "edge")
    done = subprocess.run(
        [version.python, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=500
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def uses(version, *files):
    return json.loads(run(version, HERE / "uses.py", *files).stdout)


def test_every_name_and_call_is_there(version):
    files = ours()
    assert {Path(file).name for file in files} == {"library.py", "tensorrt.py", "plans_build.py"}
    found = uses(version, *files)
    assert found["version"] == version.version
    assert found["wrong"] == []
    # That the walk went everywhere.
    assert len(found["used"]) >= 75
    assert {
        "Builder.create_network()",
        "Builder.build_serialized_network()",
        "OnnxParser.parse()",
        "ParserError.desc()",
        "IBuilderConfig.set_memory_pool_limit()",
        "IBuilderConfig.progress_monitor",
        "IBuilderConfig.set_timing_cache()",
        "ITimingCache.serialize()",
        "Runtime.deserialize_cuda_engine()",
        "ICudaEngine.create_execution_context()",
        "IExecutionContext.set_tensor_address()",
        "IExecutionContext.execute_async_v3()",
        "IProgressMonitor.step_complete overridden",
        "trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    } <= set(found["used"])


WRONG = """
def build(trt, network: trt.INetworkDefinition):
    builder = trt.Builder(trt.Logger())
    config = builder.create_builder_config()
    {line}
"""


WRONG_LINES = (
    ("config.set_flag(trt.BuilderFlag.FASTEST)", "FASTEST is not there"),
    ("builder.build_engine(network, config)", "build_engine is not there"),
    ("config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)", "'pool_size' is missing"),
    ("config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size=1)", "no argument 'size'"),
    ("config.set_memory_pool_limit(trt.TensorIOMode.INPUT, 1)", "'pool' is TensorIOMode, and it takes MemoryPoolType"),
    (
        "builder.build_serialized_network(config, network)",
        "'network' is IBuilderConfig, and it takes INetworkDefinition",
    ),
    ("builder.create_network(1, 2)", "2 arguments, and it takes 1"),
    ("config.num_optimization_profiles = 1", "can't be set"),
    ("context.execute_async_v3(0)", "what it is used here is unclear"),
    ("trt.Builder()", "'logger' is missing"),
    (
        "class Monitor(trt.IProgressMonitor):\n        def step_complete(self, phase): return True",
        "is given ['phase_name', 'step'], and ours takes ['phase']",
    ),
)


def test_a_wrong_use_is_found(version, tmp_path):
    files = [tmp_path / f"wrong{at}.py" for at in range(len(WRONG_LINES))]
    for file, (line, _) in zip(files, WRONG_LINES, strict=True):
        file.write_text(WRONG.format(line=line))
    wrong = uses(version, *files)["wrong"]
    for file, (line, complaint) in zip(files, WRONG_LINES, strict=True):
        said = [one for one in wrong if one.startswith(f"{file.name}:")]
        assert any(complaint in one for one in said), (line, said)


def test_what_a_version_dropped_is_found(version, tmp_path):
    """Weak typing went with TensorRT 11; nothing that we use did."""
    file = tmp_path / "old.py"
    file.write_text(WRONG.format(line="config.set_flag(trt.BuilderFlag.FP16)"))
    assert bool(uses(version, file)["wrong"]) == version.version.startswith("11")


def test_without_the_libraries_tensorrt_does_not_start(version, tmp_path):
    """What the real constructors answer where the library gives them nothing: this is what our code expects of them."""
    code = (
        "import tensorrt as trt\n"
        "from edge.engine.library import library, log_of\n"
        "assert library() is trt\n"
        "log = log_of()\n"
        "assert isinstance(log, trt.ILogger)\n"
        "log.log(trt.ILogger.Severity.ERROR, 'first\\nsecond')\n"
        "log.log(trt.ILogger.Severity.WARNING, 'no error')\n"
        "assert log.words() == 'first', log.words()\n"
        "for one in (trt.Builder, trt.Runtime):\n"
        "    try: one(log)\n"
        "    except TypeError as error: assert 'nullptr' in str(error)\n"
        "    else: raise AssertionError(one)\n"
        "from export.plans_build import _progress, build\n"
        "said = []\n"
        "monitor = _progress('window', said.append, -1e9)\n"
        "assert isinstance(monitor, trt.IProgressMonitor)\n"
        "monitor.phase_start('Building', None, 3); monitor.phase_start('Timing', 'Building', 9)\n"
        "assert monitor.step_complete('Timing', 4) is True\n"
        "monitor.stopped = True\n"
        "assert monitor.step_complete('Timing', 5) is False\n"
        "monitor.phase_finish('Timing')\n"
        "assert 'Building 0/3' in said[0], said\n"
        "from edge.engine.plans import Place\n"
        "from edge.errors import BackendError\n"
        "try: build(b'', 'window', 'fp16', Place(trt.__version__, '8.7', 'Orin', ''), limit=1)\n"
        "except BackendError as error: assert 'TensorRT does not start' in str(error)\n"
        "else: raise AssertionError\n"
    )
    run(version, "-c", code)


def test_bindings_without_libraries_are_told(version):
    environment = {**version.environment(ROOT), "LD_LIBRARY_PATH": ""}
    code = (
        "from edge.errors import BackendError\n"
        "from edge.engine.library import library\n"
        "try: library()\n"
        "except BackendError as error: print(error)\n"
    )
    done = subprocess.run([version.python, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert "TensorRT can't be loaded (libnv" in done.stdout, done
    assert "or type: --backend onnxruntime" in done.stdout


SCENES = (
    "builds_admits_and_runs",
    "fp32_is_exact",
    "wrong_numbers_are_refused",
    "slower_plans_are_refused",
    "auto_says_why_not",
    "a_lost_gpu",
    "what_tensorrt_refuses",
    "foreign_plans",
    "interrupted",
    "windows_on_the_gpu",
    "windows_outlive_the_gpu",
)
"""Those whose outcome may depend on the version."""


AROUND = ("killed", "two_at_once", "command_line", "a_recognizer_on_the_gpu")
"""Those whose outcome does not."""


@pytest.mark.timeout(600)
def test_what_happens_on_a_robot(version, tmp_path):
    pytest.importorskip("onnx")
    tmp_path.chmod(0o700)
    # What the two in between could do otherwise, the first and the last one do.
    scenes = SCENES if version.version.startswith(("10.3.", "11.")) else SCENES[:1]
    run(version, "-W", "ignore", HERE / "scenes.py", tmp_path, *scenes)


@pytest.mark.timeout(600)
def test_what_happens_around_it(tmp_path):
    pytest.importorskip("onnx")
    try:
        version = bindings("10.3")
    except Unavailable as error:
        pytest.skip(str(error))
    tmp_path.chmod(0o700)
    run(version, "-W", "ignore", HERE / "scenes.py", tmp_path, *AROUND)


PYCUDA = (
    "builds_admits_and_runs",
    "a_lost_gpu",
    "windows_on_the_gpu",
    "windows_outlive_the_gpu",
    "a_recognizer_on_the_gpu",
    "crops_on_the_gpu",
    "motion_on_the_gpu",
    "device_check",
)
"""Those in which memory, copies, the stream, captured graphs and a lost GPU matter."""


@pytest.mark.timeout(600)
def test_over_the_real_pycuda(tmp_path):
    """The same on the real PyCUDA, and a driver that works on the host: what TensorRT queues is captured."""
    pytest.importorskip("onnx")
    driver = ROOT / "tests" / "cuda" / "driver"
    sys.path.insert(0, str(driver))
    try:
        import material
    finally:
        sys.path.remove(str(driver))
    try:
        version, theirs = bindings("10.16"), material.environment()
    except (Unavailable, material.Absent) as error:
        pytest.skip(str(error))
    tmp_path.chmod(0o700)
    ours = version.environment(ROOT, HERE, ROOT / "tests" / "edge", driver)
    environment = {
        **theirs,
        "OVER_PYCUDA": "1",
        "PYTHONPATH": os.pathsep.join([ours["PYTHONPATH"], theirs["PYTHONPATH"]]),
        "LD_LIBRARY_PATH": f"{theirs['LD_LIBRARY_PATH']}:{version.libraries}",
    }
    command = [version.python, "-W", "ignore", str(HERE / "scenes.py"), str(tmp_path), *PYCUDA]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["3.10", "3.12"])
def test_the_interpreters_that_jetpack_has(name, tmp_path):
    """JetPack 6 has Python 3.10 and TensorRT 10.3, JetPack 7 has 3.12 and 10.16: their bindings, where they are."""
    python = next((path for path in INTERPRETERS if path.parent.parent.name.startswith(f"{name}.")), None)
    if python is None:
        pytest.skip(f"no Python {name} here")
    try:
        version = bindings({"3.10": "10.3", "3.12": "10.16"}[name], python=str(python))
    except Unavailable as error:
        pytest.skip(str(error))
    assert uses(version, *ours())["wrong"] == []


INTERPRETERS = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.1[02].*/bin/python"))
