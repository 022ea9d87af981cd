"""How fast ONNX Runtime's MatMulNBits is in every format, against an fp32 MatMul of the same shape on the same machine.

    python -m benchmarks.kernel_speed --out benchmarks/results/kernel_speed.json

Every format is timed in turns with the MatMul, so that what else the machine does hits both; the ratio reported is the
median of the turns' ratios. "error" says that ONNX Runtime has no such kernel.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from benchmarks.machine import write

ACTIVATIONS = {
    "float32": (np.float32, TensorProto.FLOAT),
    "float16": (np.float16, TensorProto.FLOAT16),
    "bfloat16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def tensor(name: str, array: np.ndarray, element_type: int) -> onnx.TensorProto:
    """An initializer holding the array's bytes."""
    return helper.make_tensor(name, element_type, array.shape, array.tobytes(), raw=True)


def model(nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], element_type: int, size: int) -> bytes:
    """A model from A [M, size] to Y [M, size]."""
    graph = helper.make_graph(
        nodes,
        "kernel_speed",
        [helper.make_tensor_value_info("A", element_type, ["M", size])],
        [helper.make_tensor_value_info("Y", element_type, ["M", size])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def matmul(size: int, activation_type: str = "float32") -> bytes:
    """The float model."""
    dtype, element_type = ACTIVATIONS[activation_type]
    weight = np.random.default_rng(0).standard_normal((size, size)).astype(dtype)
    node = helper.make_node("MatMul", ["A", "B"], ["Y"])
    return model([node], [tensor("B", weight, element_type)], element_type, size)


def matmul_nbits(
    size: int, bits: int, block_size: int, zero_points: str, accuracy_level: int, activation_type: str
) -> bytes:
    """The quantized model; `zero_points` is "default" (no input), "packed" or "float"."""
    dtype, element_type = ACTIVATIONS[activation_type]
    rng = np.random.default_rng(0)
    k_blocks = size // block_size
    b = rng.integers(0, 256, (size, k_blocks, block_size * bits // 8), np.uint8)
    scales = rng.uniform(0.001, 0.002, (size, k_blocks)).astype(dtype)
    initializers = [tensor("B", b, TensorProto.UINT8), tensor("scales", scales, element_type)]
    if zero_points == "packed":
        packed = rng.integers(0, 256, (size, -(-k_blocks * bits // 8)), np.uint8)
        initializers.append(tensor("zero_points", packed, TensorProto.UINT8))
    elif zero_points == "float":
        initializers.append(tensor("zero_points", np.full((size, k_blocks), 7.5).astype(dtype), element_type))
    node = helper.make_node(
        "MatMulNBits",
        ["A", *(initializer.name for initializer in initializers)],
        ["Y"],
        domain="com.microsoft",
        K=size,
        N=size,
        bits=bits,
        block_size=block_size,
        accuracy_level=accuracy_level,
    )
    return model([node], initializers, element_type, size)


class Timed:
    """A session fed from a buffer bound once."""

    def __init__(self, model_bytes: bytes, arguments: argparse.Namespace, activation_type: str, rows: int) -> None:
        provider, size = arguments.provider, arguments.size
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = arguments.threads
        self.session = onnxruntime.InferenceSession(model_bytes, options, providers=[PROVIDERS[provider]])
        if self.session.get_providers()[0] != PROVIDERS[provider]:
            raise SystemExit(f"{PROVIDERS[provider]} is not available here (got {self.session.get_providers()}).")
        dtype, element_type = ACTIVATIONS[activation_type]
        array = np.random.default_rng(1).standard_normal((rows, size)).astype(dtype)
        device = "cuda" if provider == "cuda" else "cpu"
        if activation_type == "bfloat16":
            value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), element_type)
        else:
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input("A", value)
        self.binding.bind_output("Y", device)
        self.seconds()

    def seconds(self, calls: int = 1) -> float:
        """Mean time of `calls` runs."""
        start = time.perf_counter()
        for _ in range(calls):
            self.session.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()
        return (time.perf_counter() - start) / calls


def ratio(baseline: Timed, candidate: Timed, turns: int) -> dict[str, float]:
    """Median over turns of the baseline's time over the candidate's, and their median times."""
    calls = [max(1, min(20, int(0.02 / timed.seconds()))) for timed in (baseline, candidate)]
    if candidate.seconds() > 20 * baseline.seconds():
        turns = 3
    pairs = [(baseline.seconds(calls[0]), candidate.seconds(calls[1])) for _ in range(turns)]
    return {
        "times_faster": round(statistics.median(a / b for a, b in pairs), 3),
        "matmul_ms": round(1e3 * statistics.median(a for a, _ in pairs), 4),
        "ms": round(1e3 * statistics.median(b for _, b in pairs), 4),
    }


def formats(arguments: argparse.Namespace) -> Iterator[tuple[int, int, str, int, str]]:
    """Every bits, block_size, zero_points, accuracy_level, activation_type."""
    blocks = (16, 32, 64, 128, 256)
    return itertools.product((2, 4, 8), blocks, arguments.zero_points, (0, 4), arguments.activations)


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """One row per format."""
    rows = []
    baselines = {m: Timed(matmul(arguments.size), arguments, "float32", m) for m in arguments.rows}
    for bits, block_size, zero_points, accuracy_level, activation_type in formats(arguments):
        row: dict[str, object] = {
            "bits": bits,
            "block_size": block_size,
            "zero_points": zero_points,
            "accuracy_level": accuracy_level,
            "activation_type": activation_type,
        }
        try:
            model_bytes = matmul_nbits(arguments.size, bits, block_size, zero_points, accuracy_level, activation_type)
            for m, baseline in baselines.items():
                timed = Timed(model_bytes, arguments, activation_type, m)
                row[f"M={m}"] = ratio(baseline, timed, arguments.turns)
        except Exception as error:  # noqa: BLE001 onnxruntime's errors share no public base class
            row["error"] = str(error)[:200]
        print(json.dumps(row), file=sys.stderr)
        rows.append(row)
    return rows


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="K and N")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 128], help="M: 1 is decoding, 128 is prefill")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--provider", choices=sorted(PROVIDERS), default="cpu")
    parser.add_argument("--activations", nargs="+", default=list(ACTIVATIONS), choices=list(ACTIVATIONS))
    parser.add_argument(
        "--zero-points", nargs="+", default=["packed", "default"], choices=["packed", "default", "float"]
    )
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime; 0 lets it choose")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    measured = measure(arguments)
    facts = {"provider": arguments.provider, "size": arguments.size, "threads": arguments.threads}
    write(arguments.out, {**facts, "turns": arguments.turns, "formats": measured})


if __name__ == "__main__":
    main()
