"""Every model of the zoo through `quantize`, without data and with its own, beside ONNX Runtime's quantize_dynamic.

    python tools/make_zoo.py ZOO
    python -m benchmarks.zoo ZOO --out benchmarks/results/architectures.json

The default settings. Errors are relative MSEs of a model's first floating output, on inputs that calibration did not
see: what `--calib self` would make with another seed. Speed is that of the first of these inputs, original and
quantized file in turns. A failure is a row's figure like any other.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import onnxfq
from benchmarks.machine import write
from benchmarks.zoo_inputs import write_unseen
from onnxfq.benchmarking.latency import compare_speed
from onnxfq.session import Session

SAMPLES, TOKENS, UNSEEN = 64, 32, 64
FAILURE = 160  # characters
_FOLDERS = re.compile(r"(?<![\w.])/\S*/")


def models(zoo: Path) -> list[Path]:
    """All files, one folder after the other."""
    return sorted(path for path in zoo.glob("*/*.onnx"))


def name_of(model: Path) -> str:
    """As the table calls it: the folder, and the file where that is not alone in it."""
    return model.parent.name if model.stem == "model" else f"{model.parent.name}, {model.stem}"


def main_error(out: Path, model: Path, data: Path) -> float | None:
    """Relative MSE of the first floating output that was compared; None where none was."""
    found = onnxfq.evaluate(out, model, task="outputs", data=data, provider="cpu")
    return next((o.relative_mse for o in found.outputs if o.is_float and o.relative_mse is not None), None)


def speed(out: Path, model: Path, data: Path, seconds: float) -> dict[str, Any]:
    """How many times as fast as the original, with the interval's ends and the clock."""
    with np.load(min(data.glob("*.npz"))) as arrays:
        feed = dict(arrays)
    (found,) = compare_speed(
        Session(model, provider="cpu"), Session(out, provider="cpu"), {"first": feed}, seconds=seconds
    )
    return {"ratio": found.speedup, "low": found.low, "high": found.high, "clock": found.clock}


def measure(model: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """One row."""
    data: dict[str, Any] = attempt(
        lambda: {"inputs": write_unseen(model, folder / "unseen", samples=UNSEEN, seq_len=TOKENS)}
    )
    unseen = data.pop("inputs", None)
    row: dict[str, Any] = {"model": name_of(model), **data}
    row["without_data"] = attempt(lambda: ours(model, folder / "free.onnx", unseen, seconds))
    row["calibrated"] = attempt(lambda: ours(model, folder / "self.onnx", unseen, None, calib="self"))
    row["dynamic"] = attempt(lambda: dynamic(model, folder / "dynamic.onnx", unseen, seconds))
    return row


def ours(model: Path, out: Path, unseen: Path | None, seconds: float | None, **changes: Any) -> dict[str, Any]:
    """What our file is like."""
    report = onnxfq.quantize(
        model, out, provider="cpu", samples=SAMPLES, seq_len=TOKENS, validate=bool(changes), **changes
    )
    skips = Counter(skip.op_type for skip in report.skipped)
    figures = {"targets": len(report.targets), "skips": dict(skips), "size_ratio": round(report.size.ratio, 4)}
    return figures | judged(out, model, unseen, seconds)


def dynamic(model: Path, out: Path, unseen: Path | None, seconds: float) -> dict[str, Any]:
    """What the file of ONNX Runtime's quantize_dynamic is like, with its default settings."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(model), str(out))
    size = sum(file.stat().st_size for file in out.parent.glob(f"{out.name}*"))
    source = sum(file.stat().st_size for file in model.parent.glob(f"{model.name}*"))
    return {"size_ratio": round(size / source, 4)} | judged(out, model, unseen, seconds)


def judged(out: Path, model: Path, unseen: Path | None, seconds: float | None) -> dict[str, Any]:
    """Error and, where seconds are given, speed; or why they could not be measured."""
    if unseen is None:
        return {}

    def judge() -> dict[str, Any]:
        found: dict[str, Any] = {"error": main_error(out, model, unseen)}
        return found if seconds is None else found | {"speed": speed(out, model, unseen, seconds)}

    return {"not_judged" if name == "failure" else name: value for name, value in attempt(judge).items()}


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What some work gives, or why it failed."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - other tools raise everything
        said = _FOLDERS.sub("", " ".join(str(error).split()))
        return {"failure": f"{type(error).__name__}: {said}"[:FAILURE]}


def main() -> None:
    """Measure every model, in a folder of its own that is gone afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, for each file")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="folders")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for model in models(arguments.zoo):
        if arguments.only and model.parent.name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(model, Path(folder), arguments.seconds))
        print(rows[-1], flush=True)
    write(arguments.out, {"samples": SAMPLES, "tokens": TOKENS, "unseen": UNSEEN, "rows": rows})


if __name__ == "__main__":
    main()
