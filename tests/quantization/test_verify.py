"""A written file that is not what the solver meant is noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxfq import pipeline
from onnxfq.errors import VerificationError
from onnxfq.providers import ProviderName
from onnxfq.quantization.expected import Expected
from onnxfq.quantization.verify import verify
from onnxfq.scheme import Activations, Scheme
from onnxfq.session import Session
from support import models
from support.models import K, N, grid, model

BODY = "a = MatMul (x, w)  b = MatMul (x, w)  c = MatMul (x, v)  y = Sum (a, b, c)"


@dataclass(frozen=True, slots=True)
class Written:
    """A quantized file and what it must hold."""

    path: Path
    meant: list[Expected]

    def verify(self) -> int:
        return verify(self.path, self.meant, "cpu")

    def edit(self, change: Callable[[onnx.ModelProto], None]) -> None:
        proto = onnx.load(self.path)
        change(proto)
        self.path.write_bytes(proto.SerializeToString())


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    path = models.write(model(BODY, w=grid(seed=1), v=grid(seed=2)), tmp_path / "in.onnx")
    return quantized(path, monkeypatch)


def quantized(path: Path, monkeypatch: pytest.MonkeyPatch, scheme: Scheme = models.EXACT) -> Written:
    output, seen = path.with_name("out.onnx"), list[Expected]()

    def spy(staged: Path, meant: Iterable[Expected], provider: ProviderName) -> int:
        seen.extend(meant)
        return verify(staged, seen, provider)

    monkeypatch.setattr(pipeline, "verify", spy)
    models.quantized_by_rtn(path, output, scheme=scheme)
    return Written(output, seen)


def initializer(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in proto.graph.initializer if t.name == name)


def drop(proto: onnx.ModelProto, output: str) -> None:
    """Put a constant in the place of a quantized node."""
    node = next(n for n in proto.graph.node if n.output[0] == output)
    node.CopyFrom(models.constant(np.zeros((1, N), np.float32), output))


def test_what_was_written_is_accepted(written: Written) -> None:
    assert written.verify() == 1
    assert [m.node for m in written.meant] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["w_Q4", "w_scales", "w_zero_points", "v_Q4", "v_scales", "v_zero_points"])
@pytest.mark.parametrize("place", [0.0, 0.37, 0.9999])
def test_any_flipped_bit_of_the_tensors(written: Written, name: str, place: float) -> None:
    def flip(proto: onnx.ModelProto) -> None:
        tensor = initializer(proto, name)
        raw = bytearray(tensor.raw_data)
        raw[int(place * len(raw))] ^= 1
        tensor.raw_data = bytes(raw)

    written.edit(flip)
    with pytest.raises(VerificationError, match="decodes to other codes, scales or zero points"):
        written.verify()


@pytest.mark.parametrize("attribute", ["K", "N", "bits", "block_size", "accuracy_level"])
@pytest.mark.parametrize("node", ["a", "b", "c"])
def test_other_attributes(written: Written, node: str, attribute: str) -> None:
    def change(proto: onnx.ModelProto) -> None:
        found = next(n for n in proto.graph.node if n.output[0] == node)
        next(a for a in found.attribute if a.name == attribute).i *= 2
        next(a for a in found.attribute if a.name == attribute).i += 1

    written.edit(change)
    with pytest.raises(VerificationError, match=f"'{node}' in .* has other attributes than meant"):
        written.verify()


@pytest.mark.parametrize("node", ["a", "b", "c"])
def test_a_missing_node(written: Written, node: str) -> None:
    written.edit(lambda proto: drop(proto, node))
    with pytest.raises(VerificationError, match="nodes that read"):
        written.verify()


def test_all_nodes_missing(written: Written) -> None:
    written.edit(lambda proto: drop(proto, "a"))
    written.edit(lambda proto: drop(proto, "b"))
    with pytest.raises(VerificationError, match="has 0 nodes that read 'w_Q4', wanted 2: 'a', 'b'"):
        written.verify()


@pytest.mark.parametrize("index", [2, 3])
def test_nodes_that_share_codes_but_not_the_rest(written: Written, index: int) -> None:
    def change(proto: onnx.ModelProto) -> None:
        node = next(n for n in proto.graph.node if n.output[0] == "b")
        node.input[index] = node.input[index].replace("w_", "v_")

    written.edit(change)
    with pytest.raises(VerificationError, match=r"'b' and 'a' .* share codes, but not scales and zero points"):
        written.verify()


def test_codes_that_are_no_constant(written: Written) -> None:
    def change(proto: onnx.ModelProto) -> None:
        codes = initializer(proto, "v_Q4")
        proto.graph.input.append(onnx.helper.make_tensor_value_info("v_Q4", codes.data_type, codes.dims))
        proto.graph.initializer.remove(codes)

    written.edit(change)
    with pytest.raises(VerificationError, match="'c' cannot be read back"):
        written.verify()


@pytest.mark.parametrize("name", ["v_Q4", "v_scales", "v_zero_points"])
def test_tensors_of_other_shapes(written: Written, name: str) -> None:
    def change(proto: onnx.ModelProto) -> None:
        tensor = initializer(proto, name)
        tensor.CopyFrom(models.tensor(onnx.numpy_helper.to_array(tensor)[: N // 2], name))

    written.edit(change)
    with pytest.raises(VerificationError, match="other shapes or types"):
        written.verify()


def test_zero_points_left_out(written: Written) -> None:
    def change(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            if node.op_type == "MatMulNBits":
                del node.input[3]

    written.edit(change)
    with pytest.raises(VerificationError, match="other shapes or types"):
        written.verify()


def test_a_file_cut_short(written: Written) -> None:
    written.path.write_bytes(written.path.read_bytes()[:-20])
    with pytest.raises(VerificationError, match="cannot be read back"):
        written.verify()


def test_data_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model("y = MatMul (x, w)", x="float[M, 128] x", y="float[M, 64] y", w=grid(128, 64))
    written = quantized(models.write_external(proto, tmp_path / "in.onnx"), monkeypatch)
    data = tmp_path / "out.onnx.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(VerificationError, match="cut short"):
        written.verify()
    data.write_bytes(bytes([whole[0] ^ 16]) + whole[1:])
    with pytest.raises(VerificationError, match="decodes to other"):
        written.verify()


def test_a_kernel_that_computes_something_else(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Session, feed: Mapping[str, models.Array]) -> dict[str, models.Array]:
        return {"Y": feed["A"][:, :N]}

    monkeypatch.setattr(Session, "run", wrong)
    with pytest.raises(VerificationError, match="computes something else than its codes say"):
        written.verify()


@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize("magnitude", [1e-42, 1e-38, 1e-30, 1e-6, 1e6, 1e30, 1e37])
def test_weights_of_any_magnitude(
    activations: Activations, magnitude: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the weights' own size is extreme, so no honest kernel may be accused."""
    w = (np.random.default_rng(0).standard_normal((K, N)) * magnitude).astype(np.float32)
    path = models.write(model("y = MatMul (x, w)", w=w), tmp_path / "in.onnx")
    assert quantized(path, monkeypatch, Scheme(activations=activations)).verify() == 1


@pytest.mark.parametrize("magnitude", [1e-7, 1e-4, 1.0, 1e4])
def test_float16_weights_of_any_magnitude(magnitude: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = (np.random.default_rng(0).standard_normal((512, N)) * magnitude).astype(np.float16)
    proto = model("y = MatMul (x, w)", x="float16[M, 512] x", y="float16[M, 32] y", w=w)
    assert quantized(models.write(proto, tmp_path / "in.onnx"), monkeypatch).verify() == 1


def test_a_weight_of_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = models.write(model("y = MatMul (x, w)", w=np.zeros((K, N), np.float32)), tmp_path / "in.onnx")
    assert quantized(path, monkeypatch).verify() == 1
