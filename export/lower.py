"""The five families as the parts that a robot runs: fixed shapes, plain layers, one image's work done once.

A part is one graph to be. Every family has ``window``, a whole example to its logits. A family that reads several
images also has an encoder for each input, which runs once per new image, and ``head``, which reads rings of features:

    newest images | encode_clip | feature into a ring of the last ``steps``
    newest images | encode_flow | feature into a ring of the last ``steps``
    the rings     | head        | logits

An encoder that needs what it saw before keeps it in states, which it answers and is given back with the next image.
Encoders and head together are the window, to rounding. All parts of a network hold its weights under the same names.

What TensorRT can't take, or fuses badly, is written in other layers that compute the same: adaptive pools as fixed
ones, batch normalisation inside its convolution, 3-D convolutions as 2-D ones over neighbouring frames laid side by
side (the form that INT8 kernels exist for, and 1.4 times faster on a CPU), time as the batch, the recurrence unrolled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edge.bundle import ANSWER, FEATURE, HEAD, WINDOW, InputSpec, Stream
from export.errors import ExportError
from train.models.blocks import SpatialPyramidPooling
from train.models.conv_lstm import ConvLSTM, ConvLSTMNetwork
from train.models.cspp import CSPP
from train.models.dam_cnn import DAMCNN
from train.models.emotional_vlan import EmotionalVlan, VlanNetwork
from train.models.trunks import Trunk, scaled
from train.models.two_stream import TwoStream

Shape = tuple[int, ...]
Named = tuple[tuple[str, Shape], ...]
"""Names and static shapes of float32 tensors, batch 1, in the order of a module's arguments or results."""

STEP = "step"

_Network = TypeVar("_Network", bound=nn.Module)


@dataclass(frozen=True)
class Part:
    """One graph to be."""

    role: str
    """``window``, ``encode_clip``, ``encode_flow``, ``head`` or ``step``."""
    module: nn.Module
    """In evaluation mode; takes the inputs in order, returns the outputs in order (one: a tensor, several: a tuple)."""
    inputs: Named
    outputs: Named


@dataclass(frozen=True)
class Lowered:
    """All parts of one network. ``streams`` is empty where an example is one image."""

    parts: tuple[Part, ...]
    streams: tuple[Stream, ...] = ()

    def part(self, role: str) -> Part:
        """The part of a role. Raises KeyError where this family has none."""
        return {part.role: part for part in self.parts}[role]


def lower(network: nn.Module, inputs: tuple[InputSpec, ...]) -> Lowered:
    """Take a network apart.

    Args:
        network: of one of the five families; it is not changed. Large weights are shared with it, not copied: do not
            train it before the parts are exported.
        inputs: what it eats, in order.

    Raises:
        ExportError: a network of another class, or one that has no per-image features.
    """
    for kind, lowering in _LOWERINGS.items():
        if isinstance(network, kind):
            with torch.no_grad():
                return lowering(network, inputs)
    known = ", ".join(kind.__name__ for kind in _LOWERINGS)
    raise ExportError(f"no lowering for a {type(network).__name__}; expected {known}; add it to export/lower.py")


# Layers written otherwise.


class FixedPyramid(nn.Module):
    """:class:`train.models.blocks.SpatialPyramidPooling` in fixed layers, bit for bit the same numbers.

    Bins of one size at one spacing, as they are where the level divides the side (and in some other cases), are a max
    pool. Any others are cut out and reduced, first rows, then columns: the maximum of maxima is the maximum.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W), H and W at least the finest level, -> (N, C * sum(level ** 2 for level in levels))."""
        return torch.cat([self._pooled(features, level).flatten(1) for level in self.levels], dim=1)

    def _pooled(self, features: Tensor, level: int) -> Tensor:
        rows, columns = bins(features.shape[-2], level), bins(features.shape[-1], level)
        down, across = even(rows), even(columns)
        if down is not None and across is not None:
            return max_pool2d(features, (down[0], across[0]), (down[1], across[1]))
        for axis, edges in ((2, rows), (3, columns)):
            cut = [features.narrow(axis, start, end - start).amax(axis, keepdim=True) for start, end in edges]
            features = torch.cat(cut, dim=axis) if level > 1 else cut[0]
        return features


def bins(side: int, level: int) -> list[tuple[int, int]]:
    """First and past-the-last pixel of each of ``level`` bins along a side, as torch's adaptive pools cut it."""
    return [(i * side // level, -(-(i + 1) * side // level)) for i in range(level)]


def even(edges: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Size and spacing of bins that have but one of each, else None."""
    sizes = {end - start for start, end in edges}
    spacings = {after[0] - before[0] for before, after in pairwise(edges)}
    if len(sizes) > 1 or len(spacings) > 1:
        return None
    size = sizes.pop()
    return size, spacings.pop() if spacings else size


class FixedGrid(nn.Module):
    """A trunk's adaptive mean pool, which does nothing at the papers' input sizes: then it is no layer at all."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, side, side)."""
        return maps if maps.shape[-2:] == (self.side, self.side) else adaptive_avg_pool2d(maps, self.side)


def shell(network: _Network) -> _Network:
    """A copy, in evaluation mode, whose layers may be exchanged; its tensors are the very same ones, not copies."""
    same: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, same).eval()


def prepared(network: _Network) -> _Network:
    """A :func:`shell` with batch normalisation folded and adaptive pools fixed."""
    network = shell(network)
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                layer, norm = module[index], module[index + 1]
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[index], module[index + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
                elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                    module[index], module[index + 1] = fuse_linear_bn_eval(layer, norm), nn.Identity()
        for name, child in module.named_children():
            if isinstance(child, SpatialPyramidPooling):
                setattr(module, name, FixedPyramid(child.levels))
        if isinstance(module, Trunk):
            side = module.avgpool.output_size
            assert isinstance(side, int)
            module.avgpool = FixedGrid(side)  # type: ignore[assignment]
    return network


class Form(nn.Module):
    """One way to call a network. The network's tensors keep their names whatever the way."""

    def __init__(self, network: nn.Module, call: Callable[..., Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.network = network
        self._call = call
        self.eval()

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The part's inputs to its outputs."""
        return self._call(*tensors)


def _answer(classes: int) -> Named:
    return ((ANSWER, (1, classes)),)


def _window(module: nn.Module, inputs: tuple[InputSpec, ...], classes: int) -> Part:
    return Part(WINDOW, module, tuple((spec.name, spec.shape) for spec in inputs), _answer(classes))


# One image.


def _cspp(network: CSPP, inputs: tuple[InputSpec, ...]) -> Lowered:
    network = prepared(network)
    return Lowered((_window(Form(network, network), inputs, network.config.classes),))


def _dam_cnn(network: DAMCNN, inputs: tuple[InputSpec, ...]) -> Lowered:
    """The decoders of MPVS-Net stay at home."""
    network = prepared(network.inference())

    def call(face: Tensor) -> Tensor:
        if network.mpvs is None or network.config.salient_scale != 1:
            return network(face)
        assert network.serd is not None
        logits: Tensor = network.mpvs(network.serd(network.trunk.maps(face)).flatten(1))
        return logits

    return Lowered((_window(Form(network, call), inputs, network.config.classes),))


# A feature an image, from each of two streams.


def _folded(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Features of a window's images, as one batch: (1, T, C, H, W) -> (1, T, features)."""
    return encode(images.flatten(0, 1)).unsqueeze(0)


def _streamed(
    network: nn.Module,
    inputs: tuple[InputSpec, ...],
    encoders: Mapping[str, Callable[[Tensor], Tensor]],
    head: Callable[..., Tensor],
    width: int,
    classes: int,
) -> Lowered:
    """Parts of a network whose encoders see one image each. ``encoders`` are by input, in the order of the inputs."""

    def window(*clips: Tensor) -> Tensor:
        return head(*(_folded(encode, clip) for encode, clip in zip(encoders.values(), clips, strict=True)))

    parts, streams = [_window(Form(network, window), inputs, classes)], []
    for spec in inputs:
        stream = Stream(spec.name, f"encode_{spec.name}", f"{spec.name}_features", 1, spec.shape[1])
        image = ((spec.name, (1, *spec.shape[2:])),)
        parts.append(Part(stream.encoder, Form(network, encoders[spec.name]), image, ((FEATURE, (1, width)),)))
        streams.append(stream)
    rings = tuple((stream.ring, (1, stream.steps, width)) for stream in streams)
    parts.append(Part(HEAD, Form(network, head), rings, _answer(classes)))
    return Lowered(tuple(parts), tuple(streams))


def _two_stream(network: TwoStream, inputs: tuple[InputSpec, ...]) -> Lowered:
    network = prepared(network)
    found = (("clip", network.spatial, network.encode_frame), ("flow", network.temporal, network.encode_flow))
    encoders = {name: encode for name, stream, encode in found if stream is not None}
    streams = [stream for _, stream, _ in found if stream is not None]

    def head(*rings: Tensor) -> Tensor:
        means = [ring.mean(1) for ring in rings]
        if network.config.mode == "score":
            # log((p + q) / 2) from log p and log q: never the logarithm of a zero, not in half precision either.
            first, second = (stream.logits(mean).log_softmax(1) for stream, mean in zip(streams, means, strict=True))
            larger, smaller = torch.maximum(first, second), torch.minimum(first, second)
            return larger + (0.5 * (1 + (smaller - larger).exp())).log()
        features = torch.cat(means, 1) if len(means) > 1 else means[0]
        if network.svm is not None:
            logits: Tensor = network.svm(network.describe(features))
            return logits
        return network.dbn(features) if network.dbn is not None else streams[0].logits(features)

    width = scaled(4096, network.config.width)
    return _streamed(network, inputs, encoders, head, width, network.config.classes)


class Gains(nn.Module):
    """:class:`train.models.emotional_vlan.EmotionalVlan` with exp(a) a constant and the sums of equation (1) first."""

    gain: Tensor

    def __init__(self, vlan: EmotionalVlan) -> None:
        super().__init__()
        self.keep = vlan.keep
        self.register_buffer("gain", torch.exp(vlan.a).detach())

    def forward(self, *rings: Tensor) -> Tensor:
        """Each modality's (1, T, cells) -> (1, cells), (1, T * cells) or (1, modalities * T * cells)."""
        if self.keep == "streams":
            return (torch.cat(rings, 1) * self.gain).flatten(1) if len(rings) > 1 else (rings[0] * self.gain).flatten(1)
        both = [ring.sum(1) for ring in rings] if self.keep == "sum" else list(rings)
        total = both[0] + both[1] if len(both) > 1 else both[0]
        return (total * self.gain).flatten(1) if self.keep == "frames" else total * self.gain


def _emotional_vlan(network: VlanNetwork, inputs: tuple[InputSpec, ...]) -> Lowered:
    if not network.config.shared:
        raise ExportError(
            "unshared streams have no features of a single image, which a robot needs; expected shared streams; "
            "train with --shared: python -m train emotional_vlan --shared"
        )
    network = prepared(network)
    gains = Gains(network.vlan)
    network.vlan = gains  # type: ignore[assignment]
    encoders = {"clip": network.encode_frame, "flow": network.encode_flow}

    def head(*rings: Tensor) -> Tensor:
        logits: Tensor = network.logits(gains(*rings))
        return logits

    wanted = {spec.name: encoders[spec.name] for spec in inputs}
    width = scaled(4096, network.config.width)
    return _streamed(network, inputs, wanted, head, width, network.config.classes)


# A convolutional recurrence.


class LoweredConvLSTM(nn.Module):
    """:class:`train.models.conv_lstm.ConvLSTMNetwork` with batch 1, its frames in the place of the batch.

    ``encode`` does a new image's work alone. What the convolutions saw before comes from states. A window slides, and
    the recurrence starts from zeros at each window's first step: ``steps`` recurrences, begun one image apart, run side
    by side as a batch, each a step an image. The oldest has then seen a whole window and ends; a new one begins.
    """

    def __init__(self, network: ConvLSTMNetwork) -> None:
        super().__init__()
        self.config, self.receptive, self.steps = network.config, network.receptive, network.steps
        self.convolutions = nn.ModuleList(_flat(layer) for layer in network.convolutions)
        self.recurrence = network.recurrence
        if self.config.two_path:
            self.face = network.face
            self.face_recurrence = network.face_recurrence
        self.logits = network.logits
        side, filters, units = self.config.side, self.config.filters, self.config.units
        self.state: Shape = (1, units, side // 4, side // 4)
        """Shape of a recurrence's H and of its C; H is also the feature."""
        before, older = self.config.temporal - 1, self.steps - 1
        seen = ((1, side), (filters, side // 2), (2 * filters, side // 2)) if before else ()
        names = self.states if older else ()
        self.remembered: Named = (
            *((f"before_{i + 1}", (1, before * maps, size, size)) for i, (maps, size) in enumerate(seen)),
            *((name, (older, *self.state[1:])) for name in names),
        )
        """States of ``encode``: what each convolution saw in the images before, oldest first, and H and C of the
        recurrences under way, oldest first."""

    @property
    def states(self) -> tuple[str, ...]:
        """Names of each path's H and C."""
        return ("h", "c", "h_face", "c_face") if self.config.two_path else ("h", "c")

    def gates(self, frames: Tensor) -> list[Tensor]:
        """(T, 1, 64, 64) -> a path's (T - receptive + 1, 4 * units, 16, 16): each step's input part of the gates."""
        first, second, third = self.convolutions
        maps = max_pool2d(self._over_time(first, frames).relu(), 2)
        maps = self._over_time(third, self._over_time(second, maps).relu()).relu()
        return self._gates(maps, frames[self.receptive - 1 :] if self.receptive > 1 else frames)

    def _gates(self, maps: Tensor, newest: Tensor) -> list[Tensor]:
        """From the third convolution's maps and the frames that end the steps."""
        gates = [self.recurrence.input_to_state(max_pool2d(maps, 2))]
        if self.config.two_path:
            gates.append(self.face_recurrence.input_to_state(self.face.maps(newest)))
        return gates

    def _over_time(self, layer: nn.Module, frames: Tensor) -> Tensor:
        """A 3-D convolution without padding in time: neighbouring frames' channels side by side, then a 2-D one."""
        under, count = self.config.temporal, len(frames) - self.config.temporal + 1
        if under > 1 and count == 1:
            frames = frames.reshape(1, -1, *frames.shape[2:])
        elif under > 1:
            frames = torch.cat([frames[start : start + count] for start in range(under)], 1)
        maps: Tensor = layer(frames)
        return maps

    def window(self, clip: Tensor) -> Tensor:
        """(1, frames, 1, 64, 64) -> (1, classes) logits."""
        gates = self.gates(clip.flatten(0, 1))
        logits: Tensor = self.logits(
            _sum([_recurrence(layer, part) for layer, part in self._paths(gates)]).flatten(1),
        )
        return logits

    def encode(self, image: Tensor, *states: Tensor) -> tuple[Tensor, ...] | Tensor:
        """The newest image (1, 1, 64, 64) and ``remembered`` -> the last H (1, units, 16, 16) and the next states.

        Zeros stand for states that nothing was seen for; after as many images as a window has they are forgotten.
        """
        under, maps, following = self.config.temporal, image, []
        before = states[: len(self.convolutions)] if under > 1 else ()
        for index, layer in enumerate(self.convolutions):
            seen = maps
            if under > 1:
                # What a ReLU gave is not negative; said in the graph, INT8 takes it for an activation like any other,
                # not for a state that may drift.
                known = before[index].relu() if index else before[index]
                seen = torch.cat([known, maps], 1)
                # Under a kernel of two the newest maps are all that is kept. The image may not be answered as it is:
                # that would be an Identity.
                following.append(maps if under == 2 and index else seen[:, maps.shape[1] :])
            maps = layer(seen).relu()
            if index == 0:
                maps = max_pool2d(maps, 2)
        last = []
        running = states[len(before) :]
        for index, (layer, gates) in enumerate(self._paths(self._gates(maps, image))):
            hidden, *later = _side_by_side(layer, gates, *running[2 * index : 2 * index + 2])
            last.append(hidden)
            following += later
        return (_sum(last), *following) if following else _sum(last)

    def head(self, ring: Tensor) -> Tensor:
        """(1, 1, units, 16, 16) -> (1, classes) logits."""
        logits: Tensor = self.logits(ring.flatten(1))
        return logits

    def step(self, clip: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step: the newest ``receptive`` frames, and H and C of each path -> logits, and the next H and C."""
        last, following = [], []
        for index, (layer, gates) in enumerate(self._paths(self.gates(clip.flatten(0, 1)))):
            h, c = states[2 * index : 2 * index + 2]
            hidden, cell = _cell(layer.state_to_state(h) + gates, c)
            following += [hidden, cell]
            last.append(hidden)
        return self.logits(_sum(last).flatten(1)), *following

    def _paths(self, gates: list[Tensor]) -> list[tuple[ConvLSTM, Tensor]]:
        layers = [self.recurrence, self.face_recurrence] if self.config.two_path else [self.recurrence]
        return list(zip(layers, gates, strict=True))


def _sum(hidden: list[Tensor]) -> Tensor:
    """Of one path its H, of two the sum."""
    return hidden[0] + hidden[1] if len(hidden) > 1 else hidden[0]


def _flat(layer: nn.Module) -> nn.Conv2d:
    """A 3-D convolution over T frames as a 2-D one over T times the channels, the oldest frame's first."""
    assert isinstance(layer, nn.Conv3d)
    outputs, inputs, frames, height, width = layer.weight.shape
    flat = nn.Conv2d(frames * inputs, outputs, (height, width), padding=layer.padding[1:])  # type: ignore[arg-type]
    assert flat.bias is not None
    assert layer.bias is not None
    flat.weight.copy_(layer.weight.transpose(1, 2).reshape(flat.weight.shape))
    flat.bias.copy_(layer.bias)
    return flat


def _cell(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
    """Equations (1)-(6) behind the convolutions: H and C. ``cell`` None is a cell of zeros."""
    forget, write, modulation, output = gates.chunk(4, 1)
    following = modulation.tanh() * write.sigmoid()
    if cell is not None:
        following = cell * forget.sigmoid() + following
    return following.tanh() * output.sigmoid(), following


def _recurrence(layer: ConvLSTM, gates: Tensor) -> Tensor:
    """The recurrence from zero states, unrolled: (T, 4 * units, H, W) -> the last H, (1, units, H, W)."""
    first, *others = gates.split(1) if len(gates) > 1 else (gates,)
    hidden, cell = _cell(first, None)
    for step in others:
        hidden, cell = _cell(layer.state_to_state(hidden) + step, cell)
    return hidden


def _side_by_side(layer: ConvLSTM, gates: Tensor, *older: Tensor) -> tuple[Tensor, ...]:
    """A step of recurrences that began one image apart, and the first step of a new one: one convolution for all.

    Args:
        layer: whose recurrence it is.
        gates: the newest image's part, (1, 4 * units, H, W), the same for all.
        older: H and C of those under way, (steps - 1, units, H, W) each, oldest first; none where steps is 1.

    Returns:
        H of the one that ends, (1, units, H, W), and the next ``older``.
    """
    if not older:
        return _cell(gates, None)[:1]
    h, c = older
    every = torch.cat([layer.state_to_state(h) + gates, gates])
    forget, write, modulation, output = every.chunk(4, 1)
    written, new = (modulation.tanh() * write.sigmoid()).split([len(h), 1])
    cell = torch.cat([c * forget[:-1].sigmoid() + written, new])
    last, hidden = (cell.tanh() * output.sigmoid()).split([1, len(h)])
    return last, hidden, cell[1:]


def _conv_lstm(network: ConvLSTMNetwork, inputs: tuple[InputSpec, ...]) -> Lowered:
    lowered = LoweredConvLSTM(prepared(network))
    (spec,), classes = inputs, network.config.classes
    remembered, frame = lowered.remembered, (1, *spec.shape[2:])
    following = tuple((f"{name}_next", shape) for name, shape in remembered)
    pairs = tuple((before[0], after[0]) for before, after in zip(remembered, following, strict=True))
    # The recurrence runs in the encoder: what comes out of it knows a whole window.
    stream = Stream(spec.name, "encode_clip", "clip_features", spec.shape[1], 1, pairs)
    states = tuple((name, lowered.state) for name in lowered.states)
    parts = (
        _window(Form(lowered, lowered.window), inputs, classes),
        Part(
            stream.encoder,
            Form(lowered, lowered.encode),
            ((spec.name, frame), *remembered),
            ((FEATURE, lowered.state), *following),
        ),
        Part(HEAD, Form(lowered, lowered.head), ((stream.ring, (1, 1, *lowered.state[1:])),), _answer(classes)),
        Part(
            STEP,
            Form(lowered, lowered.step),
            ((spec.name, (1, lowered.receptive, *spec.shape[2:])), *states),
            (*_answer(classes), *((f"{name}_next", shape) for name, shape in states)),
        ),
    )
    return Lowered(parts, (stream,))


_LOWERINGS: dict[type[nn.Module], Callable[[Any, tuple[InputSpec, ...]], Lowered]] = {
    CSPP: _cspp,
    ConvLSTMNetwork: _conv_lstm,
    TwoStream: _two_stream,
    VlanNetwork: _emotional_vlan,
    DAMCNN: _dam_cnn,
}
