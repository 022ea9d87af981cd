"""The graph of a model on disk: load it without its weights, look at it, change nodes, and hand it to `save`."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from blake3 import blake3
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
from onnx import FunctionProto, ModelProto, NodeProto

from onnxfq.errors import ModelError
from onnxfq.foreign_files import refuse_foreign
from onnxfq.graph.bodies import Body, Node, bodies
from onnxfq.graph.checks import check_calls, checker_copy, garbled, refuse_overlaps
from onnxfq.graph.constants import OVERRIDABLE_FROM_IR, Constant, NotConstant, resolve
from onnxfq.graph.domains import spell_domain
from onnxfq.graph.editing import Edits, drop_defaults
from onnxfq.graph.external_data import FileSlice, unreadable
from onnxfq.graph.iter_tensors import iter_tensors
from onnxfq.graph.packed import Packed, StoredArray, new_tensor
from onnxfq.graph.signatures import read_signature
from onnxfq.graph.tensor_file import TensorFile
from onnxfq.graph.tensors import NEW, embed, read_header, refer, tensor_proto
from onnxfq.graph.value_readers import Readers, find_readers
from onnxfq.graph.value_types import ValueTypes
from onnxfq.graph.wire import LIFT_BYTES, lift
from onnxfq.missing_models import missing
from onnxfq.signature import Signature

MICROSOFT = "com.microsoft"
_Stamp = tuple[int, int, int, int]
_OLDEST_IR = 3
_MOST_MESSAGES = 1_000_000
_GRAPHS_WEIGHT = 20  # a graph takes as much time as so many of them
_REPEATED = ("initializer", "sparse_initializer", "input", "output", "value_info", "quantization_annotation")
_LONGEST_REASON = 300  # characters; ONNX's checker may print whole nodes


class Graph:
    """A model whose tensors stay on disk.

    Attributes:
        path: where it was read from; never written to.
        model: the ModelProto, with every large tensor as a reference to a file.
        edits: nodes to replace, applied by `finish`.
    """

    def __init__(self, path: Path, model: ModelProto, stamps: dict[Path, _Stamp]) -> None:
        self.path = path
        self.model = model
        self.bodies = bodies(model)
        self._stamps = stamps
        self.edits = Edits(self.bodies)
        self._types = ValueTypes(model, self.bodies)

    @classmethod
    def load(cls, path: Path, *, constant_inputs: bool = False) -> Graph:
        """Read a model's structure, and check that all its tensors are there.

        Args:
            path: the file.
            constant_inputs: no caller replaces the values that inputs have: they become constants.

        Raises:
            ModelError: no such file, not ONNX, damaged, external data missing or outside the model's folder.
        """
        model, stamp = _parse(path)
        if 0 < model.ir_version < _OLDEST_IR:
            raise ModelError(
                f"'{path}' is of IR version {model.ir_version}, from before operators had versions; wanted "
                f"{_OLDEST_IR} or later. Convert it with onnx.version_converter."
            )
        if not model.HasField("graph") or not model.graph.node:
            raise ModelError(f"'{path}' holds no graph with nodes: there is nothing to quantize. Is it an ONNX model?")
        if constant_inputs and model.ir_version >= OVERRIDABLE_FROM_IR:
            drop_defaults(model)
        graph = cls(path, model, {path: stamp})
        check_calls(model, graph.bodies, path)
        graph._check_attributes()
        graph._check_tensors()
        graph.check()
        return graph

    def _check_attributes(self) -> None:
        """Refuse what ONNX's newer checkers refuse: readers differ about which of two attributes of a name counts."""
        for body in self.bodies:
            for node in body.proto.node:
                if len(node.attribute) > 1 and len({a.name for a in node.attribute}) < len(node.attribute):
                    name = Node(node, body).name
                    raise ModelError(f"Node '{name}' in '{self.path}' has an attribute twice. The model is damaged.")

    def _check_tensors(self) -> None:
        pieces: dict[Path, set[FileSlice]] = {self.path: set()}
        for held in iter_tensors(self.model):
            piece = read_header(held.proto, self.path, held.label).piece
            if piece is None:
                continue
            if not piece.length:
                embed(held.proto, b"")  # nothing to fetch, wherever it is said to be
            pieces.setdefault(piece.path, set()).add(piece)
        for file in sorted(pieces.keys() - {self.path}):
            self._stamps[file] = _stamp(file.stat())
        for file, (size, *_) in self._stamps.items():
            refuse_overlaps(file, size, pieces[file])

    def check(self) -> None:
        """Run ONNX's own checker, on everything but the tensors' bytes.

        Raises:
            ModelError: the model breaks ONNX's rules.
        """
        try:
            onnx.checker.check_model(checker_copy(self.model))
        except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split("\n\n")[0].split())
            raise ModelError(
                f"'{self.path}' breaks ONNX's rules: {reason[:_LONGEST_REASON].rstrip('.')}. Export the model again."
            ) from error

    @property
    def files(self) -> list[Path]:
        """The files the model is made of, itself first."""
        return [self.path, *(f for f in self._stamps if f != self.path)]

    def check_unchanged(self) -> None:
        """Refuse to go on when a source file was changed since `load`.

        Raises:
            ModelError: it is another file now, or has another size or time of change; a program that gives a file its
                old modification time back cannot give it its old time of change.
        """
        for file, stamp in self._stamps.items():
            try:
                changed = _stamp(file.stat()) != stamp
            except FileNotFoundError:
                changed = True
            except OSError as error:
                raise unreadable(file, error) from error
            if changed:
                raise ModelError(f"'{file}' was changed while it was being read. Run again when it is complete.")

    def source_hash(self) -> str:
        """BLAKE3, a third of SHA-256's time, over the model file's bytes, then its data files' by name.

        Raises:
            ModelError: one cannot be read.
        """
        digest = blake3()
        buffer = memoryview(bytearray(1 << 22))
        for file in self.files:
            try:
                with file.open("rb", buffering=0) as stream:
                    while count := stream.readinto(buffer):
                        digest.update(buffer[:count])
            except OSError as error:
                raise unreadable(file, error) from error
        return digest.hexdigest()

    @property
    def source_bytes(self) -> int:
        """Size of all files of the model."""
        return sum(stamp[0] for stamp in self._stamps.values())

    @cached_property
    def signature(self) -> Signature:
        """What callers feed and get."""
        return read_signature(self.model, self.bodies, self.path)

    def prefer(self, signature: Signature) -> None:
        """Take over a signature that knows more of the sizes that suit the model."""
        self.signature = signature

    @property
    def uses_external_data(self) -> bool:
        """Whether some tensor lies in another file than the model's own."""
        return len(self._stamps) > 1

    def nodes(self) -> Iterator[Node]:
        """All nodes of all scopes, in file order."""
        for body in self.bodies:
            for proto in body.proto.node:
                yield Node(proto, body)

    def constant(self, node: Node, index: int) -> Constant | NotConstant:
        """What the node's input number `index` is made of."""
        overridable = self.model.ir_version >= OVERRIDABLE_FROM_IR
        return resolve(node.body, node.inputs[index], self.path, overridable=overridable)

    def rank(self, node: Node, index: int) -> int | None:
        """How many dimensions the node's input number `index` has; None where nothing tells."""
        return self._types.rank(node.body, node.inputs[index])

    def sizes(self, node: Node, index: int) -> tuple[int | None, ...]:
        """Sizes of the node's input number `index`, None where they differ from run to run; () where nothing tells."""
        return self._types.shape(node.body, node.inputs[index]) or ()

    def is_array(self, node: Node, name: str) -> bool:
        """Whether a value that the node sees is an array, and no sequence or the like."""
        return self._types.is_array(node.body, name)

    def opset(self, node: Node) -> int:
        """The version of ONNX's operator set that the node is written for; 0 where none is imported."""
        root = node.body.root
        holder = root.proto if isinstance(root.proto, FunctionProto) else self.model
        return max((known.version for known in holder.opset_import if not known.domain), default=0)

    def producer(self, node: Node, index: int) -> Node | None:
        """The node whose first output is the node's input number `index`; None where there is no such node."""
        name = node.inputs[index]
        home = node.body.home_of(name)
        proto = home.producers.get(name) if home else None
        return Node(proto, home) if home and proto and proto.output[0] == name else None

    def readers(self, node: Node, name: str) -> Sequence[tuple[Node | None, int]]:
        """Who reads a value that a node sees, each with the position among its inputs; None is the scope's caller."""
        return self._readers.get((node.body.home_of(name), name), ())

    @cached_property
    def _readers(self) -> Readers:
        return find_readers(self.bodies)

    def add_tensor(self, home: Body, base: str, tensor_file: TensorFile, *parts: StoredArray) -> str:
        """Store a new constant and make it known in a scope, under a name like `base` that is still free.

        Args:
            home: the scope.
            base: what to call it if possible.
            tensor_file: takes the bytes of large ones.
            *parts: the array, whole or as its rows in several parts.
        """
        name = self.edits.fresh_name(base)
        inline = sum(part.nbytes for part in parts) < LIFT_BYTES or home.root.is_function  # these have no data files
        proto = new_tensor(name, parts, with_values=inline)
        if not inline:
            piece = tensor_file.append(*(part.data if isinstance(part, Packed) else part for part in parts))
            refer(proto, NEW, piece.offset, piece.length)
        self.edits.add_constant(home, proto)
        return name

    def small_constant(self, home: Body, base: str, array: npt.NDArray[Any]) -> str:
        """A constant of a few values that many nodes may read: once in each scope, under a name like `base`."""
        return self.edits.small_constant(home, base, lambda name: tensor_proto(name, array))

    def set_dimensions(self, name: str, shape: Sequence[int]) -> None:
        """Give a new constant another shape of as many elements; its bytes stay as they are."""
        proto = self.edits.constants[name]
        del proto.dims[:]
        proto.dims.extend(shape)

    def rewired(self, node: Node, names: dict[int, str]) -> NodeProto:
        """The same operation on other inputs, by position; to be put in the node's place."""
        proto = NodeProto(op_type=node.proto.op_type, domain=node.proto.domain)
        proto.input.extend(names.get(index, name) for index, name in enumerate(node.inputs))
        proto.output.extend(node.outputs)
        proto.attribute.extend(node.proto.attribute)
        return proto

    def replace(
        self, node: Node, new_nodes: list[NodeProto], keeps_name: NodeProto, mergeable: Iterable[NodeProto] = ()
    ) -> None:
        """Put other nodes in the place of one (by `finish`); `keeps_name` keeps its name; see `Edits.replace`."""
        kept = {name for new in new_nodes for name in new.input}
        lost = (self.constant(node, i) for i, name in enumerate(node.inputs) if name and name not in kept)
        self.edits.replace(node, new_nodes, keeps_name, [v for v in lost if isinstance(v, Constant)], mergeable)

    def finish(self) -> None:
        """Apply all replacements and drop constants that nothing reads any more."""
        self.edits.apply(self.model)
        self.bodies = bodies(self.model)
        self.edits = Edits(self.bodies)
        self._types = ValueTypes(self.model, self.bodies)
        self.__dict__.pop("_readers", None)

    def set_metadata(self, values: dict[str, str]) -> None:
        """Set entries of `metadata_props`, replacing those of the same key."""
        entries = self.model.metadata_props
        for index in range(len(entries) - 1, -1, -1):
            if entries[index].key in values:
                del entries[index]
        for key, value in values.items():
            entries.add(key=key, value=value)

    @property
    def metadata(self) -> dict[str, str]:
        """The model's `metadata_props`."""
        return {p.key: p.value for p in self.model.metadata_props}


def _parse(path: Path) -> tuple[ModelProto, _Stamp]:
    refuse_foreign(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelError(f"'{path}' is not a file. Give an ONNX file or a folder with ONNX files.")
        with path.open("rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                skeleton = lift(view, str(path))
    except FileNotFoundError as error:
        raise missing(path) from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    try:
        model = ModelProto.FromString(skeleton)
    except DecodeError as error:
        raise ModelError(f"'{path}' is not an ONNX model (its bytes do not decode: {error}).") from error
    _refuse_vast(model, path)
    name = garbled(model)
    if name:
        raise ModelError(f"'{path}' is damaged, or not ONNX at all: the name {name} is not UTF-8 text.")
    spell_domain(model)
    return model, stamp


def _refuse_vast(model: ModelProto, path: Path) -> None:
    """Refuse more messages than any model has: two bytes are enough for one, and each takes memory and time."""
    pending, count = [model.graph, *model.functions], 0
    while pending and count <= _MOST_MESSAGES:
        holder = pending.pop()
        count += (
            _GRAPHS_WEIGHT
            + len(holder.node)
            + sum(len(getattr(holder, field)) for field in _REPEATED if hasattr(holder, field))
        )
        for node in holder.node if count <= _MOST_MESSAGES else ():
            count += len(node.attribute)
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs
    if count + len(pending) > _MOST_MESSAGES:
        raise ModelError(f"'{path}' holds more than {_MOST_MESSAGES} nodes, attributes and tensors: refused.")


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def make_node(
    op_type: str, inputs: list[str], outputs: list[str], *, domain: str = "", **attributes: int | list[int]
) -> NodeProto:
    """A node message."""
    return onnx.helper.make_node(op_type, inputs, outputs, domain=domain or None, **attributes)
