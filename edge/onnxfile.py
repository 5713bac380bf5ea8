"""What an ONNX file says about itself, read without loading it: inputs, outputs, and where its weights lie.

A bundle may come from a stranger, and a runtime that loads a graph already trusts it: it opens whatever file the graph
names as the place of its weights. So the few facts that decide whether to load are read here from the file's own bytes
(protocol buffers' wire format; field numbers are those of ``onnx.proto``), with every length checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
"""NumPy's name of each of ONNX's element types that a bundle may use."""

MAX_DEPTH = 16
"""Graphs within graphs, as deep as this and no deeper."""


class OnnxFileError(ValueError):
    """Bytes that are no ONNX model, or one that says more than this reader knows."""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of the graph."""

    name: str
    shape: tuple[int, ...]
    """-1 where the graph leaves a dimension open."""
    dtype: str


@dataclass(frozen=True, slots=True)
class External:
    """A weight that lies in another file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    location: str
    """As the graph writes it: not to be trusted."""
    offset: int
    length: int
    """Bytes; -1 where the graph doesn't say."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The facts."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    external: tuple[External, ...]
    hidden: bool
    """Whether a weight that is no initialiser of the main graph lies in another file."""


def read(data: bytes) -> OnnxFile:
    """Read the facts of a serialised ``ModelProto``.

    Raises:
        OnnxFileError: not a model, or damaged.
    """
    graph = None
    for number, value in _fields(memoryview(data)):
        if number == 7 and isinstance(value, memoryview):
            graph = value
    if graph is None:
        raise OnnxFileError("no graph in it")
    initialisers: set[str] = set()
    inputs, outputs, external = [], [], []
    hidden = False
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            hidden = hidden or _node_hides(value, 0)
        elif number == 5:
            name, entry = _tensor(value)
            initialisers.add(name)
            if entry is not None:
                external.append(entry)
        elif number == 11:
            inputs.append(_value(value))
        elif number == 12:
            outputs.append(_value(value))
        elif number == 15:
            hidden = hidden or any(
                _tensor(part)[1] is not None
                for inner, part in _fields(value)
                if inner in (1, 2) and isinstance(part, memoryview)
            )
    for number, value in _fields(memoryview(data)):
        if number == 25 and isinstance(value, memoryview):  # functions of the model's own
            hidden = hidden or any(
                _node_hides(node, 0) for inner, node in _fields(value) if inner == 7 and isinstance(node, memoryview)
            )
    # Old files list initialisers among the inputs.
    return OnnxFile(
        tuple(one for one in inputs if one.name not in initialisers), tuple(outputs), tuple(external), hidden
    )


def _node_hides(node: memoryview, depth: int) -> bool:
    """Whether an attribute of a node, or of a graph inside it, keeps a weight in another file."""
    if depth > MAX_DEPTH:
        raise OnnxFileError("graphs within graphs, deeper than any network needs")
    for number, attribute in _fields(node):
        if number != 5 or not isinstance(attribute, memoryview):
            continue
        for inner, value in _fields(attribute):
            if not isinstance(value, memoryview):
                continue
            if inner in (5, 10) and _tensor(value)[1] is not None:
                return True
            if inner in (6, 11):
                for kind, part in _fields(value):
                    if not isinstance(part, memoryview):
                        continue
                    if kind == 1 and _node_hides(part, depth + 1):
                        return True
                    if kind == 5 and _tensor(part)[1] is not None:
                        return True
    return False


def _tensor(tensor: memoryview) -> tuple[str, External | None]:
    name, code, away, facts = "", 0, False, {}
    shape: list[int] = []
    for number, value in _fields(tensor):
        if number == 1:
            shape += [value] if isinstance(value, int) else list(_packed(value))
        elif number == 2 and isinstance(value, int):
            code = value
        elif number == 8 and isinstance(value, memoryview):
            name = _text(value)
        elif number == 13 and isinstance(value, memoryview):
            pair = {inner: _text(part) for inner, part in _fields(value) if isinstance(part, memoryview)}
            facts[pair.get(1, "")] = pair.get(2, "")
        elif number == 14:
            away = value == 1
    if not away and not facts:
        return name, None
    try:
        offset, length = int(facts.get("offset", "0")), int(facts.get("length", "-1"))
    except ValueError as error:
        raise OnnxFileError(f"{name}: its place in another file is garbled") from error
    return name, External(
        name, tuple(shape), DTYPES.get(code, f"type {code}"), facts.get("location", ""), offset, length
    )


def _value(value: memoryview) -> Value:
    name, code, shape = "", 0, []
    for number, part in _fields(value):
        if number == 1 and isinstance(part, memoryview):
            name = _text(part)
        elif number == 2 and isinstance(part, memoryview):
            for kind, tensor in _fields(part):
                if kind != 1 or not isinstance(tensor, memoryview):
                    continue
                for inner, fact in _fields(tensor):
                    if inner == 1 and isinstance(fact, int):
                        code = fact
                    elif inner == 2 and isinstance(fact, memoryview):
                        shape = [_dimension(one) for key, one in _fields(fact) if key == 1]
    return Value(name, tuple(shape), DTYPES.get(code, f"type {code}"))


def _dimension(dimension: int | memoryview) -> int:
    if isinstance(dimension, memoryview):
        for number, value in _fields(dimension):
            if number == 1 and isinstance(value, int):
                return value
    return -1


def _text(value: memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise OnnxFileError("a name in it is no text") from error


def _packed(value: memoryview) -> Iterator[int]:
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Each field's number, and its value: a whole number, or the bytes of a text, a message or packed numbers."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
        elif wire == 2:
            length, at = _varint(message, at)
            if length > len(message) - at:
                raise OnnxFileError("cut short")
            yield number, message[at : at + length]
            at += length
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            if size > len(message) - at:
                raise OnnxFileError("cut short")
            yield number, struct.unpack_from("<q" if wire == 1 else "<i", message, at)[0]
            at += size
        else:
            raise OnnxFileError("not a protocol buffer")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise OnnxFileError("cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            value &= (1 << 64) - 1
            return value - (1 << 64) if value >> 63 else value, at
    raise OnnxFileError("not a protocol buffer")
