"""A model that adds up what solvers want to know about the inputs of a stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxfq.graph.tensors import ONNX_TYPES, tensor_proto

_OPSET, _IR_VERSION = 17, 8
_INT8_TOP = 127.0


def gram_model(
    dtype: npt.DTypeLike, k: int, *, crossed: bool, transposed: bool, rounded_in: int | None, drifts: bool = False
) -> bytes:
    """Serialize a model that adds a chunk of tokens to Gram matrices.

        original, quantized, rows, gram, cross → gram + Σ x̃ x̃ᵀ, cross + Σ x x̃ᵀ, sums, ranges
        difference, drift                      → drift + Σ (r − r̃) x̃ᵀ, its sum

    Args:
        dtype: of the activations.
        k: their last dimension.
        crossed: the two streams differ; otherwise there is no input `quantized`.
        transposed: activations are [K, tokens].
        rounded_in: x̃ is rounded to int8 in blocks of so many columns, as MatMulNBits does at accuracy level 4.
        drifts: a residual's error counts too; otherwise there are no `difference` and `drift`.

    Inputs: `original` and `quantized` [..., K], `rows` int64 (which of the tokens count), `difference` [rows, N]
    float32, of these tokens, `gram` and `cross` [K, K] and `drift` [N, K] float64. Outputs: `gram_next`, `cross_next`,
    `drift_next`, and of the chunk alone `sum`, `original_sum` [K], `drift_sum` [N], `min` and `max` [K] of the
    activations as they are.
    """
    build = _Builder()
    original = build.tokens("original", k, transposed)
    quantized = build.tokens("quantized", k, transposed) if crossed else original
    rounded = build.rounded(quantized, k, rounded_in) if rounded_in else quantized
    build.accumulate("gram", rounded, rounded)
    build.accumulate("cross", original, rounded)
    build.add("ReduceSum", [rounded, build.constant("rows_axis", np.array([0], np.int64))], "sum", keepdims=0)
    build.add("ReduceSum", [original, "rows_axis"], "original_sum", keepdims=0)
    if drifts:
        build.accumulate("drift", "difference", rounded)
        build.add("ReduceSum", ["difference", "rows_axis"], "drift_sum", keepdims=0)
    build.add("ReduceMin", [quantized], "min", axes=[0], keepdims=0)
    build.add("ReduceMax", [quantized], "max", axes=[0], keepdims=0)
    activation = ONNX_TYPES[np.dtype(dtype)]
    inputs = [helper.make_tensor_value_info(n, activation, None) for n in ("original", "quantized")[: 1 + crossed]]
    inputs.append(helper.make_tensor_value_info("rows", TensorProto.INT64, ["rows"]))
    inputs += [helper.make_tensor_value_info(n, TensorProto.DOUBLE, [k, k]) for n in ("gram", "cross")]
    outputs = ["gram_next", "cross_next", "sum", "original_sum", "min", "max"]
    if drifts:
        inputs.append(helper.make_tensor_value_info("difference", TensorProto.FLOAT, ["rows", "n"]))
        inputs.append(helper.make_tensor_value_info("drift", TensorProto.DOUBLE, ["n", k]))
        outputs[2:2] = ["drift_next"]
        outputs.append("drift_sum")
    return build.serialize(inputs, outputs)


class _Builder:
    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self._constants.append(tensor_proto(name, value))
        return name

    def tokens(self, name: str, k: int, transposed: bool) -> str:
        """The wanted rows of the activations as float32 [tokens, K]."""
        if transposed:
            rows = self.add("Transpose", [name], f"{name}_rows", perm=[1, 0])
        else:
            shape = self.constant(f"{name}_shape", np.array([-1, k], np.int64))
            rows = self.add("Reshape", [name, shape], f"{name}_rows")
        wanted = self.add("Gather", [rows, "rows"], f"{name}_wanted", axis=0)
        return self.add("Cast", [wanted], f"{name}_float", to=TensorProto.FLOAT)

    def rounded(self, rows: str, k: int, block: int) -> str:
        """The rows after rounding to int8 with one scale, absmax / 127, for every block of columns.

        Source: MlasQ4 int8 compute path of ONNX Runtime (QuantizeARow_CompInt8): round half to even.
        """
        pad = -k % block
        if pad:
            pads = self.constant("pads", np.array([0, 0, 0, pad], np.int64))
            rows = self.add("Pad", [rows, pads], "padded")
        shape = self.constant("blocks_shape", np.array([-1, (k + pad) // block, block], np.int64))
        blocks = self.add("Reshape", [rows, shape], "blocks")
        largest = self.add("ReduceMax", [self.add("Abs", [blocks], "blocks_abs")], "blocks_max", axes=[2], keepdims=1)
        top = self.constant("top", np.array(_INT8_TOP, np.float32))
        tiny = self.constant("tiny", np.array(np.finfo(np.float32).tiny, np.float32))
        scale = self.add("Div", [self.add("Max", [largest, tiny], "blocks_top"), top], "blocks_scale")
        steps = self.add("Round", [self.add("Div", [blocks, scale], "blocks_steps")], "blocks_codes")
        values = self.add("Mul", [steps, scale], "blocks_values")
        flat = self.add("Reshape", [values, self.constant("flat", np.array([-1, k + pad], np.int64))], "blocks_flat")
        if not pad:
            return flat
        bounds = [self.constant(n, np.array([v], np.int64)) for n, v in (("zero", 0), ("width", k), ("axis", 1))]
        return self.add("Slice", [flat, *bounds], "rounded")

    def accumulate(self, name: str, left: str, right: str) -> None:
        """`name`_next = name + leftᵀ right, the product in float32 and the sum in float64."""
        product = self.add("Gemm", [left, right], f"{name}_product", transA=1)
        self.add("Add", [name, self.add("Cast", [product], f"{name}_double", to=TensorProto.DOUBLE)], f"{name}_next")

    def serialize(self, inputs: list[Any], outputs: list[str]) -> bytes:
        model = ModelProto(ir_version=_IR_VERSION)
        model.opset_import.add(domain="", version=_OPSET)
        model.graph.name = "gram"
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(self._constants)
        model.graph.input.extend(inputs)
        for name in outputs:
            model.graph.output.add(name=name)
        return bytes(model.SerializeToString())
