"""Quantizers of other projects that calibrate, or that want an environment of their own.

Their requirements contradict each other and onnxfq's, so each lives in a virtual environment of its own, all of them in
one folder, which the environment variable ONNXFQ_RIVALS names (versions: those the results were measured with):

    python -m venv RIVALS/rivals-ort
    RIVALS/rivals-ort/bin/pip install torch==2.13.0                 # the CPU build does; its GPTQ imports it
    RIVALS/rivals-ort/bin/pip install onnxruntime-gpu==1.31.1 onnx==1.23.2 onnx-ir==1.1.0

    python -m venv RIVALS/rivals-modelopt
    RIVALS/rivals-modelopt/bin/pip install torch==2.13.0            # the CPU build does
    RIVALS/rivals-modelopt/bin/pip install "nvidia-modelopt[onnx]==0.47.0"

    python -m venv RIVALS/rivals-nncf
    RIVALS/rivals-nncf/bin/pip install torch==2.13.0                # the CPU build does
    RIVALS/rivals-nncf/bin/pip install nncf==3.4.0 onnx==1.23.2 onnxruntime==1.31.1

`benchmarks.tools` runs each of them there, with this repository's root as working directory: this module and
`benchmarks.calibration` need only numpy to be imported.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.calibration import Sample, read_samples

if TYPE_CHECKING:
    import onnx

Run = Callable[[Path, Path, int, Path | None], None]

INT4_OPSET = 21  # the first with 4-bit tensors


def onnxruntime_gptq(*, symmetric: bool) -> Run:
    """ONNX Runtime's GPTQ with its default settings but for the block size."""

    def run(model: Path, out: Path, block_size: int, calib: Path | None) -> None:
        import onnx
        from onnxruntime.quantization import matmul_nbits_quantizer as ort
        from onnxruntime.quantization.calibrate import CalibrationDataReader

        class Reader(_Reader, CalibrationDataReader):  # type: ignore[misc]
            pass

        quantizer = ort.MatMulNBitsQuantizer(
            onnx.load(str(model)), block_size=block_size, is_symmetric=symmetric,
            algo_config=ort.GPTQWeightOnlyQuantConfig(calibration_data_reader=Reader(_samples(calib))),
        )  # fmt: skip
        quantizer.process()
        quantizer.model.save_model_to_file(str(out), False)

    return run


def modelopt(method: str, *, zero_points: bool) -> Run:
    """NVIDIA ModelOpt's 4-bit quantizer with its default settings, but no layer is left out."""

    def run(model: Path, out: Path, block_size: int, calib: Path | None) -> None:
        import onnx
        from modelopt.onnx.quantization import int4

        if not int4.has_cupy:
            int4.np = _numpy_for_modelopt()
        quantized = int4.quantize(
            _load(model), calibration_method=method, calibration_data_reader=_Reader(_samples(calib)),
            calibration_eps=["cpu"], use_external_data_format=False, use_zero_point=zero_points,
            block_size=block_size, nodes_to_exclude=[],
        )  # fmt: skip
        onnx.save(quantized, str(out))

    return run


def nncf(*, calibrated: bool) -> Run:
    """NNCF's asymmetric 4 bits in every MatMul, head included, and in no embedding.

    Calibrated, it does AWQ and scale estimation.
    """

    def run(model: Path, out: Path, block_size: int, calib: Path | None) -> None:
        import nncf as tool
        import onnx

        samples = _samples(calib) if calibrated else []
        data = {"dataset": tool.Dataset(samples), "subset_size": len(samples), "awq": True, "scale_estimation": True}
        quantized = tool.compress_weights(
            _load(model), mode=tool.CompressWeightsMode.INT4_ASYM, ratio=1.0, group_size=block_size,
            all_layers=True, ignored_scope=tool.IgnoredScope(types=["Gather"], validate=False),
            **(data if calibrated else {}),
        )  # fmt: skip
        onnx.save(quantized, str(out))

    return run


def _load(model: Path) -> onnx.ModelProto:
    """The model in an opset with 4-bit tensors: from an older one ModelOpt and NNCF write files that do not load."""
    import onnx
    from onnx import version_converter

    return version_converter.convert_version(onnx.load(str(model)), INT4_OPSET)


class _Reader:
    """Samples one by one, then None: what ONNX Runtime and those after it call a calibration data reader."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples
        self.rewind()

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def get_next(self) -> Sample | None:
        return next(self._left, None)

    def get_first(self) -> Sample:
        return self._samples[0]

    def rewind(self) -> None:
        self._left = iter(self._samples)


def _samples(calib: Path | None) -> list[Sample]:
    if calib is None:
        raise ValueError("This tool calibrates: name a folder that benchmarks.calibration wrote with --calib.")
    return read_samples(calib)


class _Array(np.ndarray[Any, Any]):
    """A numpy array with the one method of a CuPy array that ModelOpt 0.47 calls without looking which it has."""

    def get(self) -> np.ndarray[Any, Any]:
        return self.view(np.ndarray)


def _numpy_for_modelopt() -> types.ModuleType:
    """Numpy with two functions changed, for ModelOpt's use alone, where it otherwise fails.

    Without CuPy `awq_lite` fails at its end on models where it can fold a scale into the node before: `asarray` makes
    arrays that pass for CuPy's. Samples of different lengths cannot be joined: `concatenate` joins them token by token,
    which is the form that ModelOpt brings them to in its next step.
    """
    module = types.ModuleType("numpy_for_modelopt")
    vars(module).update(vars(np))
    vars(module)["asarray"] = lambda *args, **kwargs: np.asarray(*args, **kwargs).view(_Array)
    vars(module)["concatenate"] = _concatenate
    return module


def _concatenate(arrays: Sequence[np.ndarray[Any, Any]], axis: int = 0) -> np.ndarray[Any, Any]:
    if axis == 0:
        arrays = [array.reshape(-1, array.shape[-1]) for array in arrays]
    return np.concatenate(arrays, axis=axis)
