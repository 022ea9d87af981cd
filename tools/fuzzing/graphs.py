"""Graphs made by chance: valid models of what onnxfq follows, to hold its results against the original's."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from support import models
from support.models import Array, tensor
from tools.fuzzing.case import MODEL, Case
from tools.fuzzing.structure import NAMES

WIDTHS = (31, 32, 33, 48, 64, 96)


@dataclass
class _Maker:
    """A graph being made; values are 2-dimensional [rows, width] unless the first input has another rank."""

    chance: random.Random
    dtype: str
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    weights: list[tuple[str, Array]] = field(default_factory=list)
    widths: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def fresh(self, base: str) -> str:
        self.count += 1
        odd = self.chance.choice(NAMES) if self.chance.random() < 0.1 else ""
        return f"{odd}{base}{self.count}".replace("\x00", "")

    def op(self, op_type: str, inputs: list[str], width: int = 0, **attributes: object) -> str:
        name = self.fresh(op_type.lower())
        node = helper.make_node(op_type, inputs, [name], **attributes)
        node.name = self.fresh("node") if self.chance.random() < 0.5 else ""
        self.nodes.append(node)
        self.widths[name] = width
        return name

    def constant(self, array: Array) -> str:
        """An initializer, values in a typed field, or a Constant node."""
        name, way = self.fresh("c"), self.chance.random()
        if way < 0.15 and array.size:
            node = models.constant(array, name)
            self.nodes.append(node)
        elif way < 0.25 and array.dtype != models.BFLOAT16:
            self.tensors.append(models.typed(array, name))
        else:
            self.tensors.append(tensor(array, name))
        return name

    def weight(self, k: int, n: int) -> str:
        """A [k, n] weight, perhaps shared with an earlier node, behind some detours."""
        same = [name for name, array in self.weights if array.shape == (k, n)]
        turned = [name for name, array in self.weights if array.shape == (n, k)]
        if same and self.chance.random() < 0.4:
            return self.chance.choice(same)
        if turned and self.chance.random() < 0.4:
            return self.op("Transpose", [self.chance.choice(turned)], perm=[1, 0])
        array = models.grid(k, n, seed=self.chance.randrange(1000)).astype(self.dtype)
        name = self.detour(array)
        self.weights.append((name, array))
        return name

    def detour(self, array: Array) -> str:
        """The constant, perhaps through nodes that undo each other."""
        k, n = array.shape
        way = self.chance.randrange(9)
        if way == 0:
            return self.op("Transpose", [self.constant(np.ascontiguousarray(array.T))], perm=[1, 0])
        if way == 1:
            stored = np.ascontiguousarray(array.reshape(-1))
            shape = self.constant(np.array(self.chance.choice(([k, n], [-1, n], [k, -1]))))
            return self.op("Reshape", [self.constant(stored), shape])
        if way == 2:
            wide = self.op("Unsqueeze", [self.constant(array), self.constant(np.array([0]))])
            return self.op("Squeeze", [wide, self.constant(np.array([0]))])
        if way == 3 and self.dtype == "float32":
            kind = self.chance.choice((TensorProto.FLOAT16, TensorProto.DOUBLE))
            return self.op("Cast", [self.op("Cast", [self.constant(array)], to=kind)], to=TensorProto.FLOAT)
        if way == 4:
            return self.op("Flatten", [self.constant(array.reshape(k, 1, n))], axis=1)
        if way == 5:
            return self.op("Identity", [self.constant(array)])
        return self.constant(array)

    def step(self, x: str) -> str:
        """One more operation on a value."""
        k, way = self.widths[x], self.chance.randrange(10)
        if way <= 3:
            n = self.chance.choice(WIDTHS)
            return self.op("MatMul", [x, self.weight(k, n)], n)
        if way == 4:
            return self.gemm(x)
        if way == 5:
            return self.op("Add", [x, self.constant(np.linspace(-1, 1, k).astype(self.dtype))], k)
        if way == 6:
            return self.op(self.chance.choice(("Relu", "Tanh", "Sigmoid", "Neg")), [x], k)
        if way == 7:
            return self.branches(x)
        if way == 8:
            return self.op("Mul", [x, self.constant(np.full(k, 0.5).astype(self.dtype))], k)
        others = [name for name, width in self.widths.items() if width == k]
        return self.op("Add", [x, self.chance.choice(others)], k)

    def gemm(self, x: str) -> str:
        k, n = self.widths[x], self.chance.choice(WIDTHS)
        turned = self.chance.random() < 0.5
        inputs = [x, self.weight(n, k) if turned else self.weight(k, n)]
        bias = self.chance.randrange(5)
        if bias:
            shape = ((n,), (1, n), (1,), ())[bias - 1]
            inputs.append(self.constant(np.ones(shape).astype(self.dtype) / 3))
        attributes: dict[str, object] = {"transB": 1} if turned else {}
        if self.chance.random() < 0.5:
            attributes["alpha"] = self.chance.choice((0.5, 2.0, -1.0, 0.0))
        if self.chance.random() < 0.5:
            attributes["beta"] = self.chance.choice((0.5, 0.0, -1.0))
        return self.op("Gemm", inputs, n, **attributes)

    def branches(self, x: str) -> str:
        """An If, with a product in one of its branches."""
        k = self.widths[x]
        inner = _Maker(self.chance, self.dtype, count=self.count + 100)
        product = inner.op("MatMul", [x, inner.weight(k, k)], k)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        then = helper.make_graph(
            inner.nodes, "t", [], [helper.make_tensor_value_info(product, kind, None)], inner.tensors
        )
        other = self.fresh("e")
        node = helper.make_node("Identity", [x], [other])
        orelse = helper.make_graph([node], "e", [], [helper.make_tensor_value_info(other, kind, None)])
        self.count += 200
        condition = "flag" if self.chance.random() < 0.5 else self.constant(np.array(self.chance.random() < 0.5))
        return self.op("If", [condition], k, then_branch=then, else_branch=orelse)


def generate(chance: random.Random) -> onnx.ModelProto:
    """A valid model."""
    maker = _Maker(chance, chance.choice(("float32", "float32", "float32", "float16")))
    rank, k = chance.choice((1, 2, 2, 2, 3, 4)), chance.choice(WIDTHS)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(maker.dtype))
    free: list[str | int] = ["a", 2, "b"]
    shape = [*free[: rank - 1], k]
    maker.widths["x"] = k
    values = ["x"]
    for _ in range(chance.randrange(1, 8)):
        source = chance.choice(values[-3:])
        if rank != 2:
            others = {name: width for name, width in maker.widths.items() if width}
            maker.widths = {**others, source: maker.widths[source]}
        made = maker.step(source) if rank == 2 else _ranked(maker, source)
        values.append(made)
    outputs = dict.fromkeys([values[-1], chance.choice(values[1:])])
    graph = helper.make_graph(
        maker.nodes,
        "generated",
        [helper.make_tensor_value_info("x", kind, shape), helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        maker.tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", chance.choice((13, 17, 21)))], ir_version=8)


def _ranked(maker: _Maker, x: str) -> str:
    """A step for values that are no matrices: no Gemm."""
    if maker.chance.random() < 0.6:
        n = maker.chance.choice(WIDTHS)
        return maker.op("MatMul", [x, maker.weight(maker.widths[x], n)], n)
    return maker.op("Tanh", [x], maker.widths[x])


def generated_case(chance: random.Random) -> Case:
    """A generated model in a file, with its weights inside or beside it."""
    proto = generate(chance)
    if chance.random() < 0.3:
        return _external(proto)
    return Case({MODEL: proto.SerializeToString()}, mutation="generated graph")


def _external(proto: onnx.ModelProto) -> Case:
    data = bytearray()
    for item in proto.graph.initializer:
        if item.data_type not in (TensorProto.INT64, TensorProto.BOOL) and item.HasField("raw_data"):
            offset, values = len(data), item.raw_data
            data += values
            models.refer(item, "in.0.bin", offset, len(values))
    return Case({MODEL: proto.SerializeToString(), "in.0.bin": bytes(data)}, mutation="generated graph")
