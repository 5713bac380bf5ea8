"""What every engine is: the public method checks, a backend writes only ``_load`` and ``_run``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge.bundle import WINDOW, Bundle, TensorSpec
from edge.errors import BackendError, BundleError
from edge.types import Tensor

_Forms = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Shape and dtype by name."""

Logits = npt.NDArray[np.float32]
"""One a label, (K,)."""


class Placed(Protocol):
    """An array that lies on the engine's GPU (:class:`edge.cuda.Buffer`)."""

    @property
    def pointer(self) -> int:
        """Its address there."""

    @property
    def nbytes(self) -> int:
        """Its size."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sides."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its elements."""


Given = Tensor | Placed
"""What an engine is given. Only one on a GPU takes what lies there; see :meth:`Engine.targets`."""


class InputsError(BackendError):
    """Arrays that are not what the manifest says: the caller's mistake, not the engine's."""


class Memory(ABC):
    """What an engine remembers of one face, whose window it reads image by image: see :meth:`Engine.remember`."""

    @abstractmethod
    def answer(self, images: Mapping[str, Given]) -> Logits | None:
        """Take the next image of each stream, and read the window that they end.

        Args:
            images: by input, (1, C, H, W), C-contiguous, of the manifest's dtype; not to be changed afterwards. On a
                GPU, also where :meth:`Engine.targets` wants them.

        Returns:
            The logits, or None while the window is not full.

        Raises:
            BackendError: as :meth:`Engine.run`.
        """

    def close(self) -> None:  # noqa: B027 - most memories hold nothing that needs it
        """Give back what it holds, for another face to use. May be called twice."""


class Engine(ABC):
    """The graphs of a bundle in one precision, loaded: those that run on a robot at once, others when first asked for.

    Args:
        bundle: where the graphs and their facts come from.
        precision: which of its precisions.
    """

    backend: str
    """``onnxruntime`` or ``tensorrt``."""

    def __init__(self, bundle: Bundle, precision: str) -> None:
        if precision not in bundle.manifest.precisions:
            there = ", ".join(bundle.manifest.precisions)
            raise BundleError(f"{bundle.where}: no {precision} graph in this bundle; it has {there}")
        self.precision = precision
        self.bundle, self.manifest = bundle, bundle.manifest
        self._loaded: dict[str, tuple[_Forms, _Forms]] = {}
        """By graph that is loaded: the forms of its inputs and of its outputs."""

    def run(self, inputs: Mapping[str, Given], graph: str = WINDOW) -> dict[str, Tensor]:
        """Run a graph once.

        Args:
            inputs: a C-contiguous array by input name, of exactly the manifest's shape and dtype; where the engine is
                on a GPU it may lie there.
            graph: which of the manifest's graphs.

        Returns:
            An array by output name, of the manifest's shape and dtype; valid for as long as it is kept.

        Raises:
            BackendError: names, shapes or dtypes differ from the manifest's, or the answer isn't finite.
            BundleError: the bundle has no such graph in this precision.
        """
        self.load(graph)
        wanted, answers = self._loaded[graph]
        given = {name: (value.shape, value.dtype) for name, value in inputs.items()}
        if given != wanted or (self.targets() is None and not on_host(inputs)):
            raise InputsError(f"{self.manifest.name}: engine was given {given}; expected {wanted}")
        outputs = self._run(graph, inputs)
        for name, (shape, dtype) in answers.items():
            value = outputs.get(name)
            if value is None or value.shape != shape or value.dtype != dtype:
                found = None if value is None else (value.shape, value.dtype.name)
                raise BackendError(f"{self.manifest.name}: {graph} answered {name} {found}; expected {shape}")
            if not np.isfinite(value).all():
                raise BackendError(f"{self.manifest.name}: {graph} answered NaN or infinity in {name}")
        return outputs

    def load(self, *graphs: str) -> None:
        """Make graphs ready, so that their first run takes no longer than others; all that run on a robot by default.

        Raises:
            BundleError: the bundle has no such graph in this precision, or its file can't be trusted.
            BackendError: the backend can't load it.
        """
        for graph in graphs or self.manifest.running:
            if graph not in self._loaded:
                self._load(graph)
                facts = self.manifest.graphs[graph]
                self._loaded[graph] = _forms(facts.inputs), _forms(facts.outputs)

    @abstractmethod
    def _load(self, graph: str) -> None:
        """Load one graph of the bundle."""

    @abstractmethod
    def _run(self, graph: str, inputs: Mapping[str, Given]) -> dict[str, Tensor]:
        """Run a loaded graph on checked inputs."""

    def offers(self, graph: str) -> bool:
        """Whether it can run a graph: one that is there to run on a robot, or to prove others by."""
        facts = self.manifest.graphs.get(graph)
        return facts is not None and self.precision in facts.files

    def targets(self) -> Mapping[str, Placed] | None:
        """Where the next image of each input is expected on the GPU, (1, C, H, W); None for an engine on the host."""
        return None

    def failed(self, error: BackendError) -> None:
        """Told what went wrong on the engine's GPU outside of it; returns if something else has taken over.

        Raises:
            BackendError: that error, where nothing else can.
        """
        raise error

    def remember(self) -> Memory:
        """An empty memory for one face of a bundle that sees windows; see :class:`edge.manifest.Stream`."""
        from edge.engine.memory import HostMemory

        return HostMemory(self)

    def close(self) -> None:  # noqa: B027 - most backends hold nothing that needs it
        """Release what the backend holds. May be called twice."""


def on_host(inputs: Mapping[str, Given]) -> bool:
    """Whether all arrays are the host's."""
    return all(isinstance(value, np.ndarray) for value in inputs.values())


def _forms(specs: Sequence[TensorSpec]) -> _Forms:
    return {spec.name: (spec.shape, np.dtype(spec.dtype)) for spec in specs}
