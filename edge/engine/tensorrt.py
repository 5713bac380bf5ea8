"""TensorRT on an NVIDIA GPU: plans that were built on this machine, and everything between image and logits on the GPU.

What a frame costs the host: a copy of the new image into page-locked memory, one call for each graph, and a wait. All
memory is taken when a graph is loaded; addresses are set once, so that the driver replays what TensorRT queued
(:meth:`edge.cuda.Device.capture`). Features and states of each face stay on the GPU: they are copied there between the
graphs' fixed buffers and the face's own, which costs a few microseconds and keeps those addresses fixed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.bundle import ANSWER, FEATURE, HEAD, WINDOW, Bundle
from edge.engine.contract import Engine, Given, InputsError, Logits, Memory, Placed
from edge.engine.library import library, log_of, place, refusal
from edge.engine.plans import Plans, command, key_of
from edge.errors import BackendError, EdgeError
from edge.manifest import Stream, TensorSpec
from edge.types import Tensor

if TYPE_CHECKING:
    import tensorrt as trt

    from edge.cuda import Buffer, Device, Graph

_LOG = logging.getLogger(__name__)

FACES = 4
"""Faces whose windows have memory from the start. More than ever before at once take more when they come."""


@dataclass(slots=True)
class _Loaded:
    """A graph of the bundle on the GPU."""

    engine: trt.ICudaEngine
    context: trt.IExecutionContext
    buffers: dict[str, Buffer]
    """Of inputs and outputs, by name; the context knows their addresses for good."""
    staging: dict[str, Tensor]
    """Page-locked, by name: what is copied to and from there."""
    replay: Graph


class TensorRTEngine(Engine):
    """A bundle's graphs as TensorRT plans of this machine's cache.

    Args:
        bundle: opened.
        precision: one of the bundle's.
        plans: None is the user's cache.
        device: an open GPU, which stays open; None opens one for this engine.

    Raises:
        BackendError: no TensorRT, PyCUDA, driver or GPU; no plan, or one for another place; too little memory. What to
            type is said.
        BundleError: the bundle has no such precision.
    """

    backend = "tensorrt"

    def __init__(
        self, bundle: Bundle, precision: str, *, plans: Plans | None = None, device: Device | None = None
    ) -> None:
        super().__init__(bundle, precision)
        trt = library()
        self._plans = plans or Plans()
        self._log = log_of()
        self._graphs: dict[str, _Loaded] = {}
        self._idle: list[_Slot] = []
        self._targets: dict[str, Buffer] = {}
        self._own_device = device is None
        if device is None:
            from edge.cuda import Device

            device = Device()
        self.device = device
        try:
            self.place = place(device)
            with device.doing("starting TensorRT"):
                try:
                    self._runtime = trt.Runtime(self._log)
                except TypeError as error:  # what its constructor answers where the library gives it nothing
                    raise self._refusal("TensorRT does not start") from error
            self.load()
            if self.manifest.streams:
                self._idle = [_Slot(self) for _ in range(FACES)]
        except BaseException:
            self.close()
            raise

    def offers(self, graph: str) -> bool:
        """Plans are built of what runs on a robot alone."""
        return graph in self.manifest.running and super().offers(graph)

    def _load(self, graph: str) -> None:
        key = key_of(self.bundle, graph, self.precision, self.place)
        plan = self._plans.read(key, self.bundle)
        facts, device = self.manifest.graphs[graph], self.device
        again = f"type: {command(self.bundle, self.precision)} --rebuild"
        self._log.clear()
        with device.doing(f"loading the {self.precision} plan of {graph!r}"):
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise BackendError(
                    f"{self.bundle.where}: TensorRT does not load the {self.precision} plan of {graph!r} "
                    f"({self._log.words()}); {again}"
                )
            self._check(graph, engine, again)
            context = engine.create_execution_context()
            if context is None:
                raise self._refusal(f"no room to run the {self.precision} plan of {graph!r}")
            buffers: dict[str, Buffer] = {}
            staging: dict[str, Tensor] = {}
            for spec in (*facts.inputs, *facts.outputs):
                buffers[spec.name] = device.buffer(spec.shape, spec.dtype)
                staging[spec.name] = device.pinned(spec.shape, spec.dtype)
                device.clear(buffers[spec.name])
                if not context.set_tensor_address(spec.name, buffers[spec.name].pointer):
                    raise self._refusal(f"TensorRT does not take the memory of {spec.name!r} of {graph!r}")

        def queue() -> None:
            self._queue(graph, context)

        self._graphs[graph] = _Loaded(engine, context, buffers, staging, device.capture(queue))
        device.synchronize()
        if (reason := self._graphs[graph].replay.refusal) is not None:
            _LOG.info("%s is queued anew for each frame: %s", graph, reason)

    def _check(self, graph: str, engine: trt.ICudaEngine, again: str) -> None:
        """Refuse a plan whose tensors aren't the manifest's."""
        trt = library()
        found = {
            engine.get_tensor_name(at): (
                engine.get_tensor_mode(engine.get_tensor_name(at)) == trt.TensorIOMode.INPUT,
                tuple(engine.get_tensor_shape(engine.get_tensor_name(at))),
                np.dtype(trt.nptype(engine.get_tensor_dtype(engine.get_tensor_name(at)))),
            )
            for at in range(engine.num_io_tensors)
        }
        facts = self.manifest.graphs[graph]
        wanted = {
            spec.name: (is_input, spec.shape, np.dtype(spec.dtype))
            for is_input, specs in ((True, facts.inputs), (False, facts.outputs))
            for spec in specs
        }
        if found != wanted:
            raise BackendError(
                f"{self.bundle.where}: the {self.precision} plan of {graph!r} has {found}, "
                f"the manifest says {wanted}; {again}"
            )

    def _queue(self, graph: str, context: trt.IExecutionContext) -> None:
        with self.device.doing(f"running {graph!r}"):
            if not context.execute_async_v3(self.device.stream):
                raise self._refusal(f"TensorRT does not run {graph!r}")

    def _refusal(self, what: str) -> BackendError:
        return refusal(f"{self.bundle.where}: {what}", self._log.words(), self.place)

    def _run(self, graph: str, inputs: Mapping[str, Given]) -> dict[str, Tensor]:
        loaded, device = self._graphs[graph], self.device
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                np.copyto(loaded.staging[name], value)
                device.upload(loaded.buffers[name], loaded.staging[name])
            else:
                self.moved(loaded.buffers[name], value)
        loaded.replay()
        names = [spec.name for spec in self.manifest.graphs[graph].outputs]
        for name in names:
            device.download(loaded.staging[name], loaded.buffers[name])
        device.synchronize()
        return {name: loaded.staging[name].copy() for name in names}

    def remember(self) -> Memory:
        """A face's memory on the GPU; one that another face gave back, where there is one."""
        slot = self._idle.pop() if self._idle else _Slot(self)
        slot.empty()
        return DeviceMemory(self, slot)

    def targets(self) -> Mapping[str, Buffer]:
        """Where the next image of each input is expected on the GPU: a graph's own input, wherever one image is all."""
        streams = {stream.input: stream for stream in self.manifest.streams}
        if not streams:
            return {spec.name: self._graphs[WINDOW].buffers[spec.name] for spec in self.manifest.inputs}
        for name, stream in streams.items():
            if name not in self._targets:
                encoder = self._graphs[stream.encoder].buffers[name]
                single = stream.receptive == 1 or stream.state
                shape = (1, *encoder.shape[2:])
                self._targets[name] = encoder if single else self.device.buffer(shape, encoder.dtype)
        return self._targets

    def moved(self, target: Buffer, source: Placed) -> None:
        """Queue what lies on the GPU into its place, unless it was drawn there."""
        if source.pointer != target.pointer:
            from edge.cuda import Buffer

            self.device.copy(target, Buffer(source.pointer, target.shape, target.dtype, source))

    def loaded(self, graph: str) -> _Loaded:
        """A graph's buffers and its replay; for what runs on the same GPU."""
        return self._graphs[graph]

    def take_back(self, slot: _Slot) -> None:
        """A memory that no face uses any more."""
        self._idle.append(slot)

    def adopt(self) -> None:
        """Close the GPU that was given with the engine."""
        self._own_device = True

    def close(self) -> None:
        """Release the GPU. May be called twice, and after an error."""
        # TensorRT's own objects go first, while their context is there; of a lost GPU nothing more is heard.
        with contextlib.suppress(EdgeError), self.device.doing("releasing TensorRT"):
            for loaded in self._graphs.values():
                loaded.context = loaded.engine = None
            self._graphs.clear()
            self._runtime = None
        # On a lost GPU the way above is barred, and what is kept here would keep its context.
        self._graphs.clear()
        self._idle.clear()
        self._targets.clear()
        self._loaded.clear()
        self._runtime = None
        if self._own_device:
            self.device.close()


@dataclass(slots=True)
class _Lane:
    """What one stream keeps on the GPU for one face."""

    stream: Stream
    features: Buffer
    slots: list[Buffer]
    """Where each feature of the ring goes."""
    unrolled: list[tuple[tuple[Buffer, Buffer], ...]]
    """By the slot of the newest feature: the copies that put the ring, oldest first, into the head's input."""
    images: list[Buffer] = field(default_factory=list)
    """Of an encoder that sees several images: where each goes."""
    arranged: list[tuple[tuple[Buffer, Buffer], ...]] = field(default_factory=list)
    """The same copies for images, into the encoder's input."""
    states: dict[str, Buffer] = field(default_factory=dict)
    """By input of the encoder."""
    seen: int = 0
    """Images so far."""
    kept: int = 0
    """Features so far."""


class _Slot:
    """Memory for one face at a time, taken once."""

    def __init__(self, engine: TensorRTEngine) -> None:
        self._device = device = engine.device
        self.lanes: dict[str, _Lane] = {}
        for stream in engine.manifest.streams:
            encoder = engine.manifest.graphs[stream.encoder]
            features, slots, unrolled = _ring(
                device, encoder.outputs[0], stream.steps, engine.loaded(HEAD).buffers[stream.ring]
            )
            lane = _Lane(stream, features, slots, unrolled)
            if stream.state:
                lane.states = {spec.name: device.buffer(spec.shape, spec.dtype) for spec in encoder.inputs[1:]}
            elif stream.receptive > 1:
                image = TensorSpec(stream.input, (1, *encoder.inputs[0].shape[2:]), encoder.inputs[0].dtype)
                target = engine.loaded(stream.encoder).buffers[stream.input]
                _, lane.images, lane.arranged = _ring(device, image, stream.receptive, target)
            self.lanes[stream.input] = lane

    def empty(self) -> None:
        """As before the first image."""
        for lane in self.lanes.values():
            lane.seen = lane.kept = 0
            for state in lane.states.values():
                self._device.clear(state)


def _ring(
    device: Device, one: TensorSpec, length: int, target: Buffer
) -> tuple[Buffer, list[Buffer], list[tuple[tuple[Buffer, Buffer], ...]]]:
    """A ring of ``length`` tensors, each one's place, and the copies that order them, by the newest one's place."""
    ring = device.buffer((length, *one.shape), one.dtype)
    size = int(np.prod(one.shape))
    places = [ring.part(at * size, one.shape) for at in range(length)]
    copies = []
    for newest in range(length):
        oldest = (newest + 1) % length
        pairs = [(target.part(0, ((length - oldest) * size,)), ring.part(oldest * size, ((length - oldest) * size,)))]
        if oldest:
            pairs.append((target.part((length - oldest) * size, (oldest * size,)), ring.part(0, (oldest * size,))))
        copies.append(tuple(pairs))
    return ring, places, copies


class DeviceMemory(Memory):
    """What is remembered of one face, on the GPU. Made by :meth:`TensorRTEngine.remember`."""

    def __init__(self, engine: TensorRTEngine, slot: _Slot) -> None:
        self._engine, self._slot = engine, slot
        self._given_back = False

    def answer(self, images: Mapping[str, Given]) -> Logits | None:
        """See :meth:`Memory.answer`."""
        device, lanes = self._engine.device, self._slot.lanes
        for name, lane in lanes.items():
            self._feature(lane, images[name])
        if any(lane.kept < lane.stream.steps for lane in lanes.values()):
            # The next image goes through the same page-locked memory.
            device.synchronize()
            return None
        for lane in lanes.values():
            for target, source in lane.unrolled[(lane.kept - 1) % lane.stream.steps]:
                device.copy(target, source)
        head = self._engine.loaded(HEAD)
        head.replay()
        device.download(head.staging[ANSWER], head.buffers[ANSWER])
        device.synchronize()
        logits = np.array(head.staging[ANSWER][0], np.float32)
        if not np.isfinite(logits).all():
            raise BackendError(f"{self._engine.manifest.name}: {HEAD} answered NaN or infinity in {ANSWER}")
        return logits

    def _feature(self, lane: _Lane, image: Given) -> None:
        """Queue the encoder on a new image, and its answer into the ring once it counts."""
        device, stream = self._engine.device, lane.stream
        encoder = self._engine.loaded(stream.encoder)
        target = lane.images[lane.seen % stream.receptive] if lane.images else encoder.buffers[stream.input]
        if image.nbytes != target.nbytes or image.dtype != target.dtype:
            raise InputsError(
                f"{self._engine.manifest.name}: engine was given {stream.input} {image.shape} {image.dtype}; "
                f"expected {target.shape} {target.dtype}"
            )
        if isinstance(image, np.ndarray):
            staging = encoder.staging[stream.input].reshape(-1)[: image.size]
            np.copyto(staging, image.reshape(-1))
            device.upload(target, staging)
        else:
            self._engine.moved(target, image)
        lane.seen += 1
        if lane.images:
            if lane.seen < stream.receptive:
                return
            for to, source in lane.arranged[(lane.seen - 1) % stream.receptive]:
                device.copy(to, source)
        for name, state in lane.states.items():
            device.copy(encoder.buffers[name], state)
        encoder.replay()
        for before, after in stream.state:
            device.copy(lane.states[before], encoder.buffers[after])
        if stream.state and lane.seen < stream.receptive:
            return
        device.copy(lane.slots[lane.kept % stream.steps], encoder.buffers[FEATURE])
        lane.kept += 1

    def close(self) -> None:
        """Give the memory to the next face. May be called twice."""
        if not self._given_back:
            self._given_back = True
            self._engine.take_back(self._slot)


def measured(engine: TensorRTEngine) -> dict[str, Any]:
    """What the plans take on the GPU, in bytes by graph: TensorRT's scratch memory, and whether it is replayed."""
    return {
        graph: {
            "scratch_bytes": int(loaded.engine.device_memory_size_v2),
            "replayed": loaded.replay.refusal is None,
            "refusal": loaded.replay.refusal,
        }
        for graph in engine.manifest.running
        for loaded in (engine.loaded(graph),)
    }
