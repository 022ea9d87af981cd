"""A tiny model of several stages with data, runs of it that stop where a test wants, and what they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxfq.calibration.checkpoint import Checkpoint
from support.models import Array, model, write, write_external
from support.tiny import contents, quantize, weight

STAGES = 4
BASIC = ("--provider", "cpu", "--no-validate")


def layered(path: Path, *, external: bool = False, seed: int = 0) -> Path:
    """Write a model of four stages; two of its five weights belong to one."""
    proto = model(
        "q = MatMul(x, w0) k = MatMul(x, w1) s = Mul(q, k) t = Tanh(s) h = Gemm(t, w2, b) r = Add(h, x) e = Relu(r) "
        "d = MatMul(e, w3) z = Tanh(d) y = MatMul(z, w4)",
        y="float[M, 64] y",
        constants={"b": weight(9, 1, 64)[0]} | {f"w{i}": weight(seed + i) / np.float32(8) for i in range(5)},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_external(proto, path) if external else write(proto, path)


def data(path: Path, seed: int = 0) -> Path:
    x = np.random.default_rng(seed).standard_normal((6, 4, 64)).astype(np.float32)
    np.savez(path, x=x.reshape(-1, 64))
    return path


class Place:
    """A folder with a model and data in it, and outputs elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.source = layered(folder / "source" / "m.onnx", external=True)
        self.calib = data(folder / "source" / "x.npz")
        self.folder = folder / "out"
        self.folder.mkdir()
        self.output, self.work = self.folder / "out.onnx", self.folder / "out.onnx.work"
        self.before = contents(folder / "source")

    def arguments(self, *more: str | Path) -> list[str]:
        fixed = (self.source, "-o", self.output, "--calib", self.calib, "--samples", "24", *BASIC)
        return [*map(str, fixed), *map(str, more)]

    def run(self, *more: str | Path) -> int:
        return quantize(*self.arguments(*more))

    def written(self) -> dict[str, bytes]:
        """The output, and proof that nothing else was touched or left."""
        found = contents(self.folder)
        assert contents(self.source.parent) == self.before
        assert sorted(found) == ["out.onnx"]
        return found


def stages(folder: Path) -> list[str]:
    return [path.name for path in sorted(folder.glob("stage-*.npz"))]


def stop(monkeypatch: pytest.MonkeyPatch, what: object, name: str, at: int, error: type[BaseException]) -> None:
    """Let a function fail when it is called for the time number `at`."""
    real: Callable[..., object] = getattr(what, name)
    calls = count(1)

    def stopping(*args: object, **kwargs: object) -> object:
        if next(calls) == at:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(what, name, stopping)


def record(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The stages that are stored from now on."""
    saved, real = list[int](), Checkpoint.save

    def save(self: Checkpoint, stage: int, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        saved.append(stage)
        real(self, stage, arrays, facts)

    monkeypatch.setattr(Checkpoint, "save", save)
    return saved


def interrupted(place: Place, monkeypatch: pytest.MonkeyPatch, *more: str | Path, at: int = 3) -> None:
    """A run that Ctrl-C ends before the stage number `at` is stored."""
    with monkeypatch.context() as patch:
        stop(patch, Checkpoint, "save", at, KeyboardInterrupt)
        assert place.run(*more) == 130


def uninterrupted(folder: Path) -> dict[str, bytes]:
    """What an uninterrupted run writes."""
    place = Place(folder)
    assert place.run() == 0
    return place.written()
