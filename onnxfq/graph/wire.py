"""The protobuf wire format, as far as large tensors need it.

A `.onnx` file is one protobuf message that may hold gigabytes of `raw_data`. `lift` reads everything *but* those bytes:
each large `raw_data` is replaced by an external-data reference to its place in the very same file, so that models with
inline and with external weights look alike from here on and nothing large is ever parsed. `varint`, `field_header`
serve the way back, when a file is written piece by piece.

Source: the encoding specification of Protocol Buffers; field numbers from onnx.proto.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from onnxfq.errors import ModelError

# Location that means the model file itself. Never written; no file can know it, so that none can pretend to be lifted.
SELF: Final = f"\0self:{secrets.token_hex(16)}"
LIFT_BYTES: Final = 4096  # smaller tensors stay in the message
_DEEPEST: Final = 90  # protobuf itself refuses more than 100 levels

# Message → field number → message inside. Only the ways that lead to a TensorProto.
_NESTED: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(slots=True)
class _Reader:
    """A cursor over the bytes of the file."""

    data: memoryview
    file: str

    def copy(self, start: int, end: int) -> bytes:
        """Some bytes, as a copy: a view would keep the file mapped for as long as an exception is looked at."""
        return bytes(self.data[start:end])

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Decode the varint at `at`; returns (value, next position)."""
        value = shift = 0
        while True:
            if at >= end or shift > 63:
                raise ModelError(
                    f"'{self.file}' is not a whole ONNX model: it breaks off or is garbled at byte {at}. "
                    "Fetch or export it again."
                )
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7

    def field(self, at: int, end: int) -> tuple[int, int, int, int]:
        """Decode one field; returns (number, wire type, start of its content, end of its content)."""
        tag, at = self.varint(at, end)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            length, at = self.varint(at, end)
            stop = at + length
        elif kind == _VARINT:
            _, stop = self.varint(at, end)
        elif kind in (_FIXED64, _FIXED32):
            stop = at + (8 if kind == _FIXED64 else 4)
        else:
            stop = end + 1
        if stop > end or number == 0:
            raise ModelError(
                f"'{self.file}' is not a whole ONNX model: the field at byte {at} ends beyond its message "
                f"(got {stop - at} bytes, at most {end - at} are there). Fetch or export it again, if it is one."
            )
        return number, kind, at, stop


def lift(data: memoryview, file: str) -> bytes:
    """The model message without its large tensors' bytes.

    Args:
        data: the whole file (a memory map: only the headers are touched).
        file: its name, for messages.

    Returns:
        A serialized ModelProto in which each `raw_data` of 4 KiB and more is a reference to (`SELF`, offset, length).

    Raises:
        ModelError: the bytes are not a well-formed protobuf message.
    """
    return _message(_Reader(data, file), 0, len(data), "model", 0)


def _message(reader: _Reader, start: int, end: int, kind: str, depth: int) -> bytes:
    if depth > _DEEPEST:
        raise ModelError(f"'{reader.file}' nests subgraphs too deeply (more than {_DEEPEST} levels).")
    nested = _NESTED[kind]
    parts: list[bytes] = []
    raw: tuple[int, int] | None = None
    external = False
    at = kept = start
    while at < end:
        number, wire, content, stop = reader.field(at, end)
        if number in nested and wire == _BYTES and stop - content >= LIFT_BYTES:
            inside = _message(reader, content, stop, nested[number], depth + 1)
            parts += [reader.copy(kept, at), field_header(number, len(inside)), inside]
            kept = stop
        elif kind == "tensor" and number == _RAW_DATA and wire == _BYTES:
            raw = content, stop  # the last one counts, as in protobuf
            parts.append(reader.copy(kept, at))
            kept = stop
        elif kind == "tensor" and number == _DATA_LOCATION and wire == _VARINT:
            external = reader.varint(content, end)[0] == 1
        at = stop
    parts.append(reader.copy(kept, end))
    if raw:
        parts.append(_raw_or_reference(reader, *raw, external=external))
    return b"".join(parts)


def _raw_or_reference(reader: _Reader, start: int, stop: int, *, external: bool) -> bytes:
    """A tensor's `raw_data` as it is where it is small, and as a reference to its place where it is large."""
    if stop - start < LIFT_BYTES:
        return raw_data_header(stop - start) + reader.copy(start, stop)
    if external:
        raise ModelError(f"'{reader.file}' holds a tensor that is stored both inline and as external data.")
    return reference(SELF, start, stop - start)


def reference(location: str, offset: int, length: int) -> bytes:
    """The fields of a TensorProto that refer to external data."""
    entries = (("location", location), ("offset", str(offset)), ("length", str(length)))
    return (
        b"".join(_entry(key.encode(), value.encode()) for key, value in entries) + varint(_DATA_LOCATION << 3) + b"\x01"
    )


def _entry(key: bytes, value: bytes) -> bytes:
    body = field_header(1, len(key)) + key + field_header(2, len(value)) + value
    return field_header(_EXTERNAL_DATA, len(body)) + body


def varint(value: int) -> bytes:
    """Encode an unsigned integer as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field_header(number: int, length: int) -> bytes:
    """Tag and length of a length-delimited field."""
    return varint(number << 3 | _BYTES) + varint(length)


def raw_data_header(length: int) -> bytes:
    """Tag and length that announce `length` bytes of a TensorProto's `raw_data`."""
    return field_header(_RAW_DATA, length)
