"""A graph and the weights that lie beside it, as one ONNX file in memory.

TensorRT's parser opens whatever file a graph names as the place of its weights. A bundle's files are checked first, and
what was checked is what must be used, so the weights are put into the graph itself and the parser opens nothing. That
way also works for a bundle that is a zip, and under every version of TensorRT alike.

Field numbers are those of ``onnx.proto``: a model's graph is 7, a graph's initialisers are 5; of a tensor the name is
8, raw data 9, the place in another file 13, and whether it lies there 14.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edge.bundle import GraphFile
from edge.types import Tensor
from export.errors import ExportError

LIMIT = (1 << 31) - 1
"""Bytes of one ONNX file: protocol buffers count no further."""

Part = bytes | memoryview


def inlined(file: GraphFile) -> bytes:
    """One ONNX file that names no other.

    Args:
        file: from :meth:`edge.bundle.Bundle.graph`, which has found it sound.

    Raises:
        ExportError: it is larger than one file can be.
    """
    if not file.weights:
        return file.model
    made: list[Part] = []
    for number, field, value in _fields(memoryview(file.model)):
        made += _message(7, list(_graph(value, file.weights))) if number == 7 else [field]
    size = sum(len(part) for part in made)
    if size > LIMIT:
        raise ExportError(
            f"a graph of {size / 2**30:.1f} GiB is more than TensorRT's parser reads (2 GiB); "
            "export the bundle in fp16 or int8"
        )
    return b"".join(made)


def _graph(graph: memoryview, weights: Mapping[str, Tensor]) -> Iterator[Part]:
    for number, field, value in _fields(graph):
        if number == 5:
            yield from _message(5, _tensor(value, weights))
        else:
            yield field


def _tensor(tensor: memoryview, weights: Mapping[str, Tensor]) -> list[Part]:
    fields = list(_fields(tensor))
    name = next((bytes(value).decode() for number, _, value in fields if number == 8), "")
    if name not in weights:
        return [tensor]
    kept: list[Part] = [field for number, field, _ in fields if number not in (9, 13, 14)]
    data = np.ascontiguousarray(weights[name])
    return [*kept, *_message(9, [data.reshape(-1).view(np.uint8).data])]


def _message(number: int, parts: list[Part]) -> list[Part]:
    """A field that holds bytes."""
    return [_varint(number << 3 | 2) + _varint(sum(len(part) for part in parts)), *parts]


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*made, value))


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Number, whole bytes and value of each field of a message that :mod:`edge.onnxfile` has read without complaint."""
    at = 0
    while at < len(message):
        begun = at
        key, at = _read(message, at)
        wire = key & 7
        if wire == 0:
            start, (_, at) = at, _read(message, at)
        elif wire == 2:
            length, start = _read(message, at)
            at = start + length
        else:
            start, at = at, at + (8 if wire == 1 else 4)
        yield key >> 3, message[begun:at], message[start:at]


def _read(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
