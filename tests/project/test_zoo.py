"""Small exports of many architectures (`tools/make_zoo.py`), each through all commands, in float32 and in float16."""

from __future__ import annotations

import fcntl
import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxfq
from benchmarks.zoo import main_error
from benchmarks.zoo_inputs import write_unseen
from onnxfq import ModelError, Report
from onnxfq.arrays import Array
from tools.zoo.architectures import ARCHITECTURES
from tools.zoo.table import REAL, WITHOUT_TARGETS, ZOO

ROOT = Path(__file__).resolve().parents[2]
SAMPLES, TOKENS, UNSEEN = 32, 32, 16
ONE_ROW = {"classifier": 128}  # samples of models of which one is one row
CRASHING_IN_HALF = ("lstm", "gru")  # ONNX Runtime 1.31, when it loads recurrent layers beside float16
NOISE = 1.1  # by which calibration may seem worse than none on so few inputs
HALVED = ("albert", "clip", "qwen2-moe", "vit", "wav2vec2")  # and T5's merged decoder
DYNAMO = {name for name, row in ARCHITECTURES.items() if row.dynamo}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models, built once for all workers."""
    given = os.environ.get("ONNXFQ_ZOO")
    if given:
        return Path(given)
    for module in ("optimum.exporters.onnx", "torch"):
        pytest.importorskip(module, reason="pip install 'onnxfq[zoo]'")
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "zoo"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        names = [name for name in ZOO if name not in DYNAMO or importlib.util.find_spec("onnxscript")]
        command = [sys.executable, "tools/make_zoo.py", str(folder), *names]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def models(zoo: Path, name: str) -> list[Path]:
    found = sorted((zoo / name).glob("*.onnx"))
    if not found and name in DYNAMO:
        pytest.skip("pip install 'onnxfq[zoo]' brings onnxscript, which torch's new exporter needs")
    assert found
    return found


def quantize(model: Path, out: Path, calib: str | None = None, samples: int = SAMPLES) -> Report:
    """Quantize, and hold the report against what `inspect` had foreseen and against the file."""
    report = onnxfq.quantize(model, out, provider="cpu", calib=calib, samples=samples, seq_len=TOKENS)
    assert report.targets
    assert out.exists()
    foreseen = onnxfq.inspect(model, provider="cpu")
    assert {t.name for t in foreseen.targets} == {t.name for t in report.targets}
    assert foreseen.size.output_bytes == pytest.approx(report.size.output_bytes, rel=0.05)
    assert 0 < report.size.coverage <= 1
    assert report.size.bits_per_weight < 16
    ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    return report


def problems_of(model: Path, folder: Path, *, halved: bool) -> Iterator[str]:
    """What goes wrong with one file, one step after the other: a step that fails does not hide the next one."""
    plain, calibrated = folder / "plain.onnx", folder / "calibrated.onnx"
    rows = ONE_ROW.get(model.parent.name, 0)
    for out, calib in ((plain, None), (calibrated, "self")):
        try:
            report = quantize(model, out, calib, rows or SAMPLES)
        except Exception as error:  # noqa: BLE001 - all are told together
            yield f"quantize, calib={calib}: {type(error).__name__}: {error}"
            continue
        if calib is None and any(note.startswith("NOT COMPARED") for note in report.warnings):
            yield f"not compared: {report.warnings}"
        if calib is not None and not (report.calibration or any("DID NOT HELP" in note for note in report.warnings)):
            yield f"neither calibrated nor told why not: {report.warnings}"
    try:
        unseen = write_unseen(model, folder / "unseen", samples=rows or UNSEEN, seq_len=TOKENS)
        assert unseen is not None
        errors = {path.stem: main_error(path, model, unseen) for path in (plain, calibrated) if path.exists()}
    except Exception as error:  # noqa: BLE001
        yield f"evaluate: {type(error).__name__}: {error}"
        return
    yield from _wrong_errors(errors, halved=halved)


def _wrong_errors(errors: dict[str, float | None], *, halved: bool) -> Iterator[str]:
    if any(error is None or not math.isfinite(error) for error in errors.values()):
        yield f"no finite error: {errors}"
        return
    plain, calibrated = errors.get("plain"), errors.get("calibrated")
    if plain is None or calibrated is None:
        return
    if not plain > 0:
        yield f"nothing was measured: {errors}"
    if calibrated > NOISE * plain:
        yield f"calibration makes it worse on unseen inputs: {plain:.4g} -> {calibrated:.4g}"
    elif halved and calibrated > plain / 2:
        yield f"calibration does not halve the error on unseen inputs: {plain:.4g} -> {calibrated:.4g}"


@pytest.mark.parametrize("name", [name for name in ZOO if name not in WITHOUT_TARGETS])
def test_goes_through(name: str, zoo: Path, tmp_path: Path) -> None:
    problems: list[str] = []
    for model in models(zoo, name):
        (tmp_path / model.stem).mkdir()
        halved = name in HALVED or (name, model.stem) == ("t5", "decoder_model_merged")
        found = problems_of(model, tmp_path / model.stem, halved=halved)
        problems += [f"{name}/{model.name}: {' '.join(problem.split())[:400]}" for problem in found]
    assert problems == [], "\n".join(problems)


@pytest.mark.parametrize("name", [name for name in ZOO if name not in {*WITHOUT_TARGETS, *CRASHING_IN_HALF}])
def test_goes_through_in_float16(name: str, zoo: Path, tmp_path: Path) -> None:
    """Without data: what the original's float16 costs is no business of ours, so that outputs are held against it."""
    for model in models(zoo, name):
        half = tmp_path / model.name
        if not write_half(model, half):
            continue
        out = tmp_path / "out.onnx"
        quantize(half, out)
        unseen = write_unseen(half, tmp_path / f"{model.stem}-unseen", samples=2, seq_len=TOKENS)
        assert unseen is not None
        error = main_error(out, half, unseen)
        assert error is not None
        assert 0 < error < math.inf
        out.unlink()


def write_half(model: Path, half: Path) -> bool:
    """Let weights and computing be float16; whether the CPU runs that, as it does all but branches."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted = OnnxModel(convert_float_to_float16(onnx.load(str(model)), keep_io_types=True))
    if any(node.op_type == "If" for node in converted.model.graph.node):
        return False  # the converter leaves branches half converted
    converted.topological_sort()
    onnx.save(converted.model, str(half))
    for path in model.parent.glob("*.json"):  # they know sizes
        shutil.copyfile(path, half.with_name(path.name))
    ort.InferenceSession(str(half), providers=["CPUExecutionProvider"])
    return True


@pytest.mark.parametrize("name", WITHOUT_TARGETS)
def test_what_has_no_target_says_what_holds_its_bytes(name: str, zoo: Path, tmp_path: Path) -> None:
    (model,) = models(zoo, name)
    with pytest.raises(ModelError, match=r"Nothing to quantize in .*stays in float .*; 99 % of its bytes are Conv"):
        onnxfq.quantize(model, tmp_path / "out.onnx", provider="cpu", others="float")
    assert list(tmp_path.iterdir()) == []
    report = onnxfq.quantize(model, tmp_path / "out.onnx", provider="cpu")
    assert {target.operator for target in report.targets} == {"Conv"}
    assert report.size.ratio < 0.3
    assert max(output.relative_mse or 0 for output in report.outputs) < 0.005


@pytest.mark.parametrize("name", ZOO)
def test_outputs_depend_on_the_inputs(name: str, zoo: Path, tmp_path: Path) -> None:
    """Of a model that says the same to everything no error could be measured."""
    for model in models(zoo, name):
        unseen = write_unseen(model, tmp_path / model.stem, samples=2, seq_len=TOKENS)
        if unseen is None:
            continue
        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        first, second = (_first_values(session, path) for path in sorted(unseen.iterdir()))
        assert abs(first - second).max() > 0.01 * abs(first).max()


def _first_values(session: ort.InferenceSession, path: Path) -> Array:
    """Of the first floating output."""
    with np.load(path) as feed:
        outputs = session.run(None, dict(feed))
    first = next(output for output in outputs if output.dtype.kind == "f")
    values: Array = np.asarray(first, np.float64).ravel()[:4]
    return values


@pytest.mark.parametrize("name", REAL)
def test_real_files_go_through(name: str, tmp_path: Path) -> None:
    """Without data; a file without targets says what holds its bytes, or that it is quantized already."""
    try:
        REAL[name](tmp_path / name)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    for model in sorted((tmp_path / name).glob("*.onnx")):
        if any(skip.quantized for skip in onnxfq.inspect(model).skipped):
            continue
        try:
            quantize(model, tmp_path / "out.onnx")
        except ModelError as error:
            assert re.search(r"Nothing to quantize in .* of its bytes are", str(error)), error  # noqa: PT017
