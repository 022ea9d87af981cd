"""Which distributions of ONNX Runtime are installed: all put their files into one place, so that one alone may be.

Imports nothing heavy: this is to be told also where ONNX Runtime cannot be imported.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

# Every distribution that brings the package `onnxruntime`; the first of those installed is the one to keep.
DISTRIBUTIONS = (
    "onnxruntime-gpu", "onnxruntime-training", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn",
    "onnxruntime-rocm", "onnxruntime-migraphx", "onnxruntime-cann", "onnxruntime-vitisai", "onnxruntime-silicon",
    "onnxruntime-azure", "onnxruntime-noopenmp", "onnxruntime-training-cpu", "ort-nightly-gpu", "ort-gpu-nightly",
    "ort-nightly-directml", "ort-nightly-qnn", "ort-nightly", "onnxruntime",
)  # fmt: skip


def distributions() -> dict[str, str]:
    """Versions of those installed, by name."""
    found: dict[str, str] = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name) or "of no known version"
        except PackageNotFoundError:
            continue
        except (OSError, KeyError):  # it is there and cannot be read, or says no version
            found[name] = "of no known version"
    return found


def conflict() -> str:
    """What is wrong where several are installed, and what to do; empty where there is one, or none."""
    found = distributions()
    if len(found) < 2:
        return ""
    names = list(found)
    listed = " and ".join(f"{name} {found[name]}" for name in names)
    return (
        f"{listed} are installed together and overwrite each other's files: which one runs is left to chance. Run "
        f"`pip uninstall {' '.join(names)}`, then `pip install {names[0]}`."
    )


def why_not_imported(error: Exception) -> str:
    """What to say where ONNX Runtime cannot be imported."""
    found = distributions()
    if not found:
        return (
            "ONNX Runtime is not installed. Run `pip install onnxruntime-gpu` (which runs without a GPU too), or "
            "`pip install onnxruntime`, which is smaller."
        )
    reason = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
    remedy = conflict() or f"Run `pip uninstall {next(iter(found))}`, then `pip install {next(iter(found))}`."
    return f"ONNX Runtime ({', '.join(found)}) cannot be imported: {reason}. {remedy}"
