"""``edge check --device``: the whole path on the GPU of this machine, proved and timed, in one report.

Kernels against the CPU's optical flow, every plan against the golden vectors, where the time of a frame goes, and what
memory it takes. A step that fails is told and the others go on: the report is what one attaches to a bug.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.bundle import Bundle
from edge.check import Finding
from edge.device import describe
from edge.engine.admission import ORDER, Row, Verdict, judge
from edge.engine.library import library, place
from edge.engine.pace import frames
from edge.engine.plans import Plans, command, key_of
from edge.engine.tensorrt import TensorRTEngine, measured
from edge.errors import BackendError, EdgeError, OptionError, OutputError

if TYPE_CHECKING:
    from edge.cuda import Device

REPORT = "edge-device-report.json"
FRAMES = 300
"""That are run to see whether memory grows."""

FLOW_PIXELS = 1e-3
"""Largest difference between the motion that the GPU finds and the CPU's."""

GROWTH_BYTES = 4 << 20
"""On the GPU, in that many frames: none is expected, and other programs use it as well."""


def run(bundle: Bundle, target: Path, *, tell: Callable[[str], None] = lambda line: None) -> tuple[str, dict[str, Any]]:
    """Check everything, and write the report.

    Args:
        bundle: opened and verified.
        target: the JSON file to write.
        tell: is told what goes on, a line at a time.

    Returns:
        The verdict with its findings, for people; and the report: ``verdict`` is ``ok`` or ``failed``.

    Raises:
        OutputError: the report can't be written.
    """
    begun = time.monotonic()
    checks = _Checks(bundle, tell)
    checks.all()
    failed = [one for one in checks.findings if not one.passed]
    report = {
        "verdict": "failed" if failed or not checks.findings else "ok",
        "bundle": {"name": bundle.manifest.name, "where": str(bundle.where), "family": bundle.manifest.family},
        "machine": asdict(describe()),
        **checks.facts,
        "findings": [asdict(one) for one in checks.findings],
        "seconds": round(time.monotonic() - begun, 1),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    lines = [f"  {'ok  ' if one.passed else 'FAIL'}  {one.what}: {one.detail}" for one in checks.findings]
    lines += [f"        {line}" for line in checks.lines]
    verdict = "ok" if report["verdict"] == "ok" else f"FAILED, {len(failed)} of {len(checks.findings)}"
    lines.append(f"device check: {verdict}; report in {target}")
    try:
        target.write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{target}: can't be written ({error.strerror}); choose another --report") from error
    return "\n".join(lines), report


class _Checks:
    def __init__(self, bundle: Bundle, tell: Callable[[str], None]) -> None:
        self._bundle, self._tell = bundle, tell
        self._plans = Plans()
        self.findings: list[Finding] = []
        self.lines: list[str] = []
        self.facts: dict[str, Any] = {}

    def all(self) -> None:
        device = self._step("GPU", self._device)
        if device is None:
            return
        try:
            self._step("optical flow", lambda: self._flow(device))
            self._step("crops", lambda: self._crops(device))
            if self._step("TensorRT", lambda: self._tensorrt(device)) is not None:
                verdict = self._step("plans", lambda: self._verdict(device))
                for row in () if verdict is None else verdict.rows:
                    if row.backend == "tensorrt" and row.reproduces:
                        self._step(f"frames, {row.precision}", lambda row=row: self._frames(device, row))  # type: ignore[misc]
        finally:
            device.close()

    def _step(self, what: str, do: Callable[[], Any]) -> Any:
        """Do one thing; that it fails is a finding."""
        self._tell(what)
        try:
            return do()
        except EdgeError as error:
            self.findings.append(Finding(what, False, str(error)))
        except Exception as error:  # what nobody foresaw belongs into the report, not in its place
            self.findings.append(Finding(what, False, f"{type(error).__name__}: {error}"))
        return None

    def _device(self) -> Device:
        from edge.cuda import Device

        device = Device()
        free = device.free_memory()
        self.facts["gpu"] = {
            "name": device.name,
            "sm": ".".join(map(str, device.capability)),
            "memory_bytes": device.memory,
            "free_bytes": free,
            "driver_runs_cuda": ".".join(map(str, getattr(device, "driver_version", ()))),
        }
        detail = f"{device.name}, SM {self.facts['gpu']['sm']}, {free >> 20} of {device.memory >> 20} MiB are free"
        self.findings.append(Finding("GPU", True, detail))
        return device

    def _flow(self, device: Device) -> None:
        """The kernels' motion against the CPU's, with the bundle's own parameters where it wants motion."""
        from edge.flow import CLG, flow, named
        from edge.flow.cuda import DeviceFlow

        facts = dict(self._bundle.manifest.flow or {})
        method = named(str(facts.pop("name")), **facts) if facts else CLG()
        if not isinstance(method, CLG):
            self.lines.append(f"optical flow {method.name}: there are no kernels for it, the CPU's is used")
            method = CLG()
        spec = next((one for one in self._bundle.inputs if one.kind == "flow"), None)
        height, width = (227, 227) if spec is None else (spec.height, spec.width)
        before, after = _greys(height, width)
        motion = DeviceFlow(device, height, width, method)
        found, wanted = motion.between(before, after), flow(before, after, method)
        worst = float(np.abs(found - wanted).max())
        timer, took = device.timer(), []
        for _ in range(10):
            timer.start()
            motion()
            timer.stop()
            took.append(timer.ms)
        ms = float(np.median(took))
        self.facts["flow"] = {"method": asdict(method), "size": [height, width], "worst_pixels": worst, "gpu_ms": ms}
        detail = f"differs by {worst:.1e} pixel, allowed {FLOW_PIXELS:.0e}; {ms:.2f} ms for {width}x{height}"
        self.findings.append(Finding("optical flow, GPU against CPU", worst <= FLOW_PIXELS, detail, worst))

    def _crops(self, device: Device) -> None:
        """What the kernels make of the golden pictures; :func:`edge.check.check_preprocessing` is the CPU's."""
        from edge.flow import named
        from edge.flow.cuda import DeviceCutter
        from edge.preprocess import crop_specs

        manifest, facts = self._bundle.manifest, dict(self._bundle.manifest.flow or {})
        method = named(str(facts.pop("name")), **facts) if facts else None
        targets = {one.name: device.buffer((1, *one.shape[-3:]), one.dtype) for one in manifest.inputs}
        try:
            cutter = DeviceCutter(device, manifest.inputs, crop_specs(manifest.inputs), method, targets)
        except OptionError as error:
            self.lines.append(f"crops and motion are found on the CPU: {error}")
            return
        allowed = manifest.tolerances["tensor"]
        for case in self._bundle.cases:
            pictures, eyes = self._bundle.golden[f"picture/{case}"], self._bundle.golden[f"eyes/{case}"]
            crops = [cutter.cut(pictures[at], eyes[at]) for at in range(2 if cutter.moves else 1)]
            cutter.tensors(crops[-1], crops[0])
            for one in manifest.inputs:
                found = np.empty(targets[one.name].shape, one.dtype)
                device.download(found, targets[one.name])
                device.synchronize()
                tensor = self._bundle.window(case)[one.name]
                worst = float(np.abs(found - (tensor if one.kind == "face" else tensor[:, 0])).max())
                what = f"pixels -> tensor on the GPU, {case}, {one.name}"
                detail = f"differs by {worst:.1e}, allowed {allowed:.1e}"
                self.findings.append(Finding(what, worst <= allowed, detail, worst))

    def _tensorrt(self, device: Device) -> str:
        version = str(library().__version__)
        here = place(device)
        self.facts["tensorrt"], self.facts["place"] = version, asdict(here)
        self.findings.append(Finding("TensorRT", True, str(here)))
        return version

    def _verdict(self, device: Device) -> Verdict | None:
        here = place(device)
        keys = [
            key_of(self._bundle, graph, precision, here)
            for precision in ORDER
            if precision in self._bundle.manifest.precisions
            for graph in self._bundle.manifest.running
        ]
        there = [facts for facts in map(self._plans.find, keys) if facts is not None]
        self.facts["plans"] = [
            {"graph": one.key.graph, "precision": one.key.precision, "bytes": one.size, "build_seconds": one.seconds}
            for one in there
        ]
        if not there:
            raise BackendError(f"no plan was built for {here}; type: {command(self._bundle)}")
        verdict = judge(self._bundle, device, self._plans, tell=self._tell)
        self.facts["engines"] = [asdict(row) for row in verdict.rows]
        for row in verdict.rows:
            self.findings.append(Finding(f"golden vectors, {row.backend} {row.precision}", row.reproduces, row.reason))
            if row.median_ms is not None:
                self.lines.append(
                    f"{row.backend} {row.precision}: {row.median_ms:.2f} ms a frame, p95 {row.p95_ms:.2f}"
                )
        chosen = verdict.chosen
        self.lines.append(f"used: {'nothing' if chosen is None else f'{chosen.backend} {chosen.precision}'}")
        return verdict

    def _frames(self, device: Device, row: Row) -> None:
        """Where a frame's time goes, and whether frames take memory."""
        before = device.free_memory()
        engine = TensorRTEngine(self._bundle, row.precision, plans=self._plans, device=device)
        try:
            opened = device.free_memory()
            stages = {}
            for graph in self._bundle.manifest.running:
                timer, replay = device.timer(), engine.loaded(graph).replay
                took = []
                for _ in range(30):
                    timer.start()
                    replay()
                    timer.stop()
                    took.append(timer.ms)
                stages[graph] = float(np.median(took))
            step, close = frames(self._bundle, engine)
            step()
            settled, resident = device.free_memory(), _resident()
            for _ in range(FRAMES):
                step()
            grown, more = settled - device.free_memory(), _resident() - resident
            close()
            details = measured(engine)
        finally:
            engine.close()
        self.facts.setdefault("frames", {})[row.precision] = {
            "gpu_ms": stages,
            "host_ms": row.median_ms,
            "graphs": details,
            "opened_bytes": before - opened,
            "grown_bytes": grown,
            "process_grown_bytes": more,
            "frames": FRAMES,
        }
        on_gpu = ", ".join(f"{graph} {ms:.2f}" for graph, ms in stages.items())
        self.lines.append(f"tensorrt {row.precision}: on the GPU {on_gpu} ms; {(before - opened) >> 20} MiB")
        again = [f"{graph} ({one['refusal']})" for graph, one in details.items() if not one["replayed"]]
        if again:
            self.lines.append(f"tensorrt {row.precision}: not replayed as a graph: {', '.join(again)}")
        detail = (
            f"{FRAMES} frames took {max(0, grown) / 2**20:.1f} MiB more on the GPU, {more / 2**20:.1f} in the process"
        )
        self.findings.append(Finding(f"memory, tensorrt {row.precision}", grown <= GROWTH_BYTES, detail))


def _greys(height: int, width: int) -> tuple[Any, Any]:
    """A face, and the same turned and moved by some pixels: grey uint8 (height, width)."""
    import cv2

    from edge.source import read_picture
    from edge.synthetic import PORTRAIT

    face = cv2.resize(cv2.cvtColor(read_picture(PORTRAIT), cv2.COLOR_BGR2GRAY), (width, height))
    moved = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), 1.5, 1.01), np.float64)
    moved[:, 2] += (2.0, -1.5)
    turned = cv2.warpAffine(face, moved, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(face, np.uint8), np.asarray(turned, np.uint8)


def _resident() -> int:
    """Bytes of this process in memory."""
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return 0 if found is None else int(found.group(1)) << 10
