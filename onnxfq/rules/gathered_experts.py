"""Experts that are looked up when the model runs: Gather of whole matrices of a constant, which products then read.

    Gather(experts [E, rows, columns], ids)  → GatherBlockQuantized(quantized experts, ids, scales)

The chosen ones alone are dequantized, to floats that the products read as before: which axis they sum over does not
matter. With 8 bits and one scale for many columns, that costs less than copying floats does, with 4 bits it costs more.

One thread of a Xeon with VNNI, look-up and product against float, 1, 4 and 16 experts of 512 x 1024 chosen: 8 bits in
blocks of 256 are 1.3, 1.1 and 1.1 times as fast, in blocks of 128 1.05, .98 and 1.07 times, 4 bits in blocks of 32 .37,
.40 and .69 times; 1 of 128 x 256 in 8 bits is .7 times as fast, 1 of 256 x 512 1.0 to 1.2 times. In float16, 8 bits in
blocks of 256 are .8 to .9 times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxfq.graph import Constant, Node, Reshape, type_name
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.target import SCALE_TYPES, Skip, Target
from onnxfq.rules.unfit_weights import left_alone
from onnxfq.scheme import Scheme

SCHEME = Scheme(8, 256, symmetric=True)  # whatever other weights are quantized to
SMALLEST_EXPERT = 1 << 17  # values; of smaller ones, taking the codes apart takes longer than copying floats
_STACK_RANK = 3
_BITS, _BLOCK_SIZE = 8, 128  # and more, for a look-up that is faster than that of floats


def find_gathered(node: Node, experts: Constant) -> Sequence[Target] | Skip | None:
    """The target that a Gather of matrices is, why it is left alone, or None where it is no such Gather."""
    if len(experts.shape) != _STACK_RANK or node.integer("axis", 0) not in (0, -_STACK_RANK):
        return None
    scale_type = SCALE_TYPES.get(type_name(experts.type))
    if scale_type is None:
        return None
    count, rows, columns = experts.shape
    if scale_type != "float32":
        reason = f"experts in {scale_type} that are looked up: taking them from codes is slower than from floats"
        return left_alone(node, experts, reason)
    if rows * columns < SMALLEST_EXPERT:
        reason = f"experts of {rows * columns} values: taking so few from codes is slower than from floats"
        return left_alone(node, experts, f"{reason} (fewer than {SMALLEST_EXPERT})")
    stack = replace(experts, way=experts.way.then(Reshape((count * rows, columns))))
    return (
        Target(
            name=node.name,
            node=node,
            weight=stack,
            n=count * rows,
            k=columns,
            transposed=False,
            alpha=1.0,
            scale_type=scale_type,
            stacked=True,
            experts=count,
            scheme=SCHEME,
        ),
    )


def timed(kernel: Kernel, columns: int) -> Kernel:
    """The kernel, marked where dequantizing experts takes longer than copying floats."""
    if kernel.bits == _BITS and kernel.block_size >= min(_BLOCK_SIZE, columns):
        return kernel
    note = f"experts that are looked up in less than 8 bits or blocks of {_BLOCK_SIZE} (.3 to .9 times as fast)"
    return replace(kernel, speed="slow", note=note)
