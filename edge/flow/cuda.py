"""Crops, motion and tensors on the GPU: the plans of :mod:`edge.flow.plan`, run through a :class:`edge.cuda.Device`.

A frame goes to the GPU once. From there to an engine's input nothing comes back: a face is cut out of it, the motion
since that face's last crop is found, and its picture drawn into the tensor that the network reads.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.cuda import Buffer, Device, Graph, Kernels, Launch
from edge.errors import FrameError
from edge.flow import plan as plans
from edge.flow.contract import Field, Grey, Method
from edge.manifest import InputSpec
from edge.types import Image, Points


def kernels(device: Device) -> Kernels:
    """The package's kernels, compiled for this GPU the first time (some seconds) and kept.

    Raises:
        BackendError: they can't be compiled or loaded; the message says what to type.
    """
    return device.kernels(sorted(plans.KERNELS.glob("*.cu")))


class Bound:
    """A plan with its memory on the GPU. Calling it queues its launches; it neither allocates nor waits.

    Args:
        device: the GPU.
        plan: what to do.
        given: by name of the plan's buffers, those that are there already; others are allocated.

    Attributes:
        buffers: by name.

    Raises:
        ValueError: a given buffer is not of the plan's shape and dtype.
        BackendError: no kernels, or no room.
    """

    def __init__(self, device: Device, plan: plans.Plan, given: Mapping[str, Buffer] | None = None) -> None:
        self._device, self._plan = device, plan
        self.buffers: dict[str, Buffer] = dict(given or {})
        for one in plan.buffers:
            there = self.buffers.get(one.name)
            if there is None:
                self.buffers[one.name] = device.buffer(one.shape, one.dtype)
            elif there.nbytes != _bytes(one) or there.dtype != np.dtype(one.dtype):
                raise ValueError(f"{one.name} is {there!r}; the plan's is {one.dtype} {one.shape}")
        loaded = kernels(device)
        self._launches: list[tuple[plans.Launch, Launch]] = [
            (
                one,
                loaded.launch(
                    one.kernel, one.grid, one.block, self._arguments(one, dict.fromkeys(plan.slots, 0)), one.shared
                ),
            )
            for one in plan.launches
        ]

    def __call__(self, slots: Mapping[str, int | float] | None = None) -> None:
        """Queue the plan.

        Args:
            slots: the numbers that are new in this run, by name.

        Raises:
            KeyError: one of them is missing.
            DeviceLostError: the GPU is gone.
        """
        with self._device.active():
            for one, launch in self._launches:
                if any(isinstance(argument, plans.Slot) for argument in one.arguments):
                    launch.give(self._arguments(one, slots or {}))
                launch()

    def _arguments(self, launch: plans.Launch, slots: Mapping[str, int | float]) -> list[Buffer | np.generic]:
        made: list[Buffer | np.generic] = []
        for one in launch.arguments:
            if isinstance(one, plans.Pointer):
                made.append(self.buffers[one.buffer].part(one.offset, (1,)))
            else:
                value = slots[one.name] if isinstance(one, plans.Slot) else one.value
                made.append(np.dtype(one.dtype).type(value))
        return made


class DeviceFlow:
    """The motion between two grey crops, and its picture as an engine's input. All memory is taken here, once.

    Args:
        device: the GPU.
        height: of the crops, pixels.
        width: of the crops, pixels.
        method: ``clg`` with its parameters.
        image: how the flow image enters the engine; None for the motion alone.
        target: the engine's input, or the part of it that is one image; by default one of its own.

    Attributes:
        before, after: uint8 (height, width); to be filled, on the device's stream, before each call.
        motion: float32 (2, height, width), x then y, pixels, after it.
        tensor: (3, height, width) of the image's dtype, or None.
        graph: says whether the launches are replayed in one call.

    Raises:
        OptionError: no kernels for that method, size or dtype.
        BackendError: no compiler, or no room.
    """

    def __init__(
        self,
        device: Device,
        height: int,
        width: int,
        method: Method,
        image: plans.Image | None = None,
        target: Buffer | None = None,
    ) -> None:
        self._device = device
        given = {} if target is None or image is None else {"tensor": target}
        bound = Bound(device, plans.plan(height, width, method, image), given)
        self.before, self.after = bound.buffers["before"], bound.buffers["after"]
        self.motion, self.tensor = bound.buffers["motion"], bound.buffers.get("tensor")
        device.clear(self.before)
        device.clear(self.after)
        self.graph: Graph = device.capture(bound)
        self._host: dict[str, npt.NDArray[Any]] = {}

    def __call__(self) -> None:
        """Queue it."""
        self.graph()

    def between(self, before: Grey, after: Grey) -> Field:
        """The motion between two pictures of the host, as :func:`edge.flow.flow` gives it, within 0.001 pixels.

        Args:
            before: uint8 (height, width).
            after: uint8 (height, width).

        Raises:
            FrameError: they are not.
        """
        for name, picture in (("before", before), ("after", after)):
            if picture.shape != self.before.shape or picture.dtype != np.uint8:
                raise FrameError(
                    f"flow: {name} is {picture.dtype} {picture.shape}; expected uint8 {self.before.shape}; resize it"
                )
        device = self._device
        if not self._host:
            self._host = {name: device.pinned(self.before.shape, np.uint8) for name in ("before", "after")}
            self._host["motion"] = device.pinned(self.motion.shape, np.float32)
        self._host["before"][:], self._host["after"][:] = before, after
        device.upload(self.before, self._host["before"])
        device.upload(self.after, self._host["after"])
        self()
        device.download(self._host["motion"], self.motion)
        device.synchronize()
        return np.ascontiguousarray(self._host["motion"].transpose(1, 2, 0))


class DeviceCrops:
    """What was cut from a frame for one face, on the GPU. Its memory is used again once nobody has it any more."""

    __slots__ = ("__weakref__", "buffers")

    def __init__(self, buffers: dict[str, Buffer]) -> None:
        self.buffers = buffers


class DeviceCutter:
    """Frames to crops, and crops to an engine's inputs, as :class:`edge.window.Cutter` does it on the host.

    Args:
        device: the GPU, also the engine's.
        inputs: of the bundle.
        cuts: by input, how its face is cut: :func:`edge.preprocess.crop_specs` of the inputs.
        method: of the bundle's flow, or None.
        targets: by input, where one image of it goes, (1, C, H, W) or (C, H, W): the engine's own input.

    Raises:
        OptionError: the bundle's flow has no kernels.
        BackendError: no compiler, or no room.
    """

    def __init__(
        self,
        device: Device,
        inputs: tuple[InputSpec, ...],
        cuts: Mapping[str, InputSpec],
        method: Method | None,
        targets: Mapping[str, Buffer],
    ) -> None:
        self._device, self._cuts, self._targets = device, dict(cuts), dict(targets)
        self._specs = {one.name: one for one in inputs}
        self._image: Image | None = None
        self._shape = (0, 0)
        self._pinned: npt.NDArray[np.uint8] | None = None
        self._frame: Buffer | None = None
        self._plans: dict[str, Bound] = {}
        self._spare: list[dict[str, Buffer]] = []
        self._flows: dict[str, DeviceFlow] = {}
        for one in inputs:
            if one.kind == "flow":
                assert method is not None
                how = plans.Image(targets[one.name].dtype.name, one.normalisation)
                self._flows[one.name] = DeviceFlow(device, one.height, one.width, method, how, targets[one.name])

    @property
    def moves(self) -> bool:
        """Whether motion is wanted: the first frame of a window then only gives the second one its motion."""
        return bool(self._flows)

    def cut(self, image: Image, eyes: Points) -> DeviceCrops:
        """Queue the crops of one face in one frame. A frame is copied to the GPU with its first face.

        Args:
            image: BGR uint8 (H, W, 3), not written to for as long as it is in use.
            eyes: float32 (2, 2), see :func:`edge.preprocess.face_crop`.

        Raises:
            DeviceLostError: the GPU is gone.
            DeviceMemoryError: a larger frame than before, or more faces at once, and no room.
        """
        device = self._device
        with device.active():
            if image is not self._image:
                self._take(image)
            buffers = self._spare.pop() if self._spare else self._allocated()
            for name, bound in self._plans.items():
                bound(plans.crop_slots(eyes, self._cuts[name]))
                kept = "crop" if name in self._flows else "tensor"
                device.copy(buffers[name], bound.buffers[kept])
        crops = DeviceCrops(buffers)
        # The stream is in order: whatever still reads this memory does so before it is written again.
        weakref.finalize(crops, self._spare.append, buffers).atexit = False
        return crops

    def tensors(self, crops: DeviceCrops, before: DeviceCrops | None) -> dict[str, Buffer]:
        """Queue one image for each input, into the engine's own; with a flow, the motion since the crops ``before``.

        Returns:
            By input, where it is.

        Raises:
            DeviceLostError: the GPU is gone.
        """
        device = self._device
        with device.active():
            for name, kept in crops.buffers.items():
                flow = self._flows.get(name)
                if flow is None:
                    device.copy(self._targets[name], kept)
                else:
                    assert before is not None
                    device.copy(flow.before, before.buffers[name])
                    device.copy(flow.after, kept)
                    flow()
        return dict(self._targets)

    def _take(self, image: Image) -> None:
        """Queue a frame's way to the GPU."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise FrameError(f"a frame of {image.dtype} {image.shape}; expected BGR, uint8 (H, W, 3)")
        device = self._device
        if image.shape[:2] != self._shape:
            self._resized(*image.shape[:2])
        assert self._pinned is not None
        assert self._frame is not None
        device.synchronize()  # the frame before has left its page-locked memory
        staging = self._pinned[: image.size].reshape(image.shape)
        staging[:] = image
        device.upload(self._frame.part(0, image.shape), staging)
        self._image = image

    def _resized(self, height: int, width: int) -> None:
        """Get ready for frames of another size. Memory is taken where they are larger than any before."""
        device, size = self._device, height * width * 3
        if self._frame is None or self._frame.nbytes < size:
            self._frame, self._pinned = device.buffer((size,), np.uint8), device.pinned((size,), np.uint8)
        for name, spec in self._cuts.items():
            dtype = None if name in self._flows else self._targets[name].dtype.name
            known = self._plans[name].buffers if name in self._plans else {}
            there = {key: one for key, one in known.items() if key != "frame"}
            frame = self._frame.part(0, (height, width, 3))
            self._plans[name] = Bound(device, plans.crop_plan(height, width, spec, dtype), {**there, "frame": frame})
        self._shape = height, width

    def _allocated(self) -> dict[str, Buffer]:
        """Memory for one more face's crops."""
        made = {}
        for name in self._specs:
            like = self._flows[name].before if name in self._flows else self._targets[name]
            made[name] = self._device.buffer(like.shape, like.dtype)
        return made


def _bytes(one: plans.Buffer) -> int:
    return int(np.prod(one.shape)) * np.dtype(one.dtype).itemsize
