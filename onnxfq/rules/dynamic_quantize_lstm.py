"""LSTM with constant weights → com.microsoft.DynamicQuantizeLSTM, products of int8.

    LSTM(X, W, R, B, …)  → DynamicQuantizeLSTM(X, quantized Wᵀ, quantized Rᵀ, B, …, scales and zero points of both)

Weights are stored in 8 bits, [directions, 4 * hidden, inputs] with a scale a row; Transpose nodes turn them as the
operator reads them, which ONNX Runtime does once, when a session is made. Codes have the zero point 128 and not the
type int8, whose products some processors saturate. Activations are rounded to 8 bits with one scale for the sequence.

Source: com.microsoft.DynamicQuantizeLSTM in ONNX Runtime's ContribOperators.md, tried with ONNX Runtime 1.31.1 on CPU.

One thread of a Xeon with VNNI, against float: hidden sizes of 512, 256 and 128 are 3.8, 1.6 and 1.2 times as fast, 64
and 32 .7 to 1.06 times; a recognizer of text with one of 512 is 1.5 times as fast as a whole. The relative MSE of the
outputs of four files is 2e-5 to 9e-5; one step of 32 that is 30 times as large as the others makes it .05.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import SchemeError
from onnxfq.graph import Constant, Fed, Graph, Node, NodeProto, Reshape, TensorFile, make_node, single_node, type_name
from onnxfq.providers import ProviderName, facts
from onnxfq.quantized import QuantizedWeight
from onnxfq.rules.block_grids import on_grid
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.rule import TOLERANCE_INT8, Probe, Rule, Tensors, TensorType, WrittenWeight
from onnxfq.rules.target import Skip, Target
from onnxfq.rules.unfit_weights import left_alone, unfit
from onnxfq.scheme import Scheme

SMALLEST_HIDDEN = 128
_SCHEME = Scheme(8, "channel", symmetric=True)
_WEIGHTS = (("W", 1), ("R", 2))  # what they are called in reports, and their positions among the inputs
_POSITIONS = ((1, 8), (2, 10))  # of codes and scales; zero points follow their scales
_RANK, _GATES, _MIDDLE, _LAST = 3, 4, 128, 12
_LAYOUT = "layout"  # an attribute that the operator has not


class DynamicQuantizeLSTM(Rule):
    """Recurrent layers whose products are of int8."""

    operator = "DynamicQuantizeLSTM"
    kind = "weights"
    replaces = ("LSTM",)
    inputs: ClassVar[Mapping[str, int]] = dict(zip(("codes", "scales"), _POSITIONS[0], strict=True))
    slots = len(_POSITIONS)

    def positions(self, slot: int) -> Mapping[str, int]:
        """See `Rule.positions`."""
        return dict(zip(("codes", "scales"), _POSITIONS[slot], strict=True))

    def written_names(self, graph: Graph, node: Node, slot: int) -> dict[str, str]:
        """See `Rule.written_names`: codes stand behind their transposition."""
        names = super().written_names(graph, node, slot)
        codes = graph.constant(node, self.positions(slot)["codes"])
        return {**names, "codes": codes.leaf.name} if isinstance(codes, Constant) else names

    def match(self, graph: Graph, node: Node) -> Sequence[Target] | Skip | None:
        """See `Rule.match`."""
        if node.op_type != "LSTM" or node.domain:
            return None
        values = [graph.constant(node, index) for _, index in _WEIGHTS]
        weights = [value for value in values if isinstance(value, Constant)]
        if len(weights) < len(values):
            told = next(value for value in values if not isinstance(value, Constant))
            return Skip(node.name, node.op_type, told.reason, quantized=told.quantized)
        reason = _unsuited(node, weights)
        if reason:
            return replace(left_alone(node, weights[0], reason), nbytes=sum(weight.nbytes for weight in weights))
        return [_target(node, slot, weights[slot]) for slot in range(len(weights))]

    def kernel(self, provider: ProviderName, scheme: Scheme, target: Target) -> Kernel:
        """See `Rule.kernel`."""
        if not facts(provider).fuses_layers or target.scale_type != "float32":
            raise SchemeError(
                f"DynamicQuantizeLSTM is there on cpu in float32 (got {target.scale_type} on {provider}). Wanted "
                "another provider or type."
            )
        if scheme != _SCHEME:
            raise SchemeError(f"DynamicQuantizeLSTM has one scheme (got {scheme}). Use {_SCHEME}.")
        return Kernel(provider, scheme.bits, target.k, scheme.symmetric, 4, target.scale_type, "fast")

    def layout(self, n: int, k: int, kernel: Kernel) -> dict[str, TensorType]:
        """See `Rule.layout`."""
        return {"codes": ((n, k), np.dtype(np.uint8)), "scales": ((n, 1), np.dtype(np.float32))}

    def pack(self, q: QuantizedWeight, kernel: Kernel) -> dict[str, Array]:
        """See `Rule.pack`."""
        return {"codes": q.codes, "scales": q.scale}

    def unpack(self, tensors: Tensors, kernel: Kernel, k: int) -> QuantizedWeight:
        """See `Rule.unpack`."""
        return on_grid(np.ascontiguousarray(tensors["codes"]), tensors["scales"], None, kernel)

    def attributes(self, n: int, k: int, kernel: Kernel) -> dict[str, int]:
        """See `Rule.attributes`: none of them is about weights."""
        return {}

    def node_attributes(self, target: Target, kernel: Kernel) -> dict[str, Any]:
        """See `Rule.node_attributes`."""
        return {name: value for name, value in target.node.attributes.items() if name != _LAYOUT}

    def rewrite(self, graph: Graph, weights: Sequence[WrittenWeight], tensor_file: TensorFile) -> None:
        """See `Rule.rewrite`."""
        node, directions = weights[0].target.node, weights[0].target.experts
        inputs = [*node.inputs, *[""] * (_LAST - len(node.inputs))]
        turned: list[NodeProto] = []
        for weight in weights:
            rows, names = weight.target.n // directions, weight.names
            codes, scales = (self.positions(weight.target.slot)[name] for name in ("codes", "scales"))
            graph.set_dimensions(names["codes"], (directions, rows, weight.target.k))
            graph.set_dimensions(names["scales"], (directions, rows))
            middle = np.full((directions, rows), _MIDDLE, np.uint8)
            inputs[codes] = graph.edits.fresh_name(f"{names['codes']}_turned")
            inputs[scales] = names["scales"]
            inputs[scales + 1] = graph.add_tensor(node.body, f"{names['codes']}_zero_points", tensor_file, middle)
            turned.append(make_node("Transpose", [names["codes"]], [inputs[codes]], perm=[0, 2, 1]))
        quantized = make_node(self.operator, inputs, list(node.outputs), domain=self.domain)
        quantized.attribute.extend(a for a in node.proto.attribute if a.name != _LAYOUT)
        graph.replace(node, [*turned, quantized], keeps_name=quantized)

    def probe(self, tensors: Tensors, kernel: Kernel, n: int, k: int) -> Probe:
        """See `Rule.probe`: one step, the rows as the gates of a layer that remembers nothing."""
        hidden = -(-n // _GATES)
        codes, scales = np.full((_GATES * hidden, k), _MIDDLE, np.uint8), np.zeros((_GATES * hidden, 1), np.float32)
        codes[:n], scales[:n] = tensors["codes"], tensors["scales"]
        gates = np.zeros((_GATES * hidden, k))
        gates[:n] = self.unpack(tensors, kernel, k).dequantize()
        x = np.random.default_rng(0).standard_normal((1, 3, k))
        x = (x / max(float(np.abs(x @ gates.T).max()), 1e-30)).astype(np.float32)
        middle = np.full((1, _GATES * hidden), _MIDDLE, np.uint8)
        own = {"W": codes.T[np.newaxis], "R": np.full((1, hidden, _GATES * hidden), _MIDDLE, np.uint8)}
        inputs: dict[str, Fed | Array | None] = {"X": Fed(np.float32, (1, 3, k)), **own}
        inputs |= dict.fromkeys(("B", "lengths", "h", "c", "P"))
        inputs |= {"W_scale": scales.T, "W_zero": middle, "R_scale": np.ones_like(scales.T), "R_zero": middle}
        model = single_node(self.operator, self.domain, inputs, {"hidden_size": hidden}, output=np.float32)
        i, o, _, c = (x.astype(np.float64) @ gates.T).reshape(1, 3, _GATES, hidden).transpose(2, 0, 1, 3)
        expected = _sigmoid(o) * np.tanh(_sigmoid(i) * np.tanh(c))
        return Probe(model, {"X": x}, expected[:, np.newaxis], TOLERANCE_INT8)


def _target(node: Node, slot: int, weight: Constant) -> Target:
    """One weight of all directions, as one matrix of their rows."""
    directions, rows, k = weight.shape
    return Target(
        name=f"{node.name}[{_WEIGHTS[slot][0]}]",
        node=node,
        weight=replace(weight, way=weight.way.then(Reshape((directions * rows, k)))),
        n=directions * rows,
        k=k,
        transposed=False,
        alpha=1.0,
        scale_type="float32",
        source="" if slot else node.inputs[0],
        slot=slot,
        stacked=True,
        experts=directions,
        scheme=_SCHEME,
    )


def _unsuited(node: Node, weights: Sequence[Constant]) -> str:
    """Why a layer is left alone; "" where it can be quantized."""
    if node.references:
        return f"the caller of {node.body.root.label} chooses its {', '.join(node.references)}"
    first, second = (weight.shape for weight in weights)
    if type_name(weights[0].type) != "float32":
        return f"unsupported type: {type_name(weights[0].type)} weights (DynamicQuantizeLSTM computes in float32)"
    if len(first) != _RANK or len(second) != _RANK or first[:2] != second[:2] or first[1] != _GATES * second[2]:
        return f"unsupported shape: weights of {list(first)} and {list(second)}"
    if node.integer(_LAYOUT, 0):
        return "its batches come first (layout=1), which DynamicQuantizeLSTM does not know"
    if second[2] < SMALLEST_HIDDEN:
        return f"a hidden size of {second[2]} is not faster in int8 (from {SMALLEST_HIDDEN} on)"
    return next(filter(None, (unfit(weight, math.prod(weight.shape)) for weight in weights)), "")


def _sigmoid(value: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-value)))
