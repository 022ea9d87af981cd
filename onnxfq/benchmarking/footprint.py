"""What a model costs before its first answer: load time and memory, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from onnxfq.errors import ModelError
from onnxfq.feeds import generate
from onnxfq.providers import ProviderName
from onnxfq.session import Session, resolve_provider
from onnxfq.signature import Signature, TensorSpec

_CHILD = "from onnxfq.benchmarking.footprint import main; main()"
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Footprint:
    """One process that loaded a model and ran it once.

    Attributes:
        load_seconds: until the session was ready to run.
        base_bytes: memory at its peak before the model was loaded: Python and ONNX Runtime; None where nothing tells.
        peak_bytes: at its peak in the end, pages of the model's files that were mapped included.
    """

    load_seconds: float
    base_bytes: int | None
    peak_bytes: int | None


def measure_footprint(
    model: Path, signature: Signature, *, batch: int, length: int, provider: ProviderName, threads: int | None
) -> Footprint:
    """Load a model in a new process and run it once on made-up inputs.

    Args:
        model: the file.
        signature: its inputs.
        batch: rows of the run.
        length: tokens of the run.
        provider: where it runs.
        threads: inside an operator; None leaves the choice to ONNX Runtime.

    Raises:
        ModelError: the process did not get to the end, as when memory does not suffice.
    """
    setup = {
        "model": str(model.resolve()),
        "provider": provider,
        "threads": threads,
        "batch": batch,
        "length": length,
    }
    specs = [asdict(spec) for spec in signature.inputs]
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps({**setup, "inputs": specs}),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ModelError(_failure(model, done.returncode, done.stderr))
    return Footprint(**json.loads(done.stdout))


def main() -> None:
    """What the new process does: JSON in, JSON out."""
    setup = json.load(sys.stdin)
    specs = [
        TensorSpec(**{**spec, "shape": _tuple(spec["shape"]), "fitting": tuple(spec["fitting"])})
        for spec in setup["inputs"]
    ]
    feed = generate(Signature(tuple(specs), ()), samples=1, seq_len=setup["length"], batch=setup["batch"], seed=0)[0]
    resolve_provider(setup["provider"])  # the libraries are loaded before the clock starts
    base, start = peak_memory(), perf_counter()
    session = Session(Path(setup["model"]), provider=setup["provider"], threads=setup["threads"])
    seconds = perf_counter() - start
    session.run(feed)
    json.dump(asdict(Footprint(seconds, base, peak_memory())), sys.stdout)


def peak_memory() -> int | None:
    """The most memory this process has held, in bytes; None where nothing tells.

    Linux's own count starts anew with a process; `ru_maxrss`, taken elsewhere, begins with the parent's there.
    """
    if _STATUS.exists():
        lines = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return next((int(line.split()[1]) << 10 for line in lines), None)
    try:
        import resource
    except ImportError:
        return None
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _tuple(shape: list[Any] | None) -> tuple[Any, ...] | None:
    return None if shape is None else tuple(shape)


def _failure(model: Path, code: int, printed: str) -> str:
    if code < 0:
        return (
            f"The process that loaded '{model}' was ended by signal {-code}: memory probably did not suffice. "
            "Free some, or use a machine with more."
        )
    reason = printed.strip().splitlines()[-1] if printed.strip() else f"exit code {code}"
    return f"'{model}' could not be loaded and run in a process of its own: {reason}"
