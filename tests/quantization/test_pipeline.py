"""The whole way through, in the order that the pipeline gives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxfq.errors import ModelError, OutputError, VerificationError
from onnxfq.graph import Graph
from onnxfq.options import Options
from onnxfq.pipeline import inspect, quantize
from onnxfq.scheme import Granularity, Scheme
from support import models
from support.models import EXACT, Array, grid, model, proven
from support.pairs import pairs

SIZES: tuple[int | Granularity, ...] = (16, 32, 256, "channel", "tensor")


def source(folder: Path, *, body: str = "a = MatMul (x, w)  b = Relu (x)  c = MatMul (b, w)  y = Add (a, c)") -> Path:
    return models.write(model(body, w=grid(), u=grid(seed=3)), folder / "in.onnx")


def test_the_steps_in_order(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    quantize(source(tmp_path), progress=lambda *step: told.append(step), algorithm="rtn", provider="cpu")
    assert list(dict.fromkeys(what for what, _, _ in told)) == [
        "checking the original",
        "solving",
        "writing",
        "verifying",
        "comparing with the original",
    ]
    assert [(done, total) for what, done, total in told if what == "solving"] == [(0, 2), (1, 2), (2, 2)]


def test_the_default_output(tmp_path: Path) -> None:
    report = quantize(source(tmp_path), validate=False)
    assert report.output == str(tmp_path / "in.int4.onnx")
    assert sorted(models.hashes(tmp_path)) == ["in.int4.onnx", "in.onnx"]


def test_what_the_report_says(tmp_path: Path) -> None:
    report = models.quantized_by_rtn(source(tmp_path))
    first, second = report.targets
    assert (first.name, first.op_type, first.n, first.k, first.bits, first.block_size) == ("a", "MatMul", 32, 64, 4, 32)
    assert first.relative_error == 0.0
    assert first.bytes == 32 * 64 // 2 + 32 * 2 * 4 + 32
    assert (second.shares, second.bytes) == ("a", 0)
    assert report.size.source_bytes == (tmp_path / "in.onnx").stat().st_size
    assert report.size.output_bytes == (tmp_path / "out.onnx").stat().st_size
    assert report.kernels_run == 1


def test_inspect_finds_the_same_and_writes_nothing(tmp_path: Path) -> None:
    path = source(tmp_path)
    seen = inspect(path, algorithm="rtn", provider="cpu", scheme=EXACT)
    assert sorted(models.hashes(tmp_path)) == ["in.onnx"]
    done = models.quantized_by_rtn(path)
    assert [(t.name, t.bytes, t.shares) for t in seen.targets] == [(t.name, t.bytes, t.shares) for t in done.targets]
    assert seen.skipped == done.skipped
    assert abs(seen.size.output_bytes - done.size.output_bytes) < 0.2 * done.size.output_bytes


def test_validation_finds_no_difference_where_there_is_none(tmp_path: Path) -> None:
    report = quantize(source(tmp_path), tmp_path / "out.onnx", algorithm="rtn", provider="cpu", scheme=EXACT)
    assert [o.name for o in report.outputs] == ["y"]
    assert (report.outputs[0].relative_mse or 0.0) < 1e-10


def test_a_failed_verification_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise VerificationError("not what was meant")

    monkeypatch.setattr("onnxfq.pipeline.verify", fail)
    with pytest.raises(VerificationError):
        models.quantized_by_rtn(source(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.onnx"]


def test_an_old_output_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path)
    models.quantized_by_rtn(path)
    before = models.hashes(tmp_path)

    def fail(*_: object) -> int:
        raise VerificationError("not what was meant")

    monkeypatch.setattr("onnxfq.pipeline.verify", fail)
    with pytest.raises(VerificationError):
        models.quantized_by_rtn(path)
    assert models.hashes(tmp_path) == before


def test_an_old_output_is_replaced_as_a_whole(tmp_path: Path) -> None:
    external = models.write_external(model("y = MatMul (x, w)", w=grid(128, 64)), tmp_path / "external.onnx")
    external_x = {"x": np.ones((2, 128), np.float32)}
    proto = onnx.load(external, load_external_data=False)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 128
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 64
    models.write(proto, external)
    models.quantized_by_rtn(external, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()
    models.run(tmp_path / "out.onnx", external_x)
    models.quantized_by_rtn(source(tmp_path), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx.data").exists()


def test_a_place_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        models.quantized_by_rtn(source(tmp_path), tmp_path / "missing" / "out.onnx")


def test_nothing_to_quantize(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Nothing to quantize"):
        models.quantized_by_rtn(source(tmp_path, body="y = Relu (u)").with_name("in.onnx"))
    assert sorted(models.hashes(tmp_path)) == ["in.onnx"]


def test_the_source_as_a_string_and_settings_as_options(tmp_path: Path) -> None:
    path = source(tmp_path)
    options = Options(algorithm="rtn", validate=False, provider="cpu")
    quantize(str(path), str(tmp_path / "a.onnx"), options=options)
    quantize(path, tmp_path / "b.onnx", algorithm="rtn", validate=False, provider="cpu")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(("bits", "block_size", "symmetric"), pairs((2, 4, 8), SIZES, (False, True)))
def test_schemes_compute_what_their_codes_say(
    bits: int, block_size: int | Granularity, symmetric: bool, tmp_path: Path
) -> None:
    """ONNX Runtime on the written file equals `A @ dequantize(q)`, decoded here from the file; K is no multiple.

    Every kernel is held against its codes in `tests/rules`; here every two settings meet.
    """
    k, n = 200, 37
    w = np.random.default_rng(0).standard_normal((k, n)).astype(np.float32)
    proto = model("y = MatMul (x, w)", x="float[M, 200] x", y="float[M, 37] y", w=w)
    path, output = models.write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx"
    scheme = Scheme(bits=bits, block_size=block_size, symmetric=symmetric, activations="float")
    models.quantized_by_rtn(path, output, scheme=scheme, allow_slow=True)
    x = np.random.default_rng(1).standard_normal((5, k)).astype(np.float32)
    got = models.run(output, {"x": x})["y"]
    decoded = decode(output, k)
    expected = x.astype(np.float64) @ decoded
    assert ((got - expected) ** 2).sum() <= 1e-5 * (expected**2).sum()
    assert np.abs(decoded - w).max() <= np.ptp(w) / (2**bits - 1)


def decode(path: Path, k: int) -> Array:
    """The weight [K, N] that a file's only MatMulNBits node stands for, by the operator's documentation."""
    proto = onnx.load(path)
    node = models.find(proto.graph.node, "MatMulNBits")
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    attributes = {a.name: a.i for a in node.attribute}
    bits, block_size = attributes["bits"], attributes["block_size"]
    b, scales = tensors[node.input[1]], tensors[node.input[2]]
    n, blocks = scales.shape

    def spread(packed: Array, count: int) -> Array:
        parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
        return np.stack(parts, axis=-1).reshape(n, -1)[:, :count].astype(np.float64)

    codes = spread(b.reshape(n, -1), blocks * block_size)
    zero_points = (
        spread(tensors[node.input[3]], blocks) if len(node.input) > 3 else np.full((n, blocks), 2.0 ** (bits - 1))
    )
    grids = [np.repeat(a.astype(np.float64), block_size, axis=1) for a in (scales, zero_points)]
    weight: Array = ((codes - grids[1]) * grids[0])[:, :k].T
    return weight


LINKS = {
    "Transpose": "Transpose ({})",
    "Identity": "Identity ({})",
    "to half": "Cast <to = 10> ({})",
    "to float": "Cast <to = 1> ({})",
    "flat": "Reshape ({}, flat)",
    "wide": "Reshape ({}, wide)",
    "tall": "Reshape ({}, tall)",
    "deep": "Unsqueeze ({}, zero)",
    "shallow": "Squeeze ({}, zero)",
}
SHAPES = {"flat": np.array([-1]), "wide": np.array([32, -1]), "tall": np.array([64, 32]), "zero": np.array([0])}


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(LINKS)), max_size=7), st.booleans(), st.booleans())
def test_random_chains(tmp_path: Path, links: list[str], gemm: bool, half: bool) -> None:
    """Whatever the chain, the product is the same as before; where it is not followed, the node is left alone."""
    names = ["s", *(f"t{i}" for i in range(len(links)))]
    lines = [f"{new} = {LINKS[link].format(old)}" for old, new, link in zip(names, names[1:], links, strict=False)]
    lines.append(f"v = Cast <to = 1> ({names[-1]})  w = Reshape (v, tall)")
    lines.append("y = Gemm <alpha = 0.5> (x, w)" if gemm else "y = MatMul (x, w)")
    stored = (np.random.default_rng(0).integers(-3, 13, (64, 32)) / 16).astype(np.float16 if half else np.float32)
    path = models.write(model("  ".join(lines), s=stored, constants=SHAPES), tmp_path / "in.onnx")
    try:
        models.session(path)
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors have no common base; such a model is none
        return
    (tmp_path / "out.onnx").unlink(missing_ok=True)
    # One grid under all weights is exact in whatever order they come.
    outcome = proven(path, tmp_path, scheme=Scheme(block_size="tensor", activations="float"))
    assert outcome.op_types == ["MatMulNBits"]
    assert Graph.load(outcome.output).metadata["onnxfq.algorithm"] == "rtn"
