"""A written model as one whose weights are fed and whose gradients come out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from onnxfq.arrays import Float32Array
from onnxfq.graph.bodies import Node
from onnxfq.graph.constants import Constant, resolve
from onnxfq.graph.flow import reads
from onnxfq.graph.gradient_nodes import PREFIX, GradientNodes
from onnxfq.graph.gradients import Gradients, add_gradients, dependent
from onnxfq.graph.model import Graph, make_node
from onnxfq.graph.submodel import Submodel, ValueInfo, embed_inner, import_domains, input_info, portable
from onnxfq.graph.tensors import read_header

Loss = Literal["kl", "squares"]

LOSS = f"{PREFIX}loss"
_VECTOR_READERS = frozenset({"Add", "Sub", "Mul", "Div", "LayerNormalization", "SimplifiedLayerNormalization", "Gemm"})
_LARGEST_CONSTANT = 64  # elements of a constant whose values rules may ask for
_OLDEST_OPSET = 13  # from which axes of ReduceSum are an input


@dataclass(eq=False)
class TrainingModel:
    """A model's nodes, with products by float weights instead of quantized ones.

    Args:
        graph: the written model.
        products: the weight of each quantized product, by its first output.
        fixed: the shapes [K, N] of weights that are fed and have no gradient, by name.

    Attributes:
        nodes: in order.
        vectors: biases, and what normalization layers multiply by and add, by name.
    """

    graph: Graph
    products: Mapping[str, str]
    fixed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    nodes: list[NodeProto] = field(init=False)
    vectors: dict[str, Float32Array] = field(init=False)

    def __post_init__(self) -> None:
        """Replace the products, and look for vectors."""
        self.nodes = [new for node in self.graph.model.graph.node for new in self._replaced(node)]
        self.vectors = self._find_vectors()

    @property
    def opset(self) -> int:
        """The version of ONNX's operators."""
        return max((known.version for known in self.graph.model.opset_import if not known.domain), default=0)

    @property
    def unfit(self) -> str:
        """Why there can be no gradients, "" where there can."""
        if self.opset < _OLDEST_OPSET:
            return f"it is written for version {self.opset} of ONNX's operators (wanted {_OLDEST_OPSET} or later)"
        if any(name.startswith(PREFIX) for node in self.nodes for name in (*node.input, *node.output)):
            return f"names in it begin with '{PREFIX}', as those that tuning adds do"
        return ""

    def values(self, parameters: Collection[str]) -> list[str]:
        """The values by whose shapes rules work: what nodes that depend on parameters read and compute."""
        depends, constants = dependent(self.nodes, parameters), self._constants()
        found: dict[str, None] = {}
        for node in self.nodes:
            if not depends.isdisjoint(node.output):
                found.update(dict.fromkeys(name for name in (*node.input, *node.output) if name))
        inputs = {value.name for value in self.graph.model.graph.input}
        known = {*constants, *inputs, *parameters, *self.fixed}
        arrays = [name for name in found if name not in known]
        main = self.graph.bodies[0]
        return [name for name in arrays if self.graph.is_array(Node(NodeProto(), main), name)]

    def forward(self, fed: Mapping[str, tuple[int, ...]], outputs: Collection[str]) -> Submodel:
        """The model with some values as outputs.

        Args:
            fed: shapes of the parameters that are fed.
            outputs: names.
        """
        return self._model(self.nodes, fed, outputs)

    def with_gradients(
        self, shapes: Mapping[str, tuple[int, ...]], fed: Mapping[str, tuple[int, ...]], losses: Mapping[str, Loss]
    ) -> tuple[Submodel, Gradients]:
        """The model with loss and gradients as outputs.

        Of each output that counts, `teacher(output)` is what it ought to be, and `factor(output)`, which broadcasts to
        it, says how much its elements count: Σ factor·p·log(p/q), of softmaxes, or Σ factor·(output − teacher)²/2.

        Args:
            shapes: of those `values` that are float32; see `GradientNodes`.
            fed: shapes of the parameters that are fed.
            losses: the outputs that count, and how.
        """
        constants = {name: tuple(proto.dims) for name, proto in self._constants().items()}
        still = {**constants, **fed, **self.fixed}
        adding = GradientNodes({**shapes, **still}, self._small_constants(), self.opset, still)
        nodes = [*self.nodes]
        for index, node in enumerate(nodes):
            if node.op_type == "LayerNormalization":  # gets outputs
                nodes[index] = NodeProto()
                nodes[index].CopyFrom(node)
        slopes = {output: f"{PREFIX}slope/{output}" for output in losses}
        found = add_gradients(nodes, list(fed), slopes, adding)
        ends = [node for output, loss in losses.items() for node in _loss_nodes(output, loss, slopes[output], adding)]
        total = make_node("Sum", [f"{PREFIX}loss/{output}" for output in losses], [LOSS])
        whole = [*nodes, *ends, total, *adding.nodes]
        taught = [name for output in losses for name in (teacher(output), factor(output))]
        model = self._model(whole, fed, [LOSS, *found.names.values()], adding.tensors.values(), taught)
        return model, found

    def _replaced(self, node: NodeProto) -> list[NodeProto]:
        weight = self.products.get(node.output[0])
        if weight is None:
            return [node]
        bias = node.input[5] if len(node.input) > 5 else ""
        product = f"{node.output[0]}/product" if bias else node.output[0]
        made = [make_node("MatMul", [node.input[0], weight], [product])]
        return [*made, make_node("Add", [product, bias], [node.output[0]])] if bias else made

    def _find_vectors(self) -> dict[str, Float32Array]:
        inputs = {value.name for value in self.graph.model.graph.input}
        held = {proto.name: proto for proto in self.graph.model.graph.initializer if proto.name not in inputs}
        others = {name for node in self.nodes if node.op_type not in _VECTOR_READERS for name in node.input}
        others.update(name for node in self.nodes for name in reads(node) if name not in node.input)
        others.update(output.name for output in self.graph.model.graph.output)
        found = dict[str, Float32Array]()
        for node in self.nodes:
            for name in node.input:
                proto = held.get(name)
                if proto is None or name in others or node.op_type not in _VECTOR_READERS:
                    continue
                if proto.data_type != TensorProto.FLOAT or len(proto.dims) != 1 or proto.dims[0] < 2:
                    continue
                value = np.array(read_header(proto, self.graph.path).read(), np.float32)
                if np.isfinite(value).all():
                    found[name] = value
        return found

    def _constants(self) -> dict[str, TensorProto]:
        return {proto.name: proto for proto in self.graph.model.graph.initializer}

    def _small_constants(self) -> dict[str, npt.NDArray[np.generic]]:
        found = dict[str, npt.NDArray[np.generic]]()
        names = sorted({name for node in self.nodes for name in node.input if name})
        for name in names:
            value = resolve(self.graph.bodies[0], name, self.graph.path, overridable=True)
            if isinstance(value, Constant) and math.prod(value.leaf.shape) <= _LARGEST_CONSTANT:
                found[name] = value.on_disk.load()
        return found

    def _model(
        self,
        nodes: Collection[NodeProto],
        fed: Mapping[str, tuple[int, ...]],
        outputs: Collection[str],
        added: Collection[TensorProto] = (),
        taught: Collection[str] = (),
    ) -> Submodel:
        source, folder = self.graph.model, self.graph.path.resolve().parent
        model = ModelProto(ir_version=max(source.ir_version, 8), opset_import=source.opset_import)
        import_domains(model, list(nodes))
        model.functions.extend(source.functions)
        model.graph.name = "training"
        model.graph.node.extend(nodes)
        wanted = {name for node in nodes for name in reads(node)} | set(outputs)
        kept = [p for p in source.graph.initializer if p.name in wanted and p.name not in fed]
        model.graph.initializer.extend(portable(p, self.graph.path, folder, None) for p in kept)
        model.graph.sparse_initializer.extend(source.graph.sparse_initializer)
        model.graph.initializer.extend(added)
        model.graph.input.extend(source.graph.input)
        real = np.dtype(np.float32)
        weights = {**self.fixed, **fed}
        model.graph.input.extend(input_info(name, ValueInfo(real, shape)) for name, shape in weights.items())
        kind = TypeProto(tensor_type=TypeProto.Tensor(elem_type=TensorProto.FLOAT))
        model.graph.input.extend(ValueInfoProto(name=name, type=kind) for name in taught)
        model.graph.output.extend(ValueInfoProto(name=name) for name in outputs)
        embed_inner(model, self.graph)
        return Submodel(bytes(model.SerializeToString()), folder, tuple(outputs))


def teacher(output: str) -> str:
    """The name under which it is fed what an output ought to be."""
    return f"{PREFIX}teacher/{output}"


def factor(output: str) -> str:
    """The name under which it is fed how much an output's elements count."""
    return f"{PREFIX}factor/{output}"


def _loss_nodes(output: str, loss: Loss, slope: str, adding: GradientNodes) -> list[NodeProto]:
    """The loss of an output, and its gradient with respect to that output; behind all nodes of the model."""
    new = GradientNodes({}, {}, tensors=adding.tensors, stem=f"{PREFIX}of/{output}/")
    weight, zero, wide = factor(output), new.number(0), new.add("Cast", output, to=TensorProto.FLOAT)
    counts = new.add("Greater", weight, zero)  # what does not may be no number

    def counted(value: str) -> str:
        return new.add("Where", counts, new.add("Mul", value, weight), zero)

    if loss == "kl":
        log_p, log_q = (new.add("LogSoftmax", name, axis=-1) for name in (teacher(output), wide))
        p = new.add("Exp", log_p)
        difference = new.add("Sub", new.add("Exp", log_q), p)
        apart = new.add("Mul", p, new.add("Sub", log_p, log_q))
        terms = new.add("Where", new.add("Greater", p, zero), apart, zero)
    else:
        difference = new.add("Sub", wide, teacher(output))
        terms = new.add("Mul", new.add("Mul", difference, difference), new.number(0.5))
    total, back = counted(terms), counted(difference)
    return [
        *new.nodes,
        make_node("Identity", [back], [slope]),
        make_node("ReduceSum", [total], [f"{PREFIX}loss/{output}"], keepdims=0),
    ]
