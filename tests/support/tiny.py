"""Models that quantize in milliseconds, and the command line without a process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfq.cli import run
from support.models import Array, model, write, write_external

QUICK = ("--algorithm", "rtn", "--no-validate")


def weight(seed: int = 0, k: int = 64, n: int = 64) -> Array:
    """A weight [K, N]."""
    return np.random.default_rng(seed).standard_normal((k, n), dtype=np.float32)


def pair(path: Path, *names: str, first: Array | None = None, external: bool = False) -> Path:
    """Write x → MatMul → MatMul → y, 32 kB.

    Args:
        path: the file.
        names: of the two nodes; by default "first" and "second".
        first: the weight of the first.
        external: put the weights into a data file.
    """
    proto = model(
        "h = MatMul(x, w0) y = MatMul(h, w1)",
        y="float[M, 64] y",
        w0=weight(0) if first is None else first,
        w1=weight(1),
    )
    for node, name in zip(proto.graph.node, names or ("first", "second"), strict=True):
        node.name = name
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_external(proto, path) if external else write(proto, path)


def mixed(path: Path, *, external: bool = False) -> Path:
    """Write a model with every kind of tensor: large ones that stay, small ones, and weights of both sizes."""
    proto = model(
        "e = Gather(table, ids) h = MatMul(e, w0) s = MatMul(h, small) a = Add(s, bias) y = MatMul(a, w1)",
        x="int64[M] ids",
        y="float[M, 128] y",
        table=weight(2, 100),
        w0=weight(0),
        small=weight(3, 64, 8),
        bias=weight(4, 1, 8),
        w1=weight(1, 8, 128),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_external(proto, path) if external else write(proto, path)


def custom(path: Path, domains: str = ', "acme" : 1') -> Path:
    """Write a model with an operator that ONNX Runtime does not know."""
    proto = model("h = MatMul(x, w) y = acme.Mystery(h)", y="float[M, 64] y", domains=domains, w=weight())
    return write(proto, path)


def quantize(*arguments: str | Path) -> int:
    """`onnxfq quantize …` in this process; returns the exit code."""
    return run(["quantize", *map(str, arguments)])


def inspect(*arguments: str | Path) -> int:
    """`onnxfq inspect …` in this process; returns the exit code."""
    return run(["inspect", *map(str, arguments)])


def entries(folder: Path) -> list[str]:
    """What a folder holds, hidden entries included."""
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def operators(path: Path) -> list[str]:
    """Operators of a written model, which must load with its data."""
    return [node.op_type for node in onnx.load(path).graph.node]


def refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *arguments: str | Path,
    code: int = 3,
    says: str | tuple[str, ...] = "",
) -> str:
    """Assert that a run fails with one clear message and leaves the folder as it was; returns the message."""
    before = contents(folder)
    assert quantize(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    message = err.splitlines()[-1]
    assert message.startswith("Error: ")
    assert err.count("Error: ") == 1
    assert "Traceback" not in err
    for text in (says,) if isinstance(says, str) else says:
        assert text in message
    assert contents(folder) == before
    assert not [name for name in entries(folder) if name.startswith(".")]
    return message
