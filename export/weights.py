"""The weights that several graphs share, in one file beside them (ONNX's external data)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType

import onnx
from onnx import TensorProto
from onnx.numpy_helper import to_array

from export.errors import ExportError

SMALLEST = 1024
"""Bytes from which on a tensor goes into the file; a graph keeps smaller ones, mostly shapes and biases."""
ALIGNMENT = 64
"""Bytes: every tensor starts at a multiple."""


class Weights:
    """One file of tensors, each distinct content once, for graphs in the same folder.

    Use it in a ``with`` statement, or call :meth:`close`. Tensors are written as they come, so no more than one graph
    need be in memory.

    Args:
        path: the file, which is made anew; graphs name it by its bare name.

    Raises:
        ExportError: the file can't be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._places: dict[bytes, tuple[int, int]] = {}
        try:
            self._file = self.path.open("wb")
        except OSError as error:
            raise ExportError(f"{self.path}: can't be written ({error.strerror}); name a file in a folder") from error

    def add(self, model: onnx.ModelProto) -> bytes:
        """Move a graph's large tensors into the file.

        Args:
            model: loses the values of its initialisers of ``SMALLEST`` bytes or more; constants of that size among its
                nodes become initialisers.

        Returns:
            The graph without them, serialised: an ONNX file for the folder of the weights.

        Raises:
            ExportError: a tensor already lies in another file, or the file can't be written.
        """
        _constants_to_initialisers(model.graph)
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                raise ExportError(f"{tensor.name} already lies in another file; load the graph with its external data")
            data = _bytes(tensor)
            if len(data) < SMALLEST:
                continue
            offset, length = self._place(data)
            kept = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            kept.data_location = TensorProto.EXTERNAL
            for key, value in (("location", self.path.name), ("offset", str(offset)), ("length", str(length))):
                kept.external_data.add(key=key, value=value)
            tensor.CopyFrom(kept)
        return bytes(model.SerializeToString(deterministic=True))

    def _place(self, data: bytes) -> tuple[int, int]:
        """Offset and length of this content, written if it is new."""
        digest = hashlib.sha256(data).digest()
        if digest not in self._places:
            try:
                at = self._file.tell()
                start = -(-at // ALIGNMENT) * ALIGNMENT
                self._file.write(bytes(start - at))
                self._file.write(data)
            except OSError as error:
                raise ExportError(f"{self.path}: can't be written ({error.strerror}); free some space") from error
            self._places[digest] = (start, len(data))
        return self._places[digest]

    def close(self) -> None:
        """Finish the file.

        Raises:
            ExportError: it can't be written.
        """
        try:
            self._file.close()
        except OSError as error:
            raise ExportError(f"{self.path}: can't be written ({error.strerror}); free some space") from error

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _constants_to_initialisers(graph: onnx.GraphProto) -> None:
    """Only an initialiser's value may lie in another file for every reader of these graphs."""
    for index in range(len(graph.node) - 1, -1, -1):
        node = graph.node[index]
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or node.attribute[0].name != "value":
            continue
        value = node.attribute[0].t
        if len(_bytes(value)) >= SMALLEST:
            added = graph.initializer.add()
            added.CopyFrom(value)
            added.name = node.output[0]
            del graph.node[index]


def _bytes(tensor: TensorProto) -> bytes:
    """A tensor's values, little-endian, row by row."""
    return bytes(tensor.raw_data) if tensor.HasField("raw_data") else bytes(to_array(tensor).tobytes())
