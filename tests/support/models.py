"""Small models, weights that four bits hold exactly, and ONNX Runtime as the judge of what was written."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import onnxruntime

from onnxfq.graph import Graph, TensorFile, save
from onnxfq.pipeline import quantize
from onnxfq.reports.report import Report
from onnxfq.scheme import Scheme

Array = npt.NDArray[Any]

K, N, M = 64, 32, 3
EXACT = Scheme(activations="float")  # 4 bits, blocks of 32, asymmetric, nothing rounded but the weights
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_NUMPY: dict[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
}
_NUMPY |= {"tensor(bool)": np.bool_, "tensor(double)": np.float64, "tensor(int32)": np.int32}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of quantizing a model that was found to compute the same as before."""

    report: Report
    source: Path
    output: Path
    model: onnx.ModelProto

    @property
    def op_types(self) -> list[str]:
        """Operators of the main graph."""
        return [node.op_type for node in self.model.graph.node]

    @property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        """Initializers of the main graph."""
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    def nodes(self, op_type: str) -> list[onnx.NodeProto]:
        """Nodes of the main graph with an operator."""
        return [node for node in self.model.graph.node if node.op_type == op_type]


def grid(k: int = K, n: int = N, *, seed: int = 0, step: float = 2.0**-4) -> Array:
    """A weight [K, N] that lies on an asymmetric 4-bit grid, every block of which is used from end to end."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (n, k))
    codes[:, 0::32], codes[:, 1::32] = 0, 15
    zero_points = rng.integers(0, 16, (n, -(-k // 32))).repeat(32, axis=1)[:, :k]
    return np.ascontiguousarray(((codes - zero_points) * step).astype(np.float32).T)


def model(
    body: str,
    *,
    x: str = "float[M, 64] x",
    y: str = "float[M, 32] y",
    opset: int = 17,
    ir: int = 8,
    domains: str = "",
    functions: str = "",
    constants: Mapping[str, Array] | None = None,
    **more: Array,
) -> onnx.ModelProto:
    """A model `x → y` in onnx's textual syntax, with arrays as initializers."""
    imports = f'["" : {opset}{domains}]'
    parsed = onnx.parser.parse_model(
        f"<ir_version: {ir}, opset_import: {imports}>\nmain ({x}) => ({y}) {{ {body} }}\n{functions}"
    )
    for name, array in {**(constants or {}), **more}.items():
        parsed.graph.initializer.append(tensor(array, name))
    return parsed


def normal(*shape: int) -> Array:
    """Standard normal float32 of a shape, always the same."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def whole(*numbers: int) -> Array:
    """Numbers as int64, such as a shape."""
    return np.array(numbers, np.int64)


def tensor(array: Array, name: str) -> onnx.TensorProto:
    """A TensorProto with raw_data."""
    return onnx.numpy_helper.from_array(array, name)


def typed(array: Array, name: str) -> onnx.TensorProto:
    """A TensorProto whose values stand in float_data, int32_data, …, not in raw_data."""
    number = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    values = array.ravel()
    if array.dtype.itemsize == 2:
        proto = onnx.TensorProto(name=name, data_type=number, dims=array.shape)
        proto.int32_data.extend(int(v) for v in values.view(np.uint16))
        return proto
    return onnx.helper.make_tensor(name, number, array.shape, values.tolist())


def constant(array: Array, name: str) -> onnx.NodeProto:
    """A Constant node."""
    return onnx.helper.make_node("Constant", [], [name], value=tensor(array, name))


def branch(node: onnx.NodeProto, name: str) -> onnx.GraphProto:
    """The subgraph in an attribute of a node."""
    return next(attribute.g for attribute in node.attribute if attribute.name == name)


def find(nodes: Iterable[onnx.NodeProto], op_type: str) -> onnx.NodeProto:
    """The first node with an operator."""
    found: onnx.NodeProto = next(node for node in nodes if node.op_type == op_type)
    return found


def write(proto: onnx.ModelProto, path: Path) -> Path:
    """Write a model as it is."""
    path.write_bytes(proto.SerializeToString())
    return path


def write_external(proto: onnx.ModelProto, path: Path, *, files: int = 1, padding: int = 0) -> Path:
    """Write a model with its floating initializers as external data, in turn in one of several files.

    Shapes and axes stay: ONNX Runtime does not take those from other files.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    chunks: list[bytearray] = [bytearray(padding) for _ in range(files)]
    for index, item in enumerate(copy.graph.initializer):
        if item.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
            continue
        chunk, data = chunks[index % files], onnx.numpy_helper.to_array(item).tobytes()
        refer(item, f"{path.stem}.{index % files}.bin", len(chunk), len(data))
        chunk += data + bytes(padding)
    for index, chunk in enumerate(chunks):
        path.with_name(f"{path.stem}.{index}.bin").write_bytes(chunk)
    return write(copy, path)


def refer(item: onnx.TensorProto, location: str, offset: int | str | None, length: int | str | None) -> None:
    """Make a tensor external."""
    kept = onnx.TensorProto(name=item.name, data_type=item.data_type, dims=item.dims)
    kept.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            kept.external_data.add(key=key, value=str(value))
    item.CopyFrom(kept)


def quantized_by_rtn(path: Path, output: Path | None = None, **changes: Any) -> Report:
    """Quantize with the settings under which nothing but the weights is rounded."""
    settings: dict[str, Any] = {"algorithm": "rtn", "provider": "cpu", "validate": False, "scheme": EXACT} | changes
    return quantize(path, output or path.with_name("out.onnx"), **settings)


def proven(
    proto: onnx.ModelProto | Path,
    folder: Path,
    *,
    targets: int = 1,
    feed: Mapping[str, Array] | None = None,
    tolerance: float = 1e-5,
    **changes: Any,
) -> Outcome:
    """Quantize, and assert that the output is valid and computes what the original does.

    Args:
        proto: the model, or the file it is in.
        folder: where to work.
        targets: how many nodes must have been quantized.
        feed: inputs; what is missing is generated.
        tolerance: largest difference relative to the largest value.
        **changes: options of `quantize`.
    """
    source = proto if isinstance(proto, Path) else write(proto, folder / "in.onnx")
    output = folder / "out.onnx"
    report = quantized_by_rtn(source, output, **changes)
    assert len(report.targets) == targets, [(s.name, s.reason) for s in report.skipped]
    named = {target.name.split("[")[0] for target in report.targets} | {skip.name for skip in report.skipped}
    assert {node.name or node.output[0] for node in products(onnx.load(source))} <= named, "left out of the report"
    onnx.checker.check_model(str(output))
    compare(source, output, feed, tolerance)
    assert_stable(output)
    return Outcome(report, source, output, onnx.load(output))


def products(message: onnx.ModelProto | onnx.FunctionProto | onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every MatMul, Gemm and Einsum of two operands of a model, wherever it stands."""
    if isinstance(message, onnx.ModelProto):
        for part in (message.graph, *message.functions):
            yield from products(part)
        return
    for node in message.node:
        if node.op_type in ("MatMul", "Gemm", "Einsum") and not node.domain and len(node.input) > 1:
            yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from products(attribute.g)


def assert_stable(output: Path) -> None:
    """Assert that a file which is read and written again without a change has the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder, output.name)
        with TensorFile(again.with_suffix(".tensor_file")) as tensor_file:
            files = save(Graph.load(output), again, tensor_file)
        assert [file.read_bytes() for file in files] == [output.with_name(file.name).read_bytes() for file in files]


def compare(source: Path, output: Path, feed: Mapping[str, Array] | None = None, tolerance: float = 1e-5) -> None:
    """Assert that two files compute the same."""
    inputs = feeds(source, feed or {})
    before, after = run(source, inputs), run(output, inputs)
    assert list(before) == list(after)
    for name, wanted in before.items():
        got = after[name]
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        scale = float(np.abs(wanted.astype(np.float64)).max(initial=0.0)) or 1.0
        error = float(np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0))
        assert error <= tolerance * scale, f"{name}: off by {error / scale:.3g}"


def feeds(path: Path, given: Mapping[str, Array]) -> dict[str, Array]:
    """Random inputs for a model; dimensions without a number are `M`."""
    rng = np.random.default_rng(1)
    feed = {}
    for spec in session(path).get_inputs():
        shape = [size if isinstance(size, int) else M for size in spec.shape]
        feed[spec.name] = given.get(spec.name, rng.standard_normal(shape).astype(_NUMPY[spec.type]))
    return feed


def run(path: Path, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Run a file in ONNX Runtime with its default options."""
    loaded = session(path)
    names = [output.name for output in loaded.get_outputs()]
    return dict(zip(names, loaded.run(names, dict(feed)), strict=True))


def session(path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def reasons(report: Report) -> dict[str, str]:
    """Why each node was left alone, by name."""
    return {skip.name: skip.reason for skip in report.skipped}


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}
