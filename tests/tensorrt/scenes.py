"""What happens on a robot, in a process with one version's real bindings: ``python scenes.py FOLDER SCENE...``.

Each scene starts with an empty cache of its own. A failed assertion is the test's failure.
"""

# ruff: noqa: PT018
from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import stand_in
import tensorrt as trt
from stand_in import Faults, HostDevice

import edge.cuda
import edge.engine
from edge.__main__ import main as edge_main
from edge.bundle import HEAD, WINDOW, Bundle
from edge.check import check_engine
from edge.engine import admission, choices, open_engine, pace
from edge.engine.admission import every
from edge.engine.fallback import FallbackEngine
from edge.engine.library import place
from edge.engine.plans import Plans, key_of
from edge.engine.tensorrt import TensorRTEngine
from edge.errors import EdgeError
from edge.window import Windows
from export.plans_inline import inlined
from export.to_tensorrt import main, report, to_tensorrt

FACE = Bundle.open()


def sha(bundle: Bundle, precision: str, graph: str = WINDOW) -> str:
    """By which the stand-in knows a graph."""
    return hashlib.sha256(inlined(bundle.graph(graph, precision))).hexdigest()


def refused(call, *words: str) -> str:
    """The one line with which a call refuses, which must hold the words."""
    try:
        call()
    except EdgeError as error:
        text = str(error)
        assert text.isprintable(), text
        for word in words:
            assert word in text, f"{word!r} is not in {text!r}"
        assert "type: " in text or "free" in text or "EDGE_CACHE" in text or "--backend onnxruntime" in text, text
        return text
    raise AssertionError("nothing was refused")


def built(bundle: Bundle = FACE, **options):
    lines: list[str] = []
    return to_tensorrt(bundle, HostDevice(), tell=lines.append, **options), lines


PACES = {("tensorrt", "int8"): 1.0, ("tensorrt", "fp16"): 2.0, ("tensorrt", "fp32"): 3.0}
"""Milliseconds that a frame is said to take: what the stand-in takes says nothing. ONNX Runtime's are the others' 9."""


def said_pace(bundle: Bundle, engine: object) -> pace.Pace:
    step, close = pace.frames(bundle, engine)
    step()
    close()
    told = PACES.get((engine.backend, engine.precision), 9.0)
    return pace.Pace(told, 1.1 * told, 1)


# -- scenes -----------------------------------------------------------------------------------------------------------


def builds_admits_and_runs(folder: Path) -> None:
    verdict, lines = built()
    assert [row.precision for row in verdict.rows if row.backend == "tensorrt"] == ["int8", "fp16"], verdict.rows
    assert all(row.reproduces for row in verdict.rows), report(verdict)
    assert verdict.chosen is not None and verdict.chosen.backend == "tensorrt", report(verdict)
    assert any("building for TensorRT" in line for line in lines), lines
    assert verdict.place.tensorrt == trt.__version__ and verdict.place.sm == "8.7"
    config = stand_in.Builder.made[0]
    half = HostDevice.opened[0].free_memory() // 2
    assert abs(config.limits[trt.MemoryPoolType.WORKSPACE] - half) < 64 << 20, "half of what is free"
    # A second build finds everything there, and the verdict with it.
    again, lines = built()
    assert again == verdict
    assert not any("building" in line for line in lines), lines
    assert sum("there since" in line for line in lines) == 2
    # The engine that is opened is the one that was admitted, and it answers as the CPU does.
    engine = open_engine(FACE, "tensorrt", "auto")
    assert (engine.backend, engine.precision) == ("tensorrt", verdict.chosen.precision)
    assert all(finding.passed for finding in check_engine(FACE, engine))
    before = HostDevice.opened[-1].allocated
    for _ in range(10):
        engine.run(FACE.window("portrait"))
    assert HostDevice.opened[-1].allocated == before, "no memory is taken for a frame"
    engine.close()
    engine.close()
    assert HostDevice.opened[-1].closed
    # What doctor shows.
    assert [str(one) for one in every()] == [str(verdict)]
    document = json.loads(next((folder / "verdicts").glob("*.json")).read_text())
    assert document["chosen"] == f"tensorrt {verdict.chosen.precision}"
    assert all(row["median_ms"] > 0 for row in document["rows"])


def fp32_is_exact(folder: Path) -> None:
    built(precisions=("fp32",))
    assert stand_in.Builder.made[-1].cleared == [trt.BuilderFlag.TF32]
    assert TensorRTEngine(FACE, "fp32", device=HostDevice()).precision == "fp32"


def wrong_numbers_are_refused(folder: Path) -> None:
    Faults.wrong = {sha(FACE, "int8"): 1.0}
    verdict, _ = built()
    assert verdict.of("int8").admitted is False
    assert "does not reproduce the golden vectors" in verdict.of("int8").reason
    assert verdict.chosen.precision == "fp16" and verdict.chosen.backend == "tensorrt", report(verdict)
    refused(lambda: open_engine(FACE, "tensorrt", "int8"), "not admitted", "golden vectors")
    assert open_engine(FACE, "tensorrt", "auto").precision == "fp16"
    Faults.wrong = {None: 1.0}
    verdict, _ = built(rebuild=True)
    assert verdict.chosen.backend == "onnxruntime", report(verdict)
    refused(lambda: open_engine(FACE, "tensorrt", "auto"), "not admitted here", "int8", "fp16")
    engine = open_engine(FACE, "auto", "auto")
    assert (engine.backend, engine.precision) == ("onnxruntime", "int8")


def slower_plans_are_refused(folder: Path) -> None:
    PACES["tensorrt", "int8"] = 2.05
    verdict, _ = built()
    assert "is slower than tensorrt fp16" in verdict.of("int8").reason, report(verdict)
    assert verdict.chosen.precision == "fp16" and verdict.chosen.backend == "tensorrt"
    PACES["tensorrt", "fp16"] = 9.2
    verdict, _ = built(rebuild=True)
    assert "is slower than onnxruntime int8" in verdict.of("fp16").reason, report(verdict)
    assert verdict.of("int8").admitted, "faster than what would be used in its place"
    PACES["tensorrt", "int8"] = 9.3
    verdict, _ = built(rebuild=True)
    assert verdict.chosen.backend == "onnxruntime"


def auto_says_why_not(folder: Path) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("edge").addHandler(handler)
    assert choices(FACE)[0] == ("auto", "auto")
    assert choices(FACE, "tensorrt", "int8") == (("tensorrt", "int8"),)
    assert open_engine(FACE, "auto").backend == "onnxruntime"
    assert "no int8 plan of graph 'window' was built" in said[-1], said
    assert "python -m export.to_tensorrt" in said[-1]
    built()
    engine = open_engine(FACE, "auto")
    assert isinstance(engine, FallbackEngine) and engine.backend == "tensorrt"
    assert all(finding.passed for finding in check_engine(FACE, engine))
    # Plans whose verdict was lost prove themselves when they are opened.
    for path in (folder / "verdicts").iterdir():
        path.unlink()
    engine = open_engine(FACE, "auto")
    assert engine.backend == "tensorrt" and len(every()) == 1
    # A package that isn't there.
    found, sys.modules["tensorrt"] = sys.modules["tensorrt"], None
    refused(lambda: open_engine(FACE, "tensorrt"), "TensorRT is not installed", "--system-site-packages")
    assert open_engine(FACE, "auto").backend == "onnxruntime"
    sys.modules["tensorrt"] = found
    found.__version__, version = "8.5.2", found.__version__
    refused(lambda: open_engine(FACE, "tensorrt"), "needs TensorRT 10.3 or newer", "8.5.2", "update JetPack")
    found.__version__ = version


def a_lost_gpu(folder: Path) -> None:
    built()
    engine = open_engine(FACE, "auto")
    wanted = engine.run(FACE.window("portrait"))
    lose()
    found = engine.run(FACE.window("portrait"))
    assert engine.backend == "onnxruntime" and "was lost" in engine.fell
    assert np.abs(wanted["logits"] - found["logits"]).max() < 0.2
    assert all(finding.passed for finding in check_engine(FACE, engine))
    engine.close()
    if os.environ.get("OVER_PYCUDA"):
        return  # no process gets another GPU after that
    strict = open_engine(FACE, "tensorrt")
    lose()
    refused(lambda: strict.run(FACE.window("portrait")), "was lost", "--backend onnxruntime")
    strict.close()


def what_tensorrt_refuses(folder: Path) -> None:
    Faults.rejects = {sha(FACE, "int8"): "Assertion failed: zeroPoint must be 0"}
    verdict, lines = built()
    assert "TensorRT " + trt.__version__ + " rejects the graph: node conv2d_1 (Conv): Assertion failed" in lines[1], (
        lines
    )
    assert "could not be built" in verdict.of("int8").reason
    assert verdict.of("fp16").reproduces
    Faults.rejects = {}
    Faults.unbuildable = {None: "Target GPU SM 87 is not supported by this TensorRT release."}
    text = refused(
        lambda: built(rebuild=True), "SM 87 is not supported", "install TensorRT 10.16 or newer (JetPack 7.2)"
    )
    assert "--backend onnxruntime" in text
    Faults.unbuildable = {None: "Error Code 10: Could not find any implementation for node conv2d"}
    refused(lambda: built(rebuild=True), "can't build it with 2048 MiB", "add swap")
    Faults.unbuildable = {}
    built()
    Faults.no_context = {None: "Requested amount of GPU memory (104857600 bytes) could not be allocated."}
    refused(lambda: TensorRTEngine(FACE, "fp16"), "no room to run", "close other programs")
    # Memory that was short for once is no verdict on a plan.
    told = every()
    assert not to_tensorrt(FACE, HostDevice(), precisions=("fp16",), rebuild=True).of("fp16").admitted
    assert every() == told
    Faults.no_context = {}
    assert TensorRTEngine(FACE, "fp16").precision == "fp16"
    Faults.fails = {None: "Cuda failure: out of memory"}
    refused(lambda: TensorRTEngine(FACE, "fp16"), "TensorRT does not run 'window'", "out of memory", "add swap")
    Faults.fails = {}

    class Nothing:
        def __init__(self, logger: object) -> None:
            logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Runtime, runtime = Nothing, trt.Runtime
    refused(lambda: TensorRTEngine(FACE, "fp16"), "TensorRT does not start", "error: 35", "driver may be too old")
    trt.Runtime, trt.Builder = runtime, Nothing
    refused(lambda: built(rebuild=True), "TensorRT does not start", "error: 35", "driver may be too old")


def foreign_plans(folder: Path) -> None:
    built(precisions=("fp16",))
    plans, device = Plans(), HostDevice()
    here = place(device)
    key = key_of(FACE, WINDOW, "fp16", here)
    path = plans.folder / f"{key.stem}.plan"
    # Altered.
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(lambda: TensorRTEngine(FACE, "fp16"), "not the plan that was built", "python -m export.to_tensorrt")
    # Somebody else could have written it.
    built(precisions=("fp16",), rebuild=True)
    path.chmod(0o666)
    refused(lambda: TensorRTEngine(FACE, "fp16"), "not trusted")
    path.chmod(0o600)
    plans.folder.chmod(0o777)
    refused(lambda: TensorRTEngine(FACE, "fp16"), "can be written by others", "chmod go-w")
    plans.folder.chmod(0o700)
    TensorRTEngine(FACE, "fp16").close()
    # Another kind of GPU, and another TensorRT.
    HostDevice.name, name = "Orin NX", HostDevice.name
    refused(lambda: TensorRTEngine(FACE, "fp16"), f"the fp16 plan is for TensorRT {trt.__version__} on {name}")
    HostDevice.name = name
    trt.__version__, version = "10.99.0", trt.__version__
    refused(lambda: TensorRTEngine(FACE, "fp16"), f"is for TensorRT {version}", "here is TensorRT 10.99.0")
    built(precisions=("fp16",))
    assert not path.exists(), "what this GPU's other TensorRT had is forgotten"
    assert len(plans.all()) == 1
    trt.__version__ = version
    # A plan that TensorRT itself refuses, though its hash is right.
    built(precisions=("fp16",))
    facts = plans.find(key)
    other = json.dumps({"tensorrt": "0.0"}).encode().ljust(stand_in.HEADER) + path.read_bytes()[stand_in.HEADER :]
    plans.save(key, other, facts.seconds)
    refused(lambda: TensorRTEngine(FACE, "fp16"), "does not load", "not compatible with this version", "--rebuild")


def interrupted(folder: Path) -> None:
    Faults.steps, Faults.on_step = 50, lambda: os.kill(os.getpid(), signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)
    try:
        built()
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("it went on")
    assert signal.getsignal(signal.SIGINT) is before
    assert Plans().all() == ()
    Faults.steps, Faults.on_step = 1, None
    built()
    assert len(Plans().all()) == 2


def killed(folder: Path) -> None:
    """A build that is killed at any moment leaves nothing that looks whole."""
    code = (
        "import sys, stand_in, edge.cuda; stand_in.install(); edge.cuda.Device = stand_in.HostDevice\n"
        "import edge.cache as cache, os, signal\n"
        "from export.to_tensorrt import main\n"
        "from pathlib import Path\n"
        "count = [int(sys.argv[1])]\n"
        "real = os.replace\n"
        "def replace(*given):\n"
        "    count[0] -= 1\n"
        "    if count[0] == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*given)\n"
        "os.replace = replace\n"
        "sys.exit(main(['--precisions', 'fp16']))\n"
    )
    for at in (1, 2):  # before the plan has its name, and before its facts have theirs
        done = subprocess.run([sys.executable, "-c", code, str(at)], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done
        assert Plans().all() == ()
        refused(lambda: TensorRTEngine(FACE, "fp16"), "no fp16 plan")
    left = [path.name for path in Plans().folder.iterdir()]
    assert any(name.endswith(".partial") for name in left) and any(name.endswith(".plan") for name in left), left
    built(precisions=("fp16",))
    assert not list(Plans().folder.glob("*.partial"))
    assert len(Plans().all()) == 1


def two_at_once(folder: Path) -> None:
    Faults.steps, Faults.step_s = 10, 0.2
    lines: list[list[str]] = [[], []]
    verdicts: list[object] = []

    def run(at: int) -> None:
        verdicts.append(to_tensorrt(FACE, HostDevice(), precisions=("fp16",), tell=lines[at].append))

    threads = [threading.Thread(target=run, args=(at,)) for at in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stand_in.Builder.made) == 1, "one builds, the other finds it there"
    assert verdicts[0] == verdicts[1]
    assert any("another build uses" in line for one in lines for line in one), lines


def command_line(folder: Path) -> None:
    assert main([]) == 0
    assert main(["--precisions", "int4"]) == 2
    assert main(["nowhere"]) == 2


def windows_on_the_gpu(folder: Path) -> None:
    """Rings and states stay on the device, each face's own, and answer what the host's do."""
    from made import bundles

    for bundle in bundles(folder):
        built(bundle)
        cpu, gpu = open_engine(bundle, "onnxruntime", "fp32"), TensorRTEngine(bundle, "fp32")
        device = HostDevice.opened[-1]
        assert not gpu.offers(WINDOW) and gpu.offers(HEAD)
        host, there = Windows(cpu), Windows(gpu)
        rng = np.random.default_rng(0)
        spec = bundle.manifest.inputs[0]
        crops = {spec.name: np.zeros((spec.height, spec.width), np.uint8)}
        answers, before = 0, device.allocated
        for at in range(40):
            # Three faces, of which the second comes later and the third stays away for too long in between.
            for face in (1, 2, 3):
                if (face == 2 and at < 7) or (face == 3 and 12 < at < 30):
                    continue
                now = at * 40_000_000
                image = {spec.name: rng.normal(size=(1, *spec.shape[2:])).astype(np.float32)}
                for windows in (host, there):
                    windows.advance(face, crops, now)
                one, two = host.answer(face, image), there.answer(face, image)
                assert (one is None) == (two is None), (face, at)
                if one is not None:
                    answers += 1
                    assert np.abs(one - two).max() < 1e-5, (face, at)
            host.forget(at * 40_000_000)
            there.forget(at * 40_000_000)
        assert answers > 60
        assert device.allocated == before, "no memory is taken while frames come"
        # More faces at once than were foreseen, and their memory given back.
        memories = [gpu.remember() for _ in range(6)]
        assert device.allocated > before
        more = device.allocated
        for memory in memories:
            memory.close()
            memory.close()
        assert len({id(gpu.remember()._slot) for _ in range(6)}) == 6
        assert device.allocated == more
        gpu.close()


def windows_outlive_the_gpu(folder: Path) -> None:
    from made import bundles

    bundle = bundles(folder)[0]
    built(bundle)
    engine = open_engine(bundle, "auto")
    assert engine.backend == "tensorrt"
    windows, spec = Windows(engine), bundle.manifest.inputs[0]
    crops, image = {spec.name: np.zeros((4, 4), np.uint8)}, {spec.name: np.ones((1, *spec.shape[2:]), np.float32)}
    length = bundle.manifest.window.length

    def frame(face: int, at: int):
        windows.advance(face, crops, at * 40_000_000)
        return windows.answer(face, image)

    assert [frame(face, at) is not None for at in range(length) for face in (1, 2)][-2:] == [True, True]
    lose()
    said = [[frame(face, at) is not None for face in (1, 2)] for at in range(length, 2 * length)]
    assert engine.backend == "onnxruntime"
    assert said[0] == [False, False] and said[-1] == [True, True], "windows begin anew"


def crops_on_the_gpu(folder: Path) -> None:
    on_the_gpu(FACE, "fp16", 0.02, 0.5)


def motion_on_the_gpu(folder: Path) -> None:
    from made import with_motion

    on_the_gpu(with_motion(folder / "motion"), "fp32", 2e-3, 1e-4)


def on_the_gpu(bundle: Bundle, precision: str, allowed: float, after: float) -> None:
    """From the frame to the logits on the GPU: what the host finds, and the host goes on when the GPU is lost."""
    import control

    from edge.source import read_picture
    from edge.synthetic import PORTRAIT

    portrait = read_picture(PORTRAIT)
    eyes = np.array([[205, 215], [300, 210]], np.float32)
    built(bundle)
    cpu = Windows(open_engine(bundle, "onnxruntime", "fp32"))
    engine = open_engine(bundle, "auto", precision)
    assert engine.backend == "tensorrt"
    gpu, name = Windows(engine, gpu=True), bundle.inputs[0].name
    assert type(gpu.cutter).__name__ == "GpuCutter"
    answered = 0
    for at in range(20):
        image = np.ascontiguousarray(np.roll(portrait, at % 3, axis=1))
        places = (eyes + np.array((at % 3, 0))).astype(np.float32)
        if at == 10:
            lose()
        copies = control.count(UPLOAD)
        assert copies or not at, "the driver counts under another name"
        answers = []
        for windows in (cpu, gpu):
            tensors = windows.advance(1, windows.cutter.cut(image, places), at * 40_000_000)
            answers.append(None if tensors is None else windows.answer(1, tensors))
            if windows is gpu and tensors is not None and at != 10:  # where it is found out
                assert isinstance(tensors[name], np.ndarray) == (at >= 10)
        one, two = answers
        if at < 10:
            assert (one is None) == (two is None), at
            assert control.count(UPLOAD) - copies == 1, "the frame goes there once, and nothing else does"
        if two is not None:
            answered += at < 10
            assert np.abs(one - two).max() < (allowed if at < 10 else after), (at, one, two)
    assert answered >= 6
    assert engine.backend == "onnxruntime"
    assert two is not None, "the host's windows are full again"


UPLOAD = "cuMemcpyHtoDAsync_v2"


def a_recognizer_on_the_gpu(folder: Path) -> None:
    built()
    with edge.Recognizer("synthetic://?frames=12", backend="tensorrt") as recognizer:
        assert recognizer.engine.backend == "tensorrt"
        results = list(recognizer)
    assert results[-1].faces[0].label == "happy"


def device_check(folder: Path) -> None:
    from edge import ondevice
    from edge.ondevice import run

    ondevice.FRAMES = 20
    built()
    text, report = run(FACE, folder / "report.json")
    assert report["verdict"] == "ok", text
    stored = json.loads((folder / "report.json").read_text())
    assert stored["tensorrt"] == trt.__version__
    assert set(stored["frames"]) == {"int8", "fp16"}
    assert stored["frames"]["fp16"]["graphs"]["window"]["replayed"]
    assert stored["frames"]["fp16"]["gpu_ms"]["window"] >= 0
    assert stored["flow"]["worst_pixels"] < 1e-3
    passed = [one["what"] for one in stored["findings"] if one["passed"]]
    assert sum("pixels -> tensor on the GPU" in one for one in passed) == 4
    assert {"GPU", "optical flow, GPU against CPU", "TensorRT", "golden vectors, tensorrt int8"} <= set(passed)
    # A machine on which it fails tells so, and writes the same report.
    assert edge_main(["check", "--device", "--report", str(folder / "two.json")]) == 0
    lose()
    assert edge_main(["check", "--backend", "onnxruntime", "--device", "--report", str(folder / "three.json")]) == 2
    stored = json.loads((folder / "three.json").read_text())
    assert stored["verdict"] == "failed"
    assert any("was lost" in one["detail"] for one in stored["findings"])


def play(name: str, folder: Path) -> None:
    here = folder / name
    here.mkdir()
    here.chmod(0o700)
    os.environ["EDGE_CACHE"] = str(here)
    globals()[name](here)


def lose() -> None:
    """The GPU that was opened last gives up."""
    if os.environ.get("OVER_PYCUDA"):
        import control

        control.fail("copy", 719, always=True)
    else:
        HostDevice.opened[-1].lost = "CUDA_ERROR_LAUNCH_FAILED"


def over_pycuda() -> None:
    """The real device over the tests' driver, which tells what was opened and taken."""
    global HostDevice

    class Opened(edge.cuda.Device):
        opened: ClassVar[list[Opened]] = []

        def __init__(self) -> None:
            super().__init__()
            self.allocated = 0
            Opened.opened.append(self)

        def buffer(self, *given: object) -> object:
            self.allocated += 1
            return super().buffer(*given)

        @property
        def closed(self) -> bool:
            return self._held.closed

    HostDevice = Opened


if __name__ == "__main__":
    stand_in.install()
    if os.environ.get("OVER_PYCUDA"):
        over_pycuda()
    edge.cuda.Device = HostDevice
    edge.engine._may_have_gpu = lambda: True
    admission.pace = said_pace
    for scene in sys.argv[2:]:
        print("scene", scene, flush=True)
        pid = os.fork()  # what a scene breaks is broken for itself alone
        if pid == 0:
            try:
                play(scene, Path(sys.argv[1]))
            except BaseException:
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(pid, 0)[1] != 0:
            sys.exit(f"scene {scene} failed")
