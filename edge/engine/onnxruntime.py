"""ONNX Runtime on the CPU: the default where there is no TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edge.bundle import Bundle
from edge.engine.contract import Engine, Given
from edge.errors import BackendError, MissingPackageError
from edge.types import Tensor

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FATAL = 4  # ONNX Runtime's own messages would come between the lines of ours; failures raise anyway


class OnnxRuntimeEngine(Engine):
    """A bundle's graphs in ONNX Runtime sessions.

    Args:
        bundle: opened.
        precision: one of the bundle's.
        threads: of a graph's own.

    Raises:
        MissingPackageError: onnxruntime is not installed.
        BundleError: a graph is missing, altered, or not what the manifest says.
        BackendError: onnxruntime can't load a graph.
    """

    backend = "onnxruntime"

    def __init__(self, bundle: Bundle, precision: str, *, threads: int = 1) -> None:
        super().__init__(bundle, precision)
        # One face is a small job: more threads cost more in waking up than they save, and the detector wants the cores.
        self._threads = threads
        self._sessions: dict[str, InferenceSession] = {}
        self._outputs = {name: [one.name for one in graph.outputs] for name, graph in self.manifest.graphs.items()}
        self.load()

    def _load(self, graph: str) -> None:
        file = self.bundle.graph(graph, self.precision, cpu=True)
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackageError("this backend needs onnxruntime; type: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = FATAL
        try:
            if file.weights:
                # Handed over from memory: the runtime opens no file that the graph names.
                values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in file.weights.values()]
                options.add_external_initializers(list(file.weights), values)
            self._sessions[graph] = onnxruntime.InferenceSession(
                file.model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises classes of its own that share no public base
            reason = str(error).splitlines()[0]
            raise BackendError(
                f"{self.bundle.where}: onnxruntime can't load the {self.precision} graph {graph!r}: {reason}"
            ) from error

    def _run(self, graph: str, inputs: Mapping[str, Given]) -> dict[str, Tensor]:
        names = self._outputs[graph]
        return dict(zip(names, self._sessions[graph].run(names, dict(inputs)), strict=True))

    def close(self) -> None:
        """Release the sessions."""
        self._sessions.clear()
        self._loaded.clear()
