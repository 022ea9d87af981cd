"""What every rule does: a new one is tested by its line in the table `RULES`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.arrays import Array
from onnxfq.errors import SchemeError
from onnxfq.graph import Graph
from onnxfq.packing import fingerprint
from onnxfq.providers import ProviderName
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules import PRODUCT_RULES, RULES, Kernel, Rule, WeightKind, take_rows, tensor_bytes
from onnxfq.scheme import BITS, BLOCK_SIZES, ScaleType, Scheme
from onnxfq.session import Session
from onnxfq.weight_formats import FORMATS
from support import models
from support.kernels import SCHEMES, SIZES, bare, kernel_name, offered
from support.models import model
from support.pairs import pairs
from support.weights import SCALE_TYPES, random_codes

N, K = 19, 280  # no multiple of any block
KERNELS = [pytest.param(rule, kernel, id=f"{rule.operator}-{kernel_name(kernel)}") for rule in RULES
           for kernel in offered(rule, k=K)]  # fmt: skip
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.operator)

# For every operator that some rule replaces: a model, its inputs, and weights that 4 bits in blocks of 32 hold exactly.
SOURCES: dict[str, tuple[str, str, dict[str, Array]]] = {
    "MatMul": ("y = MatMul (x, w)", "float[M, 256] x", {"w": models.grid(256, 64)}),
    "Gemm": ("y = Gemm <transB = 1> (x, w)", "float[M, 256] x", {"w": models.grid(256, 64).T.copy()}),
    "Einsum": ('y = Einsum <equation = "mk,kn->mn"> (x, w)', "float[M, 256] x", {"w": models.grid(256, 64)}),
    "Gather": ("e = Gather (w, ids)  y = Add (e, e)", "int64[M] ids", {"w": models.grid(64, 256).T.copy()}),
    "LSTM": (
        "a, b, y = LSTM <hidden_size = 128> (x, w, r)",
        "float[M, 1, 64] x",
        {"w": models.normal(1, 512, 64) / np.float32(8), "r": models.normal(1, 512, 128) / np.float32(8)},
    ),
    "MoE": (
        "y = com.microsoft.MoE <k = 2> (x, router, first, none, second)",
        "float[M, 64] x, float[M, 4] router",
        {
            "first": models.grid(64, 4 * 32).T.copy().reshape(4, 32, 64),
            "second": models.grid(32, 4 * 64).T.copy().reshape(4, 64, 32),
        },
    ),
}


SCHEMES_OF: dict[str, Scheme] = {"LSTM": Scheme(8, "channel", symmetric=True)}  # whatever the user says
SETTINGS: dict[str, dict[str, Any]] = {"LSTM": {"scheme": Scheme(), "tolerance": 0.05}}  # what rounds activations too


def codes_for(kernel: Kernel, n: int = N, k: int = K, seed: int = 0) -> QuantizedWeight:
    return random_codes(
        n, k, kernel.bits, kernel.block_size, symmetric=kernel.symmetric, scale_type=kernel.activation_type, seed=seed
    )


def digest(q: QuantizedWeight) -> str:
    return fingerprint(q.codes, q.scale, q.zero_point)


def probe_error(rule: Rule, tensors: dict[str, Array], kernel: Kernel, n: int, k: int) -> tuple[float, float]:
    """How far the kernel is from what the codes say, and how far it may be."""
    probe = rule.probe(tensors, kernel, n, k)
    (got,) = Session(probe.model, provider="cpu").run(dict(probe.feed)).values()
    assert got.shape == probe.expected.shape
    return float(((got - probe.expected) ** 2).sum() / (probe.expected**2).sum()), probe.tolerance


def test_every_format_has_a_rule() -> None:
    assert list(PRODUCT_RULES) == list(FORMATS)


@each_rule
def test_it_is_what_its_class_says(rule: Rule) -> None:
    assert [other.operator for other in RULES].count(rule.operator) == 1
    assert rule.kind in get_args(WeightKind)
    assert set(rule.replaces) <= set(SOURCES), "a new operator needs a model here"
    assert rule.positions(0) == rule.inputs
    assert len(set(rule.inputs.values())) == len(rule.inputs)
    for kernel in offered(rule):
        assert rule.reads(rule, kernel, K)


# Packing


@each_rule
@settings(max_examples=100)
@given(
    n=st.integers(1, 9),
    k=st.integers(1, 300),
    bits=st.sampled_from(BITS),
    block_size=st.sampled_from(SIZES),
    symmetric=st.booleans(),
    scale_type=st.sampled_from(SCALE_TYPES),
    provider=st.sampled_from(get_args(ProviderName)),
    rows=st.slices(9),
    seed=st.integers(0, 9),
)
def test_unpack_undoes_pack(
    rule: Rule, n: int, k: int, bits: int, block_size: int, symmetric: bool, scale_type: ScaleType,
    provider: ProviderName, rows: slice, seed: int,
) -> None:  # fmt: skip
    try:
        kernel = rule.kernel(provider, Scheme(bits, block_size, symmetric), bare(n, k, scale_type))
    except SchemeError:
        return
    q = codes_for(kernel, n, k, seed)
    packed = rule.pack(q, kernel)
    assert list(packed) == list(rule.layout(n, k, kernel))
    assert set(packed) <= set(rule.inputs)
    assert next(iter(packed)) == next(iter(rule.inputs)), "codes come first"
    assert rule.fits(packed, n, k, kernel)
    assert not rule.fits(packed, n + 1, k, kernel)
    assert rule.nbytes(n, k, kernel) == tensor_bytes(packed)
    assert kernel.activation_type == (scale_type if rule.kind == "weights" else rows_type(provider, scale_type))
    assert packed["scales"].dtype == STORED_TYPES[kernel.activation_type]
    back = rule.unpack(packed, kernel, k)
    np.testing.assert_array_equal(back.codes, q.codes)
    np.testing.assert_array_equal(back.scale, q.scale)
    np.testing.assert_array_equal(back.zero_point, q.zero_point)
    assert (back.bits, back.block_size, back.scale_type) == (bits, kernel.block_size, kernel.activation_type)
    assert back.symmetric == symmetric
    if rows.step in (None, 1) and len(range(n)[rows]):
        part = rule.unpack(take_rows(packed, rows), kernel, k)
        np.testing.assert_array_equal(part.codes, q.codes[rows])
        np.testing.assert_array_equal(part.scale, q.scale[rows])
        np.testing.assert_array_equal(part.zero_point, q.zero_point[rows])


@each_rule
def test_one_scale_a_row_and_blocks_of_many_kernel_blocks(rule: Rule) -> None:
    for kernel in offered(rule, k=K):
        for block_size in (K, *(size for size in BLOCK_SIZES if size >= kernel.block_size)):
            q = random_codes(
                5, K, kernel.bits, block_size, symmetric=kernel.symmetric, scale_type=kernel.activation_type
            )
            back = rule.unpack(rule.pack(q, kernel), kernel, K)
            np.testing.assert_array_equal(back.dequantize(), q.dequantize())


@each_rule
def test_every_bit_of_the_codes_counts(rule: Rule) -> None:
    for bits, block_size, symmetric in pairs(BITS, BLOCK_SIZES, (False, True)):
        k = 2 * block_size
        try:
            kernel = rule.kernel("cpu", Scheme(bits, block_size, symmetric), bare(2, k, "float32"))
        except SchemeError:
            kernel = offered(rule, n=2, k=k)[0]  # it has another granularity
        q = codes_for(kernel, 2, k)
        packed = rule.pack(q, kernel)
        flat = next(iter(packed.values())).reshape(-1)
        seen = {digest(q)}
        for bit in range(0, 8 * flat.size, 61):
            flat[bit // 8] ^= 1 << bit % 8
            seen.add(digest(rule.unpack(packed, kernel, k)))
            flat[bit // 8] ^= 1 << bit % 8
        assert len(seen) == 1 + len(range(0, 8 * flat.size, 61))


# Kernels


@pytest.mark.parametrize(("rule", "kernel"), KERNELS)
def test_the_probe_finds_that_the_kernel_computes_what_its_codes_say(rule: Rule, kernel: Kernel) -> None:
    for k in (K, 2 * kernel.block_size) if kernel.block_size in BLOCK_SIZES else (K,):
        error, tolerance = probe_error(rule, rule.pack(codes_for(kernel, k=k), kernel), kernel, N, k)
        assert error <= tolerance, k


@each_rule
def test_the_probe_notices_codes_that_are_not_those_it_was_told(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = next(kernel for kernel in offered(rule, n=N, k=K) if kernel.activation_type == "float32")
    packed = rule.pack(codes_for(kernel), kernel)
    meant, codes = rule.unpack(packed, kernel, K), next(iter(rule.inputs))
    monkeypatch.setattr(type(rule), "unpack", lambda *_: meant)
    wrong = {**packed, codes: packed[codes] ^ np.uint8(1 << kernel.bits - 1)}
    error, tolerance = probe_error(rule, wrong, kernel, N, K)
    assert error > tolerance


@each_rule
def test_every_scheme_has_a_kernel_or_a_refusal_with_a_remedy(rule: Rule) -> None:
    refused = 0
    for scheme in SCHEMES:
        for scale_type in SCALE_TYPES:
            for n, k in ((64, 4096), (7, 33)):
                try:
                    kernel = rule.kernel("cpu", scheme, bare(n, k, scale_type))
                except SchemeError as error:
                    assert "(got " in str(error)  # noqa: PT017 both outcomes are right, for different schemes
                    assert any(word in str(error) for word in ("Use ", "Wanted ", "The nearest "))  # noqa: PT017
                    refused += 1
                else:
                    assert (kernel.bits, kernel.symmetric) == (scheme.bits, scheme.symmetric)
                    wanted = scale_type if rule.kind == "weights" else rows_type("cpu", scale_type)
                    assert (kernel.provider, kernel.activation_type) == ("cpu", wanted)
                    assert kernel.speed == "fast" or kernel.note
    assert refused


def rows_type(provider: ProviderName, scale_type: ScaleType) -> ScaleType:
    """What a lookup gives of a table: on CPU there are no bfloat16 rows, and float32 ones are cast."""
    return "float32" if (provider, scale_type) == ("cpu", "bfloat16") else scale_type


# Graphs


@pytest.mark.parametrize(
    ("rule", "operator"), [pytest.param(rule, name, id=name) for rule in RULES for name in rule.replaces]
)
def test_what_is_written(rule: Rule, operator: str, tmp_path: Path) -> None:
    """The node has the attributes that the rule says; once more gives the same bytes; a second time changes nothing."""
    body, inputs, weights = SOURCES[operator]
    proto = model(body, x=inputs, y="float[M, 64] y", domains=', "com.microsoft" : 1', constants=weights)
    for node in proto.graph.node:
        node.input[:] = ["" if name == "none" else name for name in node.input]
    path = models.write(proto, tmp_path / "in.onnx")
    feed = {"ids": np.array([0, 255, 3])}
    given = {"embeddings": 4, **SETTINGS.get(operator, {})}
    outcome = models.proven(path, tmp_path, targets=rule.slots, feed=feed, **given)
    (node,) = outcome.nodes(rule.operator)
    graph = Graph.load(outcome.output)
    written = next(one for one in graph.nodes() if one.op_type == rule.operator)
    assert node.domain == rule.domain
    assert not outcome.nodes(operator)
    for slot, target in enumerate(outcome.report.targets):
        kernel = rule.kernel("cpu", SCHEMES_OF.get(operator, models.EXACT), bare(target.n, target.k, "float32"))
        assert rule.attributes(target.n, target.k, kernel).items() <= {a.name: a.i for a in node.attribute}.items()
        layout, flat = rule.layout(target.n, target.k, kernel), {}
        for name, held in rule.written_names(graph, written, slot).items():
            flat[name] = onnx.numpy_helper.to_array(outcome.initializers[held]).reshape(layout[name][0])
        assert rule.fits(flat, target.n, target.k, kernel)
        assert target.bytes == rule.nbytes(target.n, target.k, kernel)
    again = tmp_path / "again.onnx"
    models.quantized_by_rtn(path, again, **{name: value for name, value in given.items() if name != "tolerance"})
    assert again.read_bytes() == outcome.output.read_bytes()
    twice = models.quantized_by_rtn(outcome.output, tmp_path / "twice.onnx", embeddings=4)
    assert not twice.targets
    assert [skip.reason for skip in twice.skipped] == ["already quantized"]
    assert twice.output is None
    assert not (tmp_path / "twice.onnx").exists()
