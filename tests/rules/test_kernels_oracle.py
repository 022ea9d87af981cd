"""The main oracle: ONNX Runtime's MatMulNBits equals `A @ dequantize(q).T` for everything that is offered."""

from __future__ import annotations

import platform
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.matmul_nbits import pack
from onnxfq.rules.matmul_nbits_kernels import choose, table
from onnxfq.scheme import BITS, BLOCK_SIZES, Granularity, ScaleType, Scheme
from onnxfq.solvers.rtn import Rtn
from support.kernels import kernel_name
from support.weights import awkward, random_codes

# Largest relative MSE, by what the kernel rounds besides the weights. Seen on x86-64: 2e-12, 1.3e-7 and 2.3e-4; kernels
# for 64-bit Arm add up float16 products in float16.
EXACT, HALF, INT8 = 1e-9, 1e-5 if platform.machine() in ("x86_64", "AMD64") else 5e-3, 5e-4
OFFERED = [kernel for kernel in table() if kernel.provider == "cpu"]


def run(q: QuantizedWeight, kernel: Kernel, a: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """A times the weight in ONNX Runtime."""
    tensors = pack(q, kernel.block_size)
    initializers = [numpy_helper.from_array(array, key) for key, array in tensors.items()]
    n, k = q.shape
    node = helper.make_node(
        "MatMulNBits",
        ["A", *(initializer.name for initializer in initializers)],
        ["Y"],
        domain="com.microsoft",
        N=n,
        K=k,
        bits=kernel.bits,
        block_size=kernel.block_size,
        accuracy_level=kernel.accuracy_level,
    )
    element = helper.np_dtype_to_tensor_dtype(a.dtype)
    graph = helper.make_graph(
        [node],
        "oracle",
        [helper.make_tensor_value_info("A", element, ["M", k])],
        [helper.make_tensor_value_info("Y", element, ["M", n])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: npt.NDArray[np.float64] = session.run(None, {"A": a})[0].astype(np.float64)
    return result


def activations(m: int, k: int, activation_type: ScaleType) -> npt.NDArray[Any]:
    return np.random.default_rng(m * k).standard_normal((m, k)).astype(STORED_TYPES[activation_type])


def difference(q: QuantizedWeight, kernel: Kernel, a: npt.NDArray[Any]) -> float:
    """Relative MSE of the kernel against the product with the dequantized weight."""
    expected = a.astype(np.float64) @ q.dequantize().astype(np.float64).T
    error = run(q, kernel, a) - expected
    return float((error**2).mean() / (expected**2).mean())


def tolerance(kernel: Kernel) -> float:
    rounding = INT8 if kernel.accuracy_level == 4 else EXACT
    return max(rounding, HALF) if kernel.activation_type == "float16" else rounding


@pytest.mark.parametrize("kernel", OFFERED, ids=kernel_name)
def test_kernel_multiplies_by_the_dequantized_weight(kernel: Kernel) -> None:
    """Odd block counts, a short last block, N a multiple of nothing, one row and several."""
    for k in (2 * kernel.block_size + 7, 3 * kernel.block_size, 4 * kernel.block_size - 1):
        q = random_codes(
            37, k, kernel.bits, kernel.block_size, symmetric=kernel.symmetric, scale_type=kernel.activation_type
        )
        for m in (1, 5):
            assert difference(q, kernel, activations(m, k, kernel.activation_type)) < tolerance(kernel), (m, k)


@pytest.mark.parametrize("activation_type", ["float32", "float16"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("granularity", ["channel", "tensor", 256])
def test_coarse_granularities_run_in_the_same_kernel(
    granularity: int | Granularity, bits: int, symmetric: bool, activation_type: ScaleType
) -> None:
    scheme = Scheme(bits, granularity, symmetric)
    rng = np.random.default_rng(3)
    for n, k in ((19, 50), (7, 700)):
        q = Rtn().solve(rng.standard_normal((n, k), np.float32), scheme, None, scale_type=activation_type)
        kernel = choose("cpu", scheme, activation_type, n, k)
        assert difference(q, kernel, activations(3, k, activation_type)) < tolerance(kernel), (n, k)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("bits", BITS)
def test_rows_of_zeros_and_tiny_weights(bits: int, block_size: int | Granularity) -> None:
    """Smallest scales survive every kernel: each output row is right by itself."""
    weight = awkward()
    types: tuple[ScaleType, ...] = ("float32", "float16")
    for activation_type, symmetric in product(types, (False, True)):
        scheme = Scheme(bits, block_size, symmetric)
        kernel = choose("cpu", scheme, activation_type, *weight.shape)
        q = Rtn().solve(weight, scheme, None, scale_type=activation_type)
        a = activations(4, weight.shape[1], activation_type)
        expected = a.astype(np.float64) @ q.dequantize().astype(np.float64).T
        error = np.abs(run(q, kernel, a) - expected).max(axis=0)
        magnitude = np.abs(a.astype(np.float64)) @ np.abs(q.dequantize().astype(np.float64)).T
        assert (error <= 0.02 * magnitude.max(axis=0) + 2.0**-24).all()
