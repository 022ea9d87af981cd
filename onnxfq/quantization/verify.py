"""The written file against what the solver meant: decode it again, and run each kind of kernel once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxfq.errors import ModelError, VerificationError
from onnxfq.graph import MICROSOFT, Graph, Node, Scratch, single_node
from onnxfq.kernels import Kernel
from onnxfq.packing import Packed, at_block_size, fingerprint, join_digests, row_chunks, take_rows, unpack
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.session import Provider, Session

# Largest relative MSE of a kernel against `A @ dequantize(q).T`, by what it rounds besides the weights.
_TOLERANCE_FLOAT, _TOLERANCE_INT8, _TOLERANCE_HALF = 1e-5, 1e-3, 5e-3
_ROWS = 3
_PROBE_ROWS = 256  # a multiple of what kernels take at a time
_MOST_SHIFT = 10.0  # a power of two by which activations of any float type may be scaled


@dataclass(frozen=True, slots=True)
class Expected:
    """What one written node must hold.

    Attributes:
        node: the node's name (or first output).
        codes: the name of its input B.
        n: outputs.
        k: inputs.
        kernel: what must run it.
        fingerprint: of the solver's codes, scales and zero points, in the kernel's blocks, chunk by chunk.
    """

    node: str
    codes: str
    n: int
    k: int
    kernel: Kernel
    fingerprint: str


def fingerprints_of(q: QuantizedWeight, block_size: int) -> Iterator[str]:
    """Digests of a weight's row chunks, as a kernel with blocks of `block_size` sees them."""
    at = at_block_size(q, block_size)
    for rows in row_chunks(*at.shape):
        yield fingerprint(at.codes[rows], at.scale[rows], at.zero_point[rows])


def verify(path: Path, meant: Iterable[Expected], provider: Provider) -> int:
    """Reopen a written model and hold it against what was meant.

    Args:
        path: the file.
        meant: one entry for each quantized node.
        provider: where kernels are run.

    Returns:
        How many kinds of kernel were run.

    Raises:
        VerificationError: a node is missing, decodes to something else, or computes something else.
    """
    graph = _load(path)
    written: defaultdict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes():
        if node.op_type == "MatMulNBits" and node.domain == MICROSOFT:
            written[node.inputs[1]].append(node)
    wanted: defaultdict[str, list[Expected]] = defaultdict(list)
    for entry in meant:
        wanted[entry.codes].append(entry)
    kinds: dict[Hashable, tuple[Expected, Node]] = {}
    scratch = Scratch()
    for codes, entries in wanted.items():
        entry, nodes = entries[0], written[codes]
        _check_nodes(path, nodes, entries)
        _check_decoded(path, graph, nodes[0], entry, scratch)
        kind = (entry.kernel, entry.k % entry.kernel.block_size == 0)
        if kind not in kinds or entry.n * entry.k < kinds[kind][0].n * kinds[kind][0].k:
            kinds[kind] = (entry, nodes[0])
    for entry, node in kinds.values():
        _check_kernel(path, graph, node, entry, provider)
    return len(kinds)


def _load(path: Path) -> Graph:
    try:
        return Graph.load(path)
    except ModelError as error:
        raise VerificationError(f"The written file cannot be read back: {error}") from error


def _check_nodes(path: Path, nodes: list[Node], entries: list[Expected]) -> None:
    """Whether the nodes that read some codes are as many as meant, with the attributes and tensors that were meant."""
    if len(nodes) != len(entries):
        names = ", ".join(f"'{entry.node}'" for entry in entries)
        raise VerificationError(
            f"'{path}' has {len(nodes)} nodes that read '{entries[0].codes}', wanted {len(entries)}: {names}. "
            "Please report this."
        )
    entry = entries[0]
    wanted = {"K": entry.k, "N": entry.n, "bits": entry.kernel.bits, "block_size": entry.kernel.block_size}
    wanted["accuracy_level"] = entry.kernel.accuracy_level
    for node in nodes:
        got = dict(node.attributes)
        if got != wanted:
            raise VerificationError(
                f"'{node.name}' in '{path}' has other attributes than meant (got {got}, wanted {wanted}). "
                "Please report this."
            )
        if node.inputs[1:4] != nodes[0].inputs[1:4]:
            raise VerificationError(
                f"'{node.name}' and '{nodes[0].name}' in '{path}' share codes, but not scales and zero points. "
                "Please report this."
            )


def _read(graph: Graph, node: Node, entry: Expected, scratch: Scratch | None = None) -> Packed:
    """The node's tensors; codes in `scratch` if given."""
    memory = (scratch, None, None)
    try:
        tensors = [
            graph.read_initializer(node.body, name, place) if name else None
            for name, place in zip(node.inputs[1:4], memory, strict=False)
        ]
    except ModelError as error:
        raise VerificationError(f"'{entry.node}' cannot be read back: {error}") from error
    b, scales, zero_points = (*tensors, None, None)[:3]
    if b is None or scales is None:
        raise VerificationError(f"'{entry.node}' in '{graph.path}' has no codes or scales. Please report this.")
    return Packed(b, scales, zero_points, entry.kernel.bits, entry.kernel.block_size)


def _check_decoded(path: Path, graph: Graph, node: Node, entry: Expected, scratch: Scratch) -> None:
    """Whether the tensors have the shapes the kernel reads, and decode to what the solver returned."""
    packed = _read(graph, node, entry, scratch)
    if not _well_formed(packed, entry):
        raise VerificationError(f"'{entry.node}' in '{path}' has tensors of other shapes or types than meant.")
    chunks = (unpack(take_rows(packed, rows), entry.k) for rows in row_chunks(entry.n, entry.k))
    if join_digests(fingerprint(q.codes, q.scale, q.zero_point) for q in chunks) != entry.fingerprint:
        raise VerificationError(
            f"'{entry.node}' in '{path}' decodes to other codes, scales or zero points than the solver returned. "
            "The disk or memory may be faulty; if it happens again, please report it."
        )


def _well_formed(packed: Packed, entry: Expected) -> bool:
    bits, block_size = entry.kernel.bits, entry.kernel.block_size
    k_blocks = -(-entry.k // block_size)
    zero_points = packed.zero_points
    return (
        packed.b.shape == (entry.n, k_blocks, block_size * bits // 8)
        and packed.scales.shape == (entry.n, k_blocks)
        and packed.scales.dtype == STORED_TYPES[entry.kernel.activation_type]
        and (zero_points is None) == entry.kernel.symmetric
        and (zero_points is None or zero_points.shape == (entry.n, -(-k_blocks * bits // 8)))
        and all(a is None or a.dtype == np.uint8 for a in (packed.b, zero_points))
    )


def _check_kernel(path: Path, graph: Graph, node: Node, entry: Expected, provider: Provider) -> None:
    packed, kernel = take_rows(_read(graph, node, entry), slice(0, _probe_rows(entry.n))), entry.kernel
    dtype = STORED_TYPES[kernel.activation_type]
    constants = {"B": packed.b, "scales": packed.scales, "zero_points": packed.zero_points}
    attributes = {**node.attributes, "N": len(packed.b)}
    model = single_node("MatMulNBits", MICROSOFT, constants, attributes, activation=dtype, columns=entry.k)
    weight = unpack(packed, entry.k).dequantize().T.astype(np.float64)
    a = _activations(weight).astype(dtype)
    got = Session(model, provider=provider).run({"A": a})["Y"].astype(np.float64)
    expected = a.astype(np.float64) @ weight
    error = float(((got - expected) ** 2).sum() / max(float((expected**2).sum()), 1e-300))
    limit = _TOLERANCE_INT8 if kernel.accuracy_level == 4 else _TOLERANCE_FLOAT
    limit = limit if kernel.activation_type == "float32" else _TOLERANCE_HALF
    if not error <= limit:
        raise VerificationError(
            f"The kernel of '{entry.node}' in '{path}' computes something else than its codes say: relative MSE "
            f"{error:.2g}, at most {limit:g} allowed ({kernel.bits} bits, block {kernel.block_size}, {provider}). "
            "This ONNX Runtime cannot run this format correctly; choose another block size or --bits."
        )


def _probe_rows(n: int) -> int:
    """How many outputs are enough to see whether a kernel computes right: some, with the same remainder as all."""
    return n if n <= _PROBE_ROWS else _PROBE_ROWS + n % _PROBE_ROWS


def _activations(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Random activations [3, K] for a weight [K, N], so large that the product is about 1 where that is possible."""
    a = np.random.default_rng(0).standard_normal((_ROWS, weight.shape[0]))
    largest = float(np.abs(a @ weight).max(initial=0.0))
    return a if largest == 0.0 else a * 2.0 ** -np.clip(np.rint(np.log2(largest)), -_MOST_SHIFT, _MOST_SHIFT)
