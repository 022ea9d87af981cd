"""Whether a quantized model loads where its source does, and computes nearly the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from support.models import Array

_MOST = 1 << 22  # elements of an input
_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
    "tensor(double)": np.float64, "tensor(int32)": np.int32,
}  # fmt: skip


def differs(source: Path, output: Path, quantized: bool, *, tolerance: float | None) -> str:
    """What is wrong with an output; "" where nothing is, or where the source does not run either.

    Args:
        source: the model.
        output: the quantized model.
        quantized: whether a node was quantized; otherwise all outputs must be the same.
        tolerance: the largest difference, root mean square relative to the values; None compares nothing but loading.
    """
    before = _session(source)
    if before is None:
        return ""
    after = _session(output)
    if after is None:
        return "the output does not load, the source does"
    names = [o.name for o in before.get_outputs()]
    if names != [o.name for o in after.get_outputs()] or _inputs(before) != _inputs(after):
        return "other inputs or outputs than the source"
    feed = _feed(before)
    wanted = None if feed is None else _run(before, feed)
    if wanted is None or feed is None:
        return ""
    got = _run(after, feed)
    if got is None:
        return "the output does not run, the source does"
    touched = _touched(onnx.load(output, load_external_data=False)) if quantized else set()
    for name, old, new in zip(names, wanted, got, strict=True):
        if why := _differ(old, new, None if name not in touched else tolerance, exact=name not in touched):
            return f"output {why}"
    return ""


def _session(path: Path) -> onnxruntime.InferenceSession | None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors have no common base
        return None


def _inputs(session: onnxruntime.InferenceSession) -> list[tuple[str, str]]:
    return [(i.name, i.type) for i in session.get_inputs()]


def _feed(session: onnxruntime.InferenceSession) -> dict[str, Array] | None:
    rng = np.random.default_rng(0)
    feed = {}
    for spec in session.get_inputs():
        shape = [size if isinstance(size, int) and size >= 0 else 3 for size in spec.shape]
        if spec.type not in _TYPES or np.prod([float(s) for s in shape]) > _MOST:
            return None
        feed[spec.name] = np.asarray(rng.standard_normal(shape) * 2).astype(_TYPES[spec.type])
    return feed


def _run(session: onnxruntime.InferenceSession, feed: dict[str, Array]) -> list[Any] | None:
    try:
        return list(session.run(None, feed))
    except Exception:  # noqa: BLE001 - as above
        return None


def _touched(model: onnx.ModelProto) -> set[str]:
    """Names in the main graph that depend on a quantized node, or may."""
    found: set[str] = set()
    for node in model.graph.node:
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        called = any((f.domain, f.name) == (node.domain, node.op_type) for f in model.functions)
        if node.op_type == "MatMulNBits" or inner or called or found.intersection(node.input):
            found.update(node.output)
    return found


def _differ(old: object, new: object, tolerance: float | None, *, exact: bool) -> str:
    if not isinstance(old, np.ndarray) or not isinstance(new, np.ndarray) or old.dtype.kind not in "fiub":
        return ""
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"has shape {new.shape} of {new.dtype}, the source's {old.shape} of {old.dtype}"
    if exact:
        return "" if old.tobytes() == new.tobytes() else "differs though nothing before it was quantized"
    if tolerance is None or old.dtype.kind != "f" or not np.isfinite(old).all():
        return ""
    scale = float(np.linalg.norm(old.astype(np.float64))) or 1.0
    error = float(np.linalg.norm(old.astype(np.float64) - new.astype(np.float64))) / scale
    return "" if error <= tolerance else "is far from the source's"
