"""The written file against what the solver meant: decode it again, and run each kind of kernel once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxfq.errors import VerificationError
from onnxfq.graph import MICROSOFT, Graph, Node, single_node
from onnxfq.kernels import Kernel
from onnxfq.packing import Packed, at_block_size, fingerprint, unpack
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.session import Provider, Session

# Largest relative MSE of a kernel against `A @ dequantise(q).T`, by what it rounds besides the weights.
_TOLERANCE_FLOAT, _TOLERANCE_INT8, _TOLERANCE_HALF = 1e-5, 1e-3, 5e-3
_ROWS = 3


@dataclass(frozen=True, slots=True)
class Meant:
    """What one written node must hold.

    Attributes:
        node: the node's name (or first output).
        codes: the name of its input B.
        n: outputs.
        k: inputs.
        kernel: what must run it.
        fingerprint: of the solver's codes, scales and zero points, in the kernel's blocks.
    """

    node: str
    codes: str
    n: int
    k: int
    kernel: Kernel
    fingerprint: str


def fingerprint_of(q: QuantizedWeight, block_size: int) -> str:
    """The digest of a weight as a kernel with blocks of `block_size` sees it."""
    at = at_block_size(q, block_size)
    return fingerprint(at.codes, at.scale, at.zero_point)


def verify(path: Path, meant: Iterable[Meant], provider: Provider) -> int:
    """Reopen a written model and hold it against what was meant.

    Args:
        path: the file.
        meant: one entry for each quantised node.
        provider: where kernels are run.

    Returns:
        How many kinds of kernel were run.

    Raises:
        VerificationError: a node is missing, decodes to something else, or computes something else.
    """
    graph = Graph.load(path)
    written = {n.inputs[1]: n for n in graph.nodes() if n.op_type == "MatMulNBits" and n.domain == MICROSOFT}
    kinds: dict[tuple[object, ...], tuple[Meant, Node]] = {}
    checked: set[str] = set()
    for entry in meant:
        node = written.get(entry.codes)
        if node is None:
            raise VerificationError(f"'{path}' lacks the quantised node '{entry.node}'. Please report this.")
        if entry.codes not in checked:
            _check_decoded(path, graph, node, entry)
            checked.add(entry.codes)
        kind = (entry.kernel, entry.k % entry.kernel.block_size == 0, len(node.inputs))
        if kind not in kinds or entry.n * entry.k < kinds[kind][0].n * kinds[kind][0].k:
            kinds[kind] = (entry, node)
    for entry, node in kinds.values():
        _check_kernel(path, graph, node, entry, provider)
    return len(kinds)


def _read(graph: Graph, node: Node, entry: Meant) -> Packed:
    tensors = [graph.read_initializer(node.body, name) if name else None for name in node.inputs[1:4]]
    b, scales, zero_points = (*tensors, None)[:3]
    if b is None or scales is None:
        raise VerificationError(f"'{entry.node}' in '{graph.path}' has no codes or scales. Please report this.")
    return Packed(b, scales, zero_points, entry.kernel.bits, entry.kernel.block_size)


def _check_decoded(path: Path, graph: Graph, node: Node, entry: Meant) -> None:
    wanted = {"K": entry.k, "N": entry.n, "bits": entry.kernel.bits, "block_size": entry.kernel.block_size}
    wanted["accuracy_level"] = entry.kernel.accuracy_level
    if dict(node.attributes) != wanted:
        raise VerificationError(
            f"'{entry.node}' in '{path}' has other attributes than meant (got {dict(node.attributes)}, wanted {wanted})."
        )
    q = unpack(_read(graph, node, entry), entry.k)
    if fingerprint(q.codes, q.scale, q.zero_point) != entry.fingerprint:
        raise VerificationError(
            f"'{entry.node}' in '{path}' decodes to other codes, scales or zero points than the solver returned. "
            "The disk or memory may be faulty; if it happens again, please report it."
        )


def _check_kernel(path: Path, graph: Graph, node: Node, entry: Meant, provider: Provider) -> None:
    packed = _read(graph, node, entry)
    kernel = entry.kernel
    dtype = STORED_TYPES[kernel.activation_type]
    constants = {"B": packed.b, "scales": packed.scales, "zero_points": packed.zero_points}
    model = single_node(
        "MatMulNBits", MICROSOFT, constants, node.attributes, activation=dtype, columns=entry.k
    )
    a = np.random.default_rng(0).standard_normal((_ROWS, entry.k)).astype(dtype)
    got = Session(model, provider=provider).run({"A": a})["Y"].astype(np.float64)
    expected = a.astype(np.float64) @ unpack(packed, entry.k).dequantise().T.astype(np.float64)
    error = float(((got - expected) ** 2).sum() / max(float((expected**2).sum()), 1e-300))
    limit = _TOLERANCE_INT8 if kernel.accuracy_level == 4 else _TOLERANCE_FLOAT
    limit = limit if kernel.activation_type == "float32" else _TOLERANCE_HALF
    if not error <= limit:
        raise VerificationError(
            f"The kernel of '{entry.node}' in '{path}' computes something else than its codes say: relative MSE "
            f"{error:.2g}, at most {limit:g} allowed ({kernel.bits} bits, block {kernel.block_size}, {provider}). "
            "This ONNX Runtime cannot run this format correctly; choose another block size or --bits."
        )
