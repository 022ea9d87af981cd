"""Sessions against ONNX Runtime itself; CUDA by stand-ins, and for real where there is a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from onnxfq import session as module
from onnxfq.errors import DataError, ModelError, ProviderError
from onnxfq.session import Session, available_providers, resolve_provider, runtime_version
from onnxfq.signature import TensorSpec

BuildModel = Callable[..., bytes]
Pretend = Callable[..., None]

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
DOUBLE = (
    HEADER + "g (float[rows, 3] x, int64[rows] i) => (float[rows, 3] y, int64[rows] j) { y = Add(x, x)  j = Neg(i) }"
)


@pytest.fixture
def doubling(build_model: BuildModel) -> Session:
    return Session(build_model(DOUBLE))


@pytest.fixture
def feed() -> dict[str, np.ndarray]:
    return {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "i": np.array([1, 2])}


class FakeSession:
    def __init__(self, providers: list[str], error: Exception | None = None) -> None:
        self.providers, self.error = providers, error

    def get_providers(self) -> list[str]:
        return self.providers

    def run(self, *_: object) -> None:
        if self.error:
            raise self.error


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Put an ONNX Runtime in place that claims CUDA, whatever it then does."""
    module._failures()
    real = module._runtime()

    def install(session: FakeSession, *, built: bool = True, printed: str = "") -> None:
        fake = SimpleNamespace(
            SessionOptions=real.SessionOptions,
            InferenceSession=lambda *_, **__: session,
            get_available_providers=lambda: ["CUDAExecutionProvider"] if built else [],
            preload_dlls=lambda: print(printed),
        )
        monkeypatch.setattr(module, "_runtime", lambda: fake)

    return install


def test_the_probe_is_a_valid_model_of_one_relu() -> None:
    model = onnx.load_from_string(module._PROBE)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Relu"]


def test_cpu_and_auto_resolve() -> None:
    assert resolve_provider("cpu") == "cpu"
    assert resolve_provider("auto") == available_providers()[-1]
    assert "cpu" in available_providers()


def test_unknown_provider_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ProviderError, match=r"Unknown provider \(got provider='tpu'\)\. Use auto, cpu, cuda\."):
        resolve_provider("tpu")


def test_explicit_cuda_without_cuda_is_an_error_that_names_cause_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_why_unusable", {"cpu": "", "cuda": "libcublas is missing"}.get)
    with pytest.raises(
        ProviderError, match=r"CUDA cannot be used here: libcublas is missing\. Install .*onnxfq\[cuda\]"
    ):
        resolve_provider("cuda")
    with pytest.raises(ProviderError, match='use `provider="cpu"`'):
        Session(module._PROBE, provider="cuda")
    assert available_providers() == ("cpu",)


def test_auto_takes_cuda_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_why_unusable", lambda _: "")
    assert resolve_provider("auto") == "cuda"
    assert resolve_provider("cuda") == "cuda"


def test_cuda_that_onnxruntime_silently_replaces_is_noticed(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(FakeSession(["CPUExecutionProvider"]))
    monkeypatch.setattr(module, "_why_unusable", lambda _: "")
    with pytest.raises(ProviderError, match=r"without CUDA \(got CPUExecutionProvider, wanted CUDAExecutionProvider\)"):
        Session(module._PROBE, provider="cuda")


@pytest.mark.parametrize(
    ("session", "options", "reason"),
    [
        (FakeSession([]), {"built": False}, "this ONNX Runtime was built without it"),
        (
            FakeSession([]),
            {"printed": "Failed to load a\nFailed to load b\nSee c"},
            "Failed to load a; Failed to load b",
        ),
        (FakeSession([]), {}, "ONNX Runtime could not start it and gave no reason"),
        (FakeSession(["CUDAExecutionProvider"], RuntimeError("no\ndevice.")), {}, "no device"),
        (FakeSession(["CUDAExecutionProvider"]), {}, ""),
    ],
)
def test_why_cuda_cannot_be_used(session: FakeSession, options: dict[str, Any], reason: str, pretend: Pretend) -> None:
    pretend(session, **options)
    assert module._why_unusable.__wrapped__("cuda") == reason


def test_looking_for_cuda_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    module._why_unusable.__wrapped__("cuda")
    assert capfd.readouterr() == ("", "")


@pytest.mark.cuda
def test_a_model_runs_on_cuda(build_model: BuildModel, feed: dict[str, np.ndarray]) -> None:
    session = Session(build_model(DOUBLE), provider=resolve_provider("cuda"))
    np.testing.assert_array_equal(session.run(feed)["y"], 2 * feed["x"])


def test_version_is_that_of_onnxruntime() -> None:
    assert runtime_version().count(".") >= 2


def test_signature_names_types_as_numpy_does(build_model: BuildModel) -> None:
    text = HEADER + (
        "g (float[n, 3] a, double[2] b, float16[n] c, bfloat16[n] d, bool[n] e, string[n] f, uint8[n] h,"
        " seq(float[n]) k, optional(float[n]) l) => (float[n, 3] y) { y = Identity(a) }"
    )
    specs = Session(build_model(text)).signature().inputs
    assert [spec.dtype for spec in specs] == (
        ["float32", "float64", "float16", "bfloat16", "bool", "string", "uint8", "sequence", "optional"]
    )
    assert specs[0] == TensorSpec("a", "float32", ("n", 3))
    assert specs[-1].shape is None


def test_scalars_and_unknown_ranks_look_alike(build_model: BuildModel) -> None:
    spec = Session(build_model(HEADER + "g (float x) => (float y) { y = Neg(x) }")).signature().inputs[0]
    assert spec == TensorSpec("x", "float32", None)


def test_negative_and_nameless_sizes_are_unknown(build_model: BuildModel) -> None:
    model = onnx.load_from_string(build_model(HEADER + "g (float[n, 3, m] x) => (float[n, 3, m] y) { y = Neg(x) }"))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
        value.type.tensor_type.shape.dim[2].ClearField("dim_param")
    spec = Session(model.SerializeToString()).signature().inputs[0]
    assert spec.shape == (None, 3, None)


def test_run_returns_all_or_the_chosen_outputs(doubling: Session, feed: dict[str, np.ndarray]) -> None:
    outputs = doubling.run(feed)
    np.testing.assert_array_equal(outputs["y"], 2 * feed["x"])
    np.testing.assert_array_equal(outputs["j"], [-1, -2])
    assert list(doubling.run(feed, ["j"])) == ["j"]


def test_outputs_that_are_no_arrays_are_left_out(build_model: BuildModel) -> None:
    session = Session(
        build_model(
            HEADER + "g (float[n] x) => (float[n] y, seq(float[n]) s) { y = Neg(x) s = SequenceConstruct(x, y) }"
        )
    )
    x = np.ones(2, np.float32)
    assert list(session.run({"x": x})) == ["y"]
    with pytest.raises(ModelError, match=r"no such array output \(got s\)\. Its array outputs: y\."):
        session.run({"x": x}, ["s"])


def test_a_feed_that_does_not_fit_is_refused_with_all_offenders(doubling: Session) -> None:
    wrong = {"x": np.zeros((1, 3)), "z": np.zeros(1)}
    with pytest.raises(
        DataError, match=r"i is missing; z is not an input; x is float64, wanted float32\. Its inputs: x, i\."
    ):
        doubling.run(wrong)


def test_a_wrong_shape_is_a_data_error(doubling: Session, feed: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match=r"cannot run on cpu with these data: .*Got: 2 Expected: 3.*`calib=FILE\.npz`"):
        doubling.run({**feed, "x": feed["x"][:, :2]})


def test_a_failing_kernel_is_a_model_error_and_prints_nothing(
    build_model: BuildModel, capfd: pytest.CaptureFixture[str]
) -> None:
    session = Session(build_model(HEADER + "g (float[n] x, int64[m] s) => (float[a, b] y) { y = Reshape(x, s) }"))
    with pytest.raises(ModelError, match=r"the model in memory cannot run on cpu: .*Reshape.*memory suffices"):
        session.run({"x": np.ones(5, np.float32), "s": np.array([2, 3])})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"ONNX Runtime [\d.]+ cannot load .*broken\.onnx on cpu: [^\[]*onnx\.checker"):
        Session(path)
    assert capfd.readouterr() == ("", "")


def test_an_unknown_operator_is_refused(build_model: BuildModel) -> None:
    with pytest.raises(ModelError, match=r"cannot load the model in memory on cpu: .*Nonsense"):
        Session(build_model(HEADER + "g (float[n] x) => (float[n] y) { y = Nonsense(x) }"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no model file .*none\.onnx"):
        Session(tmp_path / "none.onnx")


def test_bfloat16_goes_in_and_comes_out(build_model: BuildModel) -> None:
    text = HEADER + "g (bfloat16[n, 2] x, int64[n] i) => (bfloat16[n, 2] y, int64[n] j) { y = Identity(x) j = Neg(i) }"
    session = Session(build_model(text))
    for rows in (0, 3):
        x = np.arange(2 * rows).reshape(2, rows).T.astype(ml_dtypes.bfloat16)  # not contiguous
        outputs = session.run({"x": x, "i": np.arange(rows)})
        assert outputs["y"].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(outputs["y"], x)
        np.testing.assert_array_equal(outputs["j"], -np.arange(rows))


def test_strings_pass(build_model: BuildModel) -> None:
    session = Session(build_model(HEADER + "g (string[n] x) => (string[n] y) { y = Identity(x) }"))
    assert session.run({"x": np.array(["a", "bc"])})["y"].tolist() == ["a", "bc"]


def test_a_serialised_model_finds_its_external_weights(build_model: BuildModel, tmp_path: Path) -> None:
    model = onnx.load_from_string(build_model(HEADER + "g (float[n, 2] x) => (float[n, 2] y) { y = MatMul(x, w) }"))
    weight = np.array([[1, 2], [3, 4]], np.float32)
    (tmp_path / "weights.data").write_bytes(weight.tobytes())
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[2, 2], data_location=1)
    for key, value in {"location": "weights.data", "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    session = Session(model.SerializeToString(), external_data_folder=tmp_path, threads=1)
    np.testing.assert_array_equal(session.run({"x": np.eye(2, dtype=np.float32)})["y"], weight)


def test_options_reach_onnxruntime(build_model: BuildModel) -> None:
    session = Session(build_model(DOUBLE), threads=1, config={"session.disable_prepacking": "1"})
    options = session._session.get_session_options()
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    assert options.intra_op_num_threads == 1


def test_a_failed_system_call_names_the_place_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Exception during initialization: SystemError : 5")

    monkeypatch.setattr(module._runtime(), "InferenceSession", fail)
    (tmp_path / "m.onnx").write_bytes(b"")
    for model, place in ((tmp_path / "m.onnx", tmp_path / "m.onnx"), (b"", tmp_path)):
        with pytest.raises(ModelError, match=rf"Cannot read '{place}' \(Input/output error\)\. Check .*disk"):
            Session(model, external_data_folder=tmp_path)
