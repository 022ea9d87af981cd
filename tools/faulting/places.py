"""Small models of several kinds with data, the command lines that quantize them, and what those leave."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_WIDTH, _LAYERS, _ROWS = 128, 3, 8


@dataclass(slots=True)
class Place:
    """A source, a folder for outputs, and the command line that goes from one to the other.

    Attributes:
        name: what is special.
        source: the model or folder of models.
        home: holds the source and its data, nothing else.
        out: the folder for outputs.
        target: the output.
        options: of the command line.
        work: where it keeps its stages; None for data-free runs.
        wanted: what an uninterrupted run leaves in `out`.
        old: what an earlier run of other options left in `out`.
        start: what was in `out` when the run began.
        seconds: that an uninterrupted run takes.
        stamps: of the source, which nothing may touch.
    """

    name: str
    source: Path
    home: Path
    out: Path
    target: Path
    options: list[str]
    work: Path | None = None
    wanted: dict[str, bytes] = field(default_factory=dict)
    old: dict[str, bytes] = field(default_factory=dict)
    start: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0
    stamps: dict[str, tuple[bytes, int, int]] = field(default_factory=dict)

    def arguments(self, *more: str | Path) -> list[str]:
        """Of `onnxfq`."""
        return ["quantize", str(self.source), "-o", str(self.target), *self.options, *map(str, more)]

    def reset(self, *, old: bool) -> None:
        """An empty folder for outputs, or one with the old output in it."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        self.start = self.old if old else {}
        for name, data in self.start.items():
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            (self.out / name).write_bytes(data)

    def visible(self) -> dict[str, bytes]:
        """Outputs: all but hidden entries and the work directory."""
        found = contents(self.out)
        return {name: data for name, data in found.items() if not _is_passing(name) and not self._is_work(name)}

    def leftovers(self) -> list[str]:
        """Entries that a finished run must not leave."""
        found = [str(path.relative_to(self.out)) for path in self.out.rglob("*")]
        kept = [] if "--work-dir" in self.options else [name for name in found if self._is_work(name)]
        return [name for name in found if _is_passing(name)] + kept

    def _is_work(self, name: str) -> bool:
        return self.work is not None and (self.out / name).is_relative_to(self.work)

    def remember_source(self) -> None:
        """Note the source, which nothing may touch."""
        self.stamps = stamps(self.home)

    def is_untouched(self) -> bool:
        """Whether the source has the same bytes and times."""
        return stamps(self.home) == self.stamps


def _is_passing(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts) or name.endswith(".part")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stamps(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every file below a folder with its bytes, modification time and mode."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_mode)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def places(folder: Path) -> list[Place]:
    """Make all places below a folder."""
    return [
        _calibrated(folder / "calibrated", external=True),
        _calibrated(folder / "inline", external=False, chosen=True),
        _plain(folder / "plain", external=True),
        _plain(folder / "plain-inline", external=False),
        _folder(folder / "folder"),
    ]


def larger(folder: Path) -> Place:
    """A place whose runs take some seconds."""
    return _calibrated(folder / "larger", external=True, layers=8, width=256)


def _calibrated(
    folder: Path, *, external: bool, chosen: bool = False, layers: int = _LAYERS, width: int = _WIDTH
) -> Place:
    home, out = folder / "source", folder / "out"
    source = write_model(home / "m.onnx", external=external, layers=layers, width=width)
    calib = write_data(home / "x.npz", width=width)
    work = out / "w" if chosen else out / "out.onnx.work"
    options = ["--calib", str(calib), "--samples", str(_ROWS), "--memory", "0", "--provider", "cpu", "--no-validate"]
    options += ["--work-dir", str(work)] if chosen else []
    return Place(folder.name, source, home, out, out / "out.onnx", options, work)


def _plain(folder: Path, *, external: bool) -> Place:
    home, out = folder / "source", folder / "out"
    source = write_model(home / "m.onnx", external=external)
    options = ["--algorithm", "rtn", "--provider", "cpu", "--no-validate"]
    return Place(folder.name, source, home, out, out / "out.onnx", options)


def _folder(folder: Path) -> Place:
    home, out = folder / "source", folder / "out"
    models = home / "models"
    write_model(models / "a.onnx", external=True, seed=1)
    write_model(models / "b.onnx", external=False, seed=2, layers=2)
    (models / "config.json").write_text('{"kind": "example"}\n')
    (models / "sub").mkdir()
    (models / "sub" / "vocab.txt").write_text("a\nb\n")
    calib = write_data(home / "x.npz")
    options = ["--calib", str(calib), "--samples", str(_ROWS), "--memory", "0", "--provider", "cpu", "--no-validate"]
    return Place(folder.name, models, home, out, out / "result", options, out / "result.work")


def write_model(
    path: Path, *, external: bool, layers: int = _LAYERS, width: int = _WIDTH, seed: int = 0, scale: float = 1.0
) -> Path:
    """Write x → [MatMul → Add → Tanh] × layers, the first layer's input read by two weights."""
    random = np.random.default_rng(seed)
    nodes, weights, value = [], [], "x"

    def weight(name: str, *shape: int) -> str:
        array = (random.standard_normal(shape) * scale / np.sqrt(width)).astype(np.float32)
        weights.append(numpy_helper.from_array(array, name))
        return name

    nodes.append(helper.make_node("MatMul", ["x", weight("side.w", width, width)], ["side"], name="side"))
    for layer in range(layers):
        product, total, out = f"p{layer}", f"s{layer}", f"t{layer}"
        nodes.append(helper.make_node("MatMul", [value, weight(f"{layer}.w", width, width)], [product], name=product))
        nodes.append(helper.make_node("Add", [product, weight(f"{layer}.b", width)], [total]))
        nodes.append(helper.make_node("Tanh", [total], [out]))
        value = out
    nodes.append(helper.make_node("Add", [value, "side"], ["joined"]))
    nodes.append(helper.make_node("Gather", [weight("table", 64, width), "ids"], ["rows"]))
    nodes.append(helper.make_node("Add", ["joined", "rows"], ["y"]))
    weights.append(numpy_helper.from_array(np.zeros(1, np.int64), "ids"))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", width])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", width])]
    graph = helper.make_graph(nodes, "example", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.name + ".data"
    (path.parent / data).unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=external, location=data, size_threshold=1024)
    return path


def write_data(path: Path, *, width: int = _WIDTH, seed: int = 0) -> Path:
    """Write samples for such a model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=np.random.default_rng(seed).standard_normal((_ROWS, width)).astype(np.float32))
    return path


def copy_place(place: Place, source: Path, home: Path) -> Place:
    """The same place with another source, for campaigns that change theirs."""
    options = [option.replace(str(place.home), str(home)) for option in place.options]
    copy = Place(place.name, source, home, place.out, place.target, options, place.work, place.wanted, place.old)
    copy.seconds = place.seconds
    return copy


def fill(path: Path) -> None:
    """Use up what is free on a disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        while os.write(descriptor, bytes(4096)):
            pass
    except OSError:
        pass
    finally:
        os.close(descriptor)
