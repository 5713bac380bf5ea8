"""What an engine remembers of one face whose window it reads image by image: here in the host's memory.

An engine that runs on a GPU keeps the same things there (:mod:`edge.engine.tensorrt`), so that between a new image and
the answer nothing comes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge.engine.contract import Given, InputsError, Logits, Memory
from edge.manifest import ANSWER, FEATURE, HEAD, Stream
from edge.types import Tensor

if TYPE_CHECKING:
    from edge.engine.contract import Engine


@dataclass(slots=True)
class _Ring:
    """What one stream remembers."""

    stream: Stream
    images: deque[Tensor]
    features: deque[Tensor]
    states: dict[str, Tensor]
    """By input of the encoder: what it answered at the image before."""
    seen: int = 0
    """Images, counted where there are states."""


class HostMemory(Memory):
    """Rings of arrays, and :meth:`Engine.run` for each graph.

    Args:
        engine: of a bundle with streams.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        graphs = engine.manifest.graphs
        self._rings = {
            stream.input: _Ring(
                stream,
                deque(maxlen=stream.receptive),
                deque(maxlen=stream.steps),
                # Before the first image; nothing ever writes to them.
                {spec.name: np.zeros(spec.shape, spec.dtype) for spec in graphs[stream.encoder].inputs[1:]},
            )
            for stream in engine.manifest.streams
        }

    def answer(self, images: Mapping[str, Given]) -> Logits | None:
        """See :meth:`Memory.answer`."""
        for name, ring in self._rings.items():
            image = images[name]
            if not isinstance(image, np.ndarray):
                raise InputsError(f"{self._engine.manifest.name}: {name} lies on a GPU, and this engine does not")
            if (feature := self._feature(ring, image)) is not None:
                ring.features.append(feature)
        if any(len(ring.features) < ring.stream.steps for ring in self._rings.values()):
            return None
        read = {
            # One feature is a ring as it lies there.
            ring.stream.ring: ring.features[0][:, None] if ring.stream.steps == 1 else np.stack(ring.features, axis=1)
            for ring in self._rings.values()
        }
        return np.asarray(self._engine.run(read, HEAD)[ANSWER][0], np.float32)

    def _feature(self, ring: _Ring, image: Tensor) -> Tensor | None:
        """The encoder's answer to a new image, or None while it has seen too few."""
        stream = ring.stream
        if stream.state:
            answers = self._engine.run({stream.input: image, **ring.states}, stream.encoder)
            ring.states = {before: answers[after] for before, after in stream.state}
            ring.seen += 1
            return answers[FEATURE] if ring.seen >= stream.receptive else None
        ring.images.append(image)
        if len(ring.images) < stream.receptive:
            return None
        newest = ring.images[0] if stream.receptive == 1 else np.stack(ring.images, axis=1)
        return self._engine.run({stream.input: newest}, stream.encoder)[FEATURE]
