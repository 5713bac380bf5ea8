"""ONNX Runtime on the CPU: the default where there is no TensorRT."""

from __future__ import annotations

from collections.abc import Mapping

from edge.bundle import Bundle
from edge.engine.contract import Engine
from edge.errors import BackendError, MissingPackageError
from edge.types import Tensor

FATAL = 4  # ONNX Runtime's own messages would come between the lines of ours; failures raise anyway


class OnnxRuntimeEngine(Engine):
    """A bundle's graph in an ONNX Runtime session.

    Raises:
        MissingPackageError: onnxruntime is not installed.
        BackendError: it can't load the graph, or the graph's inputs and outputs are not the manifest's.
    """

    backend = "onnxruntime"

    def __init__(self, bundle: Bundle, precision: str, *, threads: int = 1) -> None:
        super().__init__(bundle, precision)
        graph = bundle.graph(precision)
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackageError("this backend needs onnxruntime; type: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        # One face is a small job: more threads cost more in waking up than they save, and the detector wants the cores.
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = FATAL
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own that share no public base
            reason = str(error).splitlines()[0]
            raise BackendError(f"{bundle.where}: onnxruntime can't load the {precision} graph: {reason}") from error
        self._outputs = [spec.name for spec in self.manifest.outputs]
        found = [(one.name, tuple(one.shape)) for one in self._session.get_inputs() + self._session.get_outputs()]
        wanted = [(spec.name, spec.shape) for spec in self.manifest.inputs]
        wanted += [(output.name, output.shape) for output in self.manifest.outputs]
        if found != wanted:
            raise BackendError(f"{bundle.where}: the {precision} graph has {found}, the manifest says {wanted}")

    def _run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))
