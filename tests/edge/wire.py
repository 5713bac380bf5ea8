"""Writes protocol buffers by hand: graphs that no exporter would write, for tests on machines without onnx."""

FLOAT, INT64 = 1, 7


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def value(name: str, shape: tuple[int | str, ...], dtype: int = FLOAT) -> bytes:
    sides = b"".join(field(1, field(2, side) if isinstance(side, str) else field(1, side)) for side in shape)
    return field(1, name) + field(2, field(1, field(1, dtype) + field(2, sides)))


def away(name: str, shape: tuple[int, ...], dtype: int = FLOAT, **place: object) -> bytes:
    """A weight that lies in another file: ``location``, and perhaps ``offset`` and ``length``."""
    data = b"".join(field(1, side) for side in shape) + field(2, dtype) + field(8, name)
    data += b"".join(field(13, field(1, key) + field(2, str(fact))) for key, fact in place.items())
    return data + field(14, 1)


def here(name: str, shape: tuple[int, ...], raw: bytes, dtype: int = FLOAT) -> bytes:
    return b"".join(field(1, side) for side in shape) + field(2, dtype) + field(8, name) + field(9, raw)


def node(kind: str, inputs: tuple[str, ...], outputs: tuple[str, ...], attributes: tuple[bytes, ...] = ()) -> bytes:
    data = b"".join(field(1, name) for name in inputs) + b"".join(field(2, name) for name in outputs) + field(4, kind)
    return data + b"".join(field(5, attribute) for attribute in attributes)


def model(
    nodes: tuple[bytes, ...], weights: tuple[bytes, ...], inputs: tuple[bytes, ...], outputs: tuple[bytes, ...]
) -> bytes:
    graph = b"".join(field(1, one) for one in nodes) + field(2, "graph") + b"".join(field(5, one) for one in weights)
    graph += b"".join(field(11, one) for one in inputs) + b"".join(field(12, one) for one in outputs)
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 18))
