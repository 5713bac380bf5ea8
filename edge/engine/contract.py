"""What every engine is: the public method checks, a backend writes only ``_run``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from edge.bundle import Bundle
from edge.errors import BackendError
from edge.types import Tensor


class Engine(ABC):
    """A loaded graph.

    Args:
        bundle: where the graph and its facts come from.
        precision: which of its graphs.
    """

    backend: ClassVar[str]

    def __init__(self, bundle: Bundle, precision: str) -> None:
        self.precision = precision
        self.manifest = bundle.manifest

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph once.

        Args:
            inputs: a C-contiguous array by input name, of exactly the manifest's shape and dtype.

        Returns:
            An array by output name, of the manifest's shape and dtype; valid for as long as it is kept.

        Raises:
            BackendError: names, shapes or dtypes differ from the manifest's, or the answer isn't finite.
        """
        wanted = {spec.name: (spec.shape, spec.dtype) for spec in self.manifest.inputs}
        given = {name: (value.shape, value.dtype.name) for name, value in inputs.items()}
        if given != wanted:
            raise BackendError(f"{self.manifest.name}: engine was given {given}; expected {wanted}")
        outputs = self._run(inputs)
        for spec in self.manifest.outputs:
            value = outputs.get(spec.name)
            if value is None or value.shape != spec.shape or value.dtype.name != spec.dtype:
                found = None if value is None else (value.shape, value.dtype.name)
                raise BackendError(f"{self.manifest.name}: graph answered {spec.name} {found}; expected {spec.shape}")
            if not np.isfinite(value).all():
                raise BackendError(f"{self.manifest.name}: graph answered NaN or infinity in {spec.name}")
        return outputs

    @abstractmethod
    def _run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph on checked inputs."""

    def close(self) -> None:  # noqa: B027 - most backends hold nothing that needs it
        """Release what the backend holds. May be called twice."""
