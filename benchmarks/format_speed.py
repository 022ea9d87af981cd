"""The tables of speeds that onnxfq carries: how fast formats are beside a float MatMul, by width and rows.

    python -m benchmarks.format_speed --out benchmarks/results/format_speed.json
    INSTRUCTIONS=AVX2 LD_PRELOAD=./hide.so python -m benchmarks.format_speed --table onnxfq/rules/speeds/avx2.json …

The second form takes a processor for one with fewer instructions (see hide_instructions.c). Formats are those of the
rules, and INT8 products of standard operators, which ONNX Runtime fuses into DynamicQuantizeMatMul: per token with
unsigned and with signed weights, and, as `quantize_dynamic` writes them, with one scale for all tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.machine import write
from onnxfq.benchmarking.format_speed import Contender, contenders_of, measure_formats
from onnxfq.rules.speed_table import MeasuredFormat
from onnxfq.scheme import Scheme

INT8 = MeasuredFormat("int8", 8, "channel", True, "int8")
OTHERS = {"signed": INT8._replace(format="int8-signed"), "whole": INT8._replace(format="quantize_dynamic")}
CARRIED = ("matmulnbits", "int8", "int8-signed")


def schemes() -> list[Scheme]:
    """All block sizes of 4 bits, and of the others those that differ."""
    found = [Scheme(4, size) for size in (16, 32, 64, 128, 256)]
    found += [Scheme(4, size, symmetric=True) for size in (32, 128)]
    return [*found, Scheme(8, 32), Scheme(8, 128), Scheme(2, 64), Scheme(2, 128), Scheme(4, 32, activations="float")]


def int8(weight: np.ndarray, *, signed: bool = False, per_token: bool = True) -> bytes:
    """A product with weights per channel and activations rounded to 8 bits on the fly, in standard operators.

    Args:
        weight: [N, K].
        signed: s8 weights, which some processors multiply exactly and fast and others with saturation; else u8 ones,
            their zero point 128.
        per_token: each row is divided by its largest magnitude first.
    """
    scale = np.abs(weight).max(axis=1) / 127
    codes, middle = np.rint(weight / scale[:, None]).T, 0 if signed else 128
    kind = np.int8 if signed else np.uint8
    constants = {
        "B": np.ascontiguousarray((codes + middle).astype(kind)),
        "middle": np.array(middle, kind),
        "w_scale": scale.astype(np.float32),
        "least": np.array(1e-20, np.float32),
    }
    lines = [
        *(["size = Abs(A)", "largest = ReduceMax<axes=[-1]>(size)", "r = Max(largest, least)"] if per_token else []),
        "X = Div(A, r)" if per_token else "X = Identity(A)",
        "Q, x_scale, zero = DynamicQuantizeLinear(X)",
        "P = MatMulInteger(Q, B, zero, middle)",
        "F = Cast<to=1>(P)",
        "S = Mul(x_scale, w_scale)",
        *(["G = Mul(F, S)", "Y = Mul(G, r)"] if per_token else ["Y = Mul(F, S)"]),
    ]
    head = '<ir_version: 8, opset_import: ["" : 17]>\nint8 (float[rows, k] A) => (float[rows, n] Y)'
    model = onnx.parser.parse_model("\n".join((head, "{", *lines, "}")))
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return bytes(model.SerializeToString())


def contenders() -> list[Contender]:
    """Everything that is timed."""
    found = [*contenders_of(schemes()), Contender(INT8, int8)]
    found.append(Contender(OTHERS["signed"], lambda weight: int8(weight, signed=True)))
    return [*found, Contender(OTHERS["whole"], lambda weight: int8(weight, signed=True, per_token=False))]


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="for all, about")
    parser.add_argument("--table", type=Path, help="a table for onnxfq/rules/speeds")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    hidden = os.environ.get("INSTRUCTIONS", "")
    source = f"measured in one thread{f', {hidden} being all that ONNX Runtime could see' if hidden else ''}"
    table = measure_formats(
        contenders(),
        seconds=arguments.seconds,
        source=source,
        progress=lambda what, done, total: print(what, f"{done}/{total}", file=sys.stderr),
    )
    told = table.to_json()
    write(arguments.out, told)
    if arguments.table:
        arguments.table.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in told["formats"] if row["format"] in CARRIED]
        arguments.table.write_text(json.dumps({**told, "formats": kept}) + "\n")


if __name__ == "__main__":
    main()
