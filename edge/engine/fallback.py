"""What ``auto`` runs on a GPU: TensorRT for as long as it works, then ONNX Runtime in the same process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from edge.bundle import Bundle
from edge.engine.contract import Engine, Given, InputsError, Logits, Memory, Placed, on_host
from edge.errors import BackendError
from edge.types import Tensor

_LOG = logging.getLogger(__name__)


class FallbackEngine(Engine):
    """An engine with another to take over, once, when it fails.

    Where the bundle sees windows, what was remembered goes down with the GPU: each face's window begins anew then, and
    has no answer until it is full.

    Args:
        bundle: of both.
        first: the engine in use; closed when it fails, or with this one.
        second: makes the other, and raises if that can't be had.
    """

    def __init__(self, bundle: Bundle, first: Engine, second: Callable[[], Engine]) -> None:
        super().__init__(bundle, first.precision)
        self.backend = first.backend
        self._current, self._second = first, second
        self.fell: str | None = None
        """Why the other took over; None while the first works."""

    def run(self, inputs: Mapping[str, Given], graph: str = "window") -> dict[str, Tensor]:
        """As :meth:`Engine.run`, once more on the other engine where the first one fails."""
        current = self._current
        try:
            return current.run(inputs, graph)
        except InputsError:
            raise
        except BackendError as error:
            if not on_host(inputs):
                raise  # what lay on the GPU went with it
            return self.fall(current, error).run(inputs, graph)

    def load(self, *graphs: str) -> None:
        """As :meth:`Engine.load`."""
        self._current.load(*graphs)

    def offers(self, graph: str) -> bool:
        """As :meth:`Engine.offers`."""
        return self._current.offers(graph)

    @property
    def device(self) -> object:
        """The GPU of the engine in use, if it has one."""
        return getattr(self._current, "device", None)

    def targets(self) -> Mapping[str, Placed] | None:
        """As :meth:`Engine.targets`."""
        return self._current.targets()

    def failed(self, error: BackendError) -> None:
        """As :meth:`Engine.failed`: the other engine takes over, once."""
        if self.fell is None:
            self.fall(self._current, error)
        elif self.targets() is not None:
            raise error

    def remember(self) -> Memory:
        """A memory that begins anew when the engine falls."""
        return _FallbackMemory(self)

    @property
    def current(self) -> Engine:
        """The engine in use."""
        return self._current

    def fall(self, failed: Engine, error: BackendError) -> Engine:
        """The engine to go on with after an error of another.

        Raises:
            BackendError: that error, where the other engine failed as well or can't be had.
        """
        if failed is not self._current:
            return self._current
        if self.fell is not None:
            raise error
        self.fell = str(error)
        failed.close()
        try:
            second = self._second()
        except Exception as other:
            raise error from other
        self._current, self.backend, self.precision = second, second.backend, second.precision
        _LOG.warning("%s; going on with %s %s", error, second.backend, second.precision)
        return second

    def _load(self, graph: str) -> None:
        raise AssertionError("the engine in use loads its own graphs")

    def _run(self, graph: str, inputs: Mapping[str, Given]) -> dict[str, Tensor]:
        raise AssertionError("the engine in use runs its own graphs")

    def close(self) -> None:
        """Release the engine in use. May be called twice."""
        self._current.close()


class _FallbackMemory(Memory):
    def __init__(self, engine: FallbackEngine) -> None:
        self._engine, self._of = engine, engine.current
        self._memory = self._begun()

    def _begun(self) -> Memory:
        try:
            return self._of.remember()
        except BackendError as error:
            self._of = self._engine.fall(self._of, error)
            return self._of.remember()

    def answer(self, images: Mapping[str, Given]) -> Logits | None:
        if self._of is not self._engine.current:  # it fell with another face
            self._of = self._engine.current
            self._memory = self._begun()
        try:
            return self._memory.answer(images)
        except InputsError:
            raise
        except BackendError as error:
            if not on_host(images):
                raise
            self._of = self._engine.fall(self._of, error)
            self._memory = self._of.remember()
            return self._memory.answer(images)

    def close(self) -> None:
        self._memory.close()
