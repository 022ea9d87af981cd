"""The tables of speeds that onnxfq carries: how fast formats are beside a float MatMul, by width and rows.

    python -m benchmarks.format_speed --out format_speed.json
    INSTRUCTIONS=AVX2 LD_PRELOAD=./hide.so python -m benchmarks.format_speed --table onnxfq/rules/speeds/avx2.json …

The second form takes a processor for one with fewer instructions (see hide_instructions.c). Formats are those of the
rules, and beside them products as ONNX Runtime's `quantize_dynamic` writes them.
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
from onnxfq.rules import PRODUCT_RULES
from onnxfq.rules.speed_table import MeasuredFormat
from onnxfq.scheme import Scheme

DYNAMIC = MeasuredFormat("quantize_dynamic", 8, "channel", True, "int8")


def schemes() -> list[Scheme]:
    """All block sizes of 4 bits, of the others those that differ, and every other format once."""
    found = [Scheme(4, size) for size in (16, 32, 64, 128, 256)]
    found += [Scheme(4, size, symmetric=True) for size in (32, 128)]
    found += [Scheme(8, 32), Scheme(8, 128), Scheme(2, 64), Scheme(2, 128), Scheme(4, 32, activations="float")]
    return found + [Scheme(format=name) for name in PRODUCT_RULES if name != found[0].format]


def quantize_dynamic(weight: np.ndarray) -> bytes:
    """A product as ONNX Runtime's own tool writes it: weights per channel, one scale for all activations."""
    scale = np.abs(weight).max(axis=1) / 127
    constants = {
        "B": np.ascontiguousarray(np.rint(weight / scale[:, None]).astype(np.int8).T),
        "middle": np.array(0, np.int8),
        "w_scale": scale.astype(np.float32),
    }
    text = """<ir_version: 8, opset_import: ["" : 17]>
        dynamic (float[rows, k] A) => (float[rows, n] Y) {
            Q, a_scale, zero = DynamicQuantizeLinear(A)
            P = MatMulInteger(Q, B, zero, middle)
            F = Cast<to=1>(P)
            S = Mul(a_scale, w_scale)
            Y = Mul(F, S)
        }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return bytes(model.SerializeToString())


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
        [*contenders_of(schemes()), Contender(DYNAMIC, quantize_dynamic)],
        seconds=arguments.seconds,
        source=source,
        progress=lambda what, done, total: print(what, f"{done}/{total}", file=sys.stderr),
    )
    told = table.to_json()
    write(arguments.out, told)
    if arguments.table:
        arguments.table.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in told["formats"] if row["format"] != DYNAMIC.format]
        arguments.table.write_text(json.dumps({**told, "formats": kept}) + "\n")


if __name__ == "__main__":
    main()
