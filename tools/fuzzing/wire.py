"""Mutations of serialized messages that know the wire format: fields, varints and lengths, not just bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped,unused-ignore]
from onnx import ModelProto

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
NUMBERS: tuple[int, ...] = (
    0,
    1,
    2,
    3,
    7,
    16,
    127,
    128,
    1 << 15,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
)
NUMBERS = (*NUMBERS, (1 << 64) - 1, (1 << 64) - 2, (1 << 64) - (1 << 31))
STRINGS: tuple[bytes, ...] = (
    b"",
    b"\xff",
    b"\xed\xa0\x80",
    b"\0",
    b"\x1b[2J\x1b]0;x\x07",
    b"[red]",
    b"[/]",
    b"<script>alert(1)</script>",
)
STRINGS = (*STRINGS, b"\xe2\x80\xae", b"a" * 70_000, b"w", b"y", b"../secret.bin", b"MatMul", b"Gemm", b"If", b"Loop")
LENGTHS = (0, 1, 127, 128, 1 << 20, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
MOST = 3_000_000  # bytes


@dataclass
class Field:
    """One field; `value` is a number, bytes, or the fields of a message; `length` stands in place of the true one."""

    number: int
    wire: int
    value: int | bytes | list[Field]
    length: int | None = None
    padding: int = 0

    def encode(self) -> bytes:
        """Tag and content."""
        tag = varint(self.number << 3 | self.wire, self.padding)
        if isinstance(self.value, int):
            return tag + varint(self.value, self.padding)
        body = self.value if isinstance(self.value, bytes) else encode(self.value)
        if self.wire != BYTES:
            return tag + body
        return tag + varint(len(body) if self.length is None else self.length, self.padding) + body

    def copy(self) -> Field:
        """A deep copy."""
        value = [inner.copy() for inner in self.value] if isinstance(self.value, list) else self.value
        return Field(self.number, self.wire, value, self.length, self.padding)


def encode(fields: list[Field]) -> bytes:
    """A message."""
    return b"".join(item.encode() for item in fields)


def varint(value: int, padding: int = 0) -> bytes:
    """A varint, with zeros appended that mean nothing."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    if not padding:
        return bytes([*out, value])
    return bytes([*out, value | 0x80, *[0x80] * (padding - 1), 0])


def decode(data: bytes, kind: Descriptor | None) -> list[Field]:
    """Fields of a message; those that are messages are decoded too.

    Raises:
        ValueError: this is no message.
    """
    fields, at = [], 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: int | bytes | list[Field]
        if wire == VARINT:
            value, at = _read_varint(data, at)
        elif wire == BYTES:
            length, at = _read_varint(data, at)
            if at + length > len(data):
                raise ValueError
            value, at = _inner(data[at : at + length], number, kind), at + length
        elif wire in (FIXED32, FIXED64):
            width = 4 if wire == FIXED32 else 8
            value, at = data[at : at + width], at + width
        else:
            raise ValueError
        fields.append(Field(number, wire, value))
    return fields


def _inner(data: bytes, number: int, kind: Descriptor | None) -> bytes | list[Field]:
    known = kind.fields_by_number.get(number) if kind else None
    if known is None or known.message_type is None:
        return data
    try:
        return decode(data, known.message_type)
    except (ValueError, IndexError):
        return data


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 70:
            raise ValueError


@dataclass
class _Tree:
    """A message being mutated."""

    chance: random.Random
    fields: list[Field]
    places: list[tuple[list[Field], int]] = field(default_factory=list)

    def pick(self, accept: Callable[[Field], bool] = lambda item: True) -> tuple[list[Field], int] | None:
        """A random field, as a list and a position in it; small messages as likely as large ones."""
        found = [(holder, i) for holder, i in _walk(self.fields) if accept(holder[i])]
        return self.chance.choice(found) if found else None


def _walk(fields: list[Field]) -> Iterator[tuple[list[Field], int]]:
    for index, item in enumerate(fields):
        yield fields, index
        if isinstance(item.value, list):
            yield from _walk(item.value)


def _is_number(item: Field) -> bool:
    return isinstance(item.value, int)


def _is_bytes(item: Field) -> bool:
    return isinstance(item.value, bytes)


def _is_message(item: Field) -> bool:
    return isinstance(item.value, list)


def _number(tree: _Tree) -> None:
    if place := tree.pick(_is_number):
        place[0][place[1]].value = tree.chance.choice(NUMBERS)


def _overlong(tree: _Tree) -> None:
    if place := tree.pick():
        place[0][place[1]].padding = tree.chance.choice((1, 3, 8, 9, 12))


def _string(tree: _Tree) -> None:
    if place := tree.pick(_is_bytes):
        place[0][place[1]].value = tree.chance.choice(STRINGS)


def _flip(tree: _Tree) -> None:
    place = tree.pick(lambda item: isinstance(item.value, bytes) and bool(item.value))
    if place and isinstance(data := place[0][place[1]].value, bytes):
        changed = bytearray(data)
        changed[tree.chance.randrange(len(changed))] ^= 1 << tree.chance.randrange(8)
        place[0][place[1]].value = bytes(changed)


def _shorten(tree: _Tree) -> None:
    place = tree.pick(lambda item: isinstance(item.value, bytes) and bool(item.value))
    if place and isinstance(data := place[0][place[1]].value, bytes):
        place[0][place[1]].value = data[: tree.chance.randrange(len(data))]


def _length(tree: _Tree) -> None:
    if place := tree.pick(lambda item: item.wire == BYTES):
        true = len(place[0][place[1]].encode())
        place[0][place[1]].length = tree.chance.choice((*LENGTHS, true + 1, max(0, true - 3)))


def _delete(tree: _Tree) -> None:
    if place := tree.pick():
        del place[0][place[1]]


def _repeat(tree: _Tree) -> None:
    if place := tree.pick():
        item = place[0][place[1]]
        times = tree.chance.choice((1, 1, 1, 2, 50, 3000))
        times = min(times, MOST // (1 + len(item.encode())))
        place[0][place[1] : place[1]] = [item.copy() for _ in range(times)]


def _field_number(tree: _Tree) -> None:
    if place := tree.pick():
        place[0][place[1]].number = tree.chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 20, 25, 1 << 29))


def _wire_type(tree: _Tree) -> None:
    if place := tree.pick():
        place[0][place[1]].wire = tree.chance.randrange(8)


def _splice(tree: _Tree) -> None:
    source, target = tree.pick(), tree.pick(_is_message)
    if source and target and isinstance(inner := target[0][target[1]].value, list):
        copy = source[0][source[1]].copy()
        inner.insert(tree.chance.randrange(len(inner) + 1), copy)


def _swap(tree: _Tree) -> None:
    one, other = tree.pick(), tree.pick()
    if one and other:
        a, b = one[0][one[1]], other[0][other[1]]
        if not (_contains(a, b) or _contains(b, a)):
            one[0][one[1]], other[0][other[1]] = b, a


def _contains(outer: Field, inner: Field) -> bool:
    return outer is inner or (isinstance(outer.value, list) and any(_contains(f, inner) for f in outer.value))


def _deepen(tree: _Tree) -> None:
    """Put a node's subgraph, or a whole graph, into itself many times."""
    place = tree.pick(_is_message)
    if place is None:
        return
    item = place[0][place[1]]
    levels = tree.chance.choice((2, 20, 31, 33, 34, 49, 98, 99, 100, 150, 500))
    body = encode(item.value) if isinstance(item.value, list) else b""
    for _ in range(levels):  # graph → node → attribute → graph
        attribute = Field(1, BYTES, b"then_branch").encode() + Field(6, BYTES, body).encode()
        node = Field(4, BYTES, b"If").encode() + Field(5, BYTES, attribute).encode()
        body = Field(1, BYTES, node).encode()
    item.value = body


_TREE_MUTATIONS = {
    "number": _number, "overlong varint": _overlong, "string": _string, "flipped bit in a field": _flip,
    "shortened field": _shorten, "wrong length": _length, "deleted field": _delete, "repeated field": _repeat,
    "field number": _field_number, "wire type": _wire_type, "spliced field": _splice, "swapped fields": _swap,
    "deep nesting": _deepen,
}  # fmt: skip


def _truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _damaged(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 3, 10))):
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(changed)


def _cut(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.randrange(1, 20) :]


_BYTE_MUTATIONS = {"truncation": _truncated, "random bytes": _damaged, "cut out": _cut}
MUTATIONS = (*_TREE_MUTATIONS, *_BYTE_MUTATIONS)


def mutate(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Change a serialized model; returns it with the name of what was done (last)."""
    name = ""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        name = chance.choice(MUTATIONS)
        changed = _mutated(data, name, chance)
        data = changed if 0 < len(changed) < MOST else data
    return data, name


def _mutated(data: bytes, name: str, chance: random.Random) -> bytes:
    if name in _BYTE_MUTATIONS:
        return _BYTE_MUTATIONS[name](data, chance)
    try:
        tree = _Tree(chance, decode(data, ModelProto.DESCRIPTOR))
    except (ValueError, IndexError):
        return _damaged(data, chance)
    _TREE_MUTATIONS[name](tree)
    return encode(tree.fields)
