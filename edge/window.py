"""From a face in a frame to the network's answer: one crop at once, or a window of crops and of motion over time.

A network that sees a window costs per frame what a frame costs: each new crop and each new flow image goes through an
encoder once, its features into a ring of the last few, and a small head reads the rings. The engine keeps these, and
what an encoder remembers, in a memory for each face (:class:`edge.engine.contract.Memory`). Nothing is ever padded:
there is no answer until the window is full, and a face that was away for too long starts anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from edge.bundle import ANSWER, Manifest
from edge.engine import Engine, Memory
from edge.engine.contract import on_host
from edge.errors import BackendError, OptionError
from edge.flow import flow, flow_image, named
from edge.preprocess import crop_specs, face_crop, to_tensor
from edge.types import Image, Points, Tensor

if TYPE_CHECKING:
    from edge.cuda import Buffer, Device

_LOG = logging.getLogger(__name__)

ON_TIME = 0.75
"""A frame enters a window that takes one every ``interval_ms`` when it is at least this share of that late: cameras are
not punctual, and waiting for the next frame would halve the rate."""

Crops = Mapping[str, Image]
"""By input: what is cut from a frame for one face. For a flow image that is a grey crop."""


class Cutter:
    """Frames to crops, and crops to the network's tensors, one image at a time."""

    def __init__(self, manifest: Manifest) -> None:
        self._cut = crop_specs(manifest.inputs)
        self._specs = manifest.inputs
        facts = dict(manifest.flow or {})
        self._method = named(facts.pop("name"), **facts) if facts else None

    def cut(self, image: Image, eyes: Points, grey: Image | None = None) -> Crops:
        """The crops of one face in one frame.

        Args:
            image: BGR uint8 (H, W, 3).
            eyes: float32 (2, 2), see :func:`edge.preprocess.face_crop`.
            grey: the same in grey, (H, W), where somebody has it already.
        """
        return {
            name: face_crop(image if grey is None or spec.colour != "grey" else grey, eyes, spec)
            for name, spec in self._cut.items()
        }

    def tensors(self, crops: Crops, before: Crops | None) -> dict[str, Tensor]:
        """One image for each input, (1, C, H, W); with a flow, the motion since the crops ``before``."""
        made = {}
        for spec in self._specs:
            crop = crops[spec.name]
            if spec.kind == "flow":
                assert before is not None
                assert self._method is not None
                crop = flow_image(flow(before[spec.name], crop, self._method))
            made[spec.name] = to_tensor(crop, spec)
        return made

    @property
    def moves(self) -> bool:
        """Whether motion is wanted: the first frame of a window then only gives the second one its motion."""
        return self._method is not None

    def window(self, frames: Iterable[tuple[Image, Points]]) -> dict[str, Tensor]:
        """The inputs of the graph ``window`` from exactly its frames, oldest first."""
        made: dict[str, list[Tensor]] = {spec.name: [] for spec in self._specs}
        before: Crops | None = None
        for image, eyes in frames:
            crops = self.cut(image, eyes)
            if before is not None or not self.moves:
                for name, tensor in self.tensors(crops, before).items():
                    made[name].append(tensor)
            before = crops
        return {
            spec.name: made[spec.name][0] if spec.kind == "face" else np.stack(made[spec.name], axis=1)
            for spec in self._specs
        }


@dataclass(slots=True)
class _Face:
    """What is remembered of one face."""

    entered_ns: int
    crops: Crops
    memory: Memory
    """Features and states, where the engine keeps them."""


class GpuCutter(Cutter):
    """The same on the engine's GPU, straight into its inputs, for as long as the engine is there.

    Crops and tensors then lie on the GPU; on the host again once another engine has taken over.

    Args:
        engine: whose inputs they are.
        device: its GPU.
        targets: see :meth:`edge.engine.contract.Engine.targets`.

    Raises:
        OptionError: the bundle's optical flow has no kernels.
        BackendError: the kernels can't be compiled, or there is no room.
    """

    def __init__(self, engine: Engine, device: Device, targets: Mapping[str, Buffer]) -> None:
        super().__init__(engine.manifest)
        from edge.flow.cuda import DeviceCutter, kernels

        # Compiled now: a machine that can't is found out before the first frame, not by it.
        kernels(device)
        self._engine = engine
        self._inner = DeviceCutter(device, self._specs, self._cut, self._method, targets)

    def cut(self, image: Image, eyes: Points, grey: Image | None = None) -> Any:
        """See :meth:`Cutter.cut`."""
        if self._engine.targets() is not None:
            try:
                return self._inner.cut(image, eyes)
            except BackendError as error:
                self._engine.failed(error)
        return super().cut(image, eyes, grey)

    def tensors(self, crops: Any, before: Any) -> Any:
        """See :meth:`Cutter.tensors`."""
        if isinstance(crops, Mapping):
            return super().tensors(crops, before)
        return self._inner.tensors(crops, before)


def on_gpu(engine: Engine) -> Cutter:
    """The cutter that brings an engine its tensors on the shortest way; the host's where that is the way."""
    device, targets = getattr(engine, "device", None), engine.targets()
    if device is not None and targets is not None:
        try:
            return GpuCutter(engine, device, cast("Mapping[str, Buffer]", targets))
        except (OptionError, BackendError) as error:
            _LOG.warning("crops and motion are found on the CPU: %s", error)
    return Cutter(engine.manifest)


class Windows:
    """Each face's window, apart from all others'. Call :meth:`advance`, then :meth:`answer`, once a face and frame.

    Args:
        engine: its graphs are loaded.
        gpu: cut and find motion on the engine's GPU, where it has one. What :meth:`advance` gives then lies there, and
            is only good for :meth:`answer`.
    """

    def __init__(self, engine: Engine, *, gpu: bool = False) -> None:
        self._engine, manifest = engine, engine.manifest
        self.cutter = on_gpu(engine) if gpu else Cutter(manifest)
        self._streams = manifest.streams
        self._interval_ns = ON_TIME * manifest.window.interval_ms * 1e6 if manifest.window else 0.0
        self._gap_ns = manifest.window.gap_ms * 1e6 if manifest.window else 0.0
        self._faces: dict[int, _Face] = {}

    def advance(self, face: int, crops: Crops, now_ns: int) -> dict[str, Tensor] | None:
        """The tensors that a frame adds to a face's window.

        Args:
            face: its id.
            crops: from :meth:`Cutter.cut`.
            now_ns: capture time.

        Returns:
            One image an input, or None: the frame comes too soon to enter, or is the first of a window with motion.
        """
        if not self._streams:
            return self._tensors(crops, None)
        known = self._faces.get(face)
        # Crops that lay on a GPU are of no use any more once it is gone.
        moved = known is not None and isinstance(known.crops, Mapping) != isinstance(crops, Mapping)
        if known is None or moved or now_ns - known.entered_ns > self._gap_ns:
            if known is not None:
                known.memory.close()
            self._faces[face] = _Face(now_ns, crops, self._engine.remember())
            return None if self.cutter.moves else self._tensors(crops, None)
        if now_ns - known.entered_ns < self._interval_ns:
            return None
        tensors = self._tensors(crops, known.crops)
        known.entered_ns, known.crops = now_ns, crops
        return tensors

    def answer(self, face: int, tensors: Mapping[str, Tensor]) -> npt.NDArray[np.float32] | None:
        """The logits (K,) float32 for a face, or None while its window is not full.

        Args:
            face: its id.
            tensors: what :meth:`advance` gave.
        """
        try:
            if not self._streams:
                return np.asarray(self._engine.run(tensors)[ANSWER][0], np.float32)
            return self._faces[face].memory.answer(tensors)
        except BackendError as error:
            if on_host(tensors):
                raise
            # What was to be answered is gone with the GPU; the next frame is another engine's.
            self._engine.failed(error)
            return None

    def _tensors(self, crops: Crops, before: Crops | None) -> dict[str, Tensor] | None:
        """One image for each input, or None where the GPU that held the crops was just lost."""
        try:
            return self.cutter.tensors(crops, before)
        except BackendError as error:
            self._engine.failed(error)
            return None

    def stream(self, tensors: Mapping[str, Tensor]) -> npt.NDArray[np.float32] | None:
        """The answer to a whole window's inputs, got image by image, as on the robot; leaves no memory behind.

        Args:
            tensors: inputs of the graph ``window``.
        """
        if not self._streams:
            return self.answer(0, tensors)
        memory = self._engine.remember()
        try:
            logits = None
            for at in range(next(iter(tensors.values())).shape[1]):
                logits = memory.answer({name: np.ascontiguousarray(tensor[:, at]) for name, tensor in tensors.items()})
            return logits
        finally:
            memory.close()

    def forget(self, now_ns: int) -> None:
        """Drop the windows of faces that have been away for too long."""
        for key in [key for key, one in self._faces.items() if now_ns - one.entered_ns > self._gap_ns]:
            self._faces.pop(key).memory.close()
