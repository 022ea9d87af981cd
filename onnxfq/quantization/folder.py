"""A folder as input, such as an optimum export: its models, the files that go along, one report for all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

from onnxfq.errors import ModelError, UsageError
from onnxfq.model_files import MODEL_SUFFIX
from onnxfq.options import Options
from onnxfq.reports.contents import together as contents_together
from onnxfq.reports.expectations import Estimate
from onnxfq.reports.measured import telling
from onnxfq.reports.report import Report, Size

# Weights, of ONNX models or in other frameworks' formats: no companions of a quantized model.
_WEIGHTS = frozenset(
    {MODEL_SUFFIX, ".onnx_data", ".data", ".weight", ".ort", ".bin", ".safetensors", ".pt", ".pth", ".ckpt"}
    | {".h5", ".msgpack", ".tflite", ".gguf"}
)
_PIECE = ".onnx_data_"  # and a number: a further piece of a large model


def refuse_overlap(source: Path, output: Path) -> None:
    """Refuse an output folder that is, holds, or lies in the source.

    Raises:
        UsageError: it does.
    """
    here, there = source.resolve(), output.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise UsageError(f"The output folder '{output}' and the source '{source}' overlap. Choose another `output`.")


def copy_companions(source: Path, result: Path, used: Iterable[Path]) -> list[str]:
    """Copy configuration and tokenizer, folders below included; leave out weights and what is hidden.

    Args:
        source: the folder.
        result: where to copy to; created.
        used: files that belong to the models, whatever their name.

    Returns:
        Names of the weights in other formats, which were left out.

    Raises:
        ModelError: a symbolic link leads out of the folder, elsewhere than the models' own links do.
    """
    result.mkdir()
    used = list(used)
    taken, left = {path.resolve() for path in used}, []
    homes = [source.resolve(), *(path.resolve().parent for path in used if path.is_symlink())]
    for path in _files(source):
        target = result / path.relative_to(source)
        if path.resolve() in taken:
            continue
        if path.suffix.lower() in _WEIGHTS or path.suffix.startswith(_PIECE):
            left.append(str(path.relative_to(source)))
            continue
        _refuse_link_out(path, homes)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return left


def _refuse_link_out(path: Path, homes: Sequence[Path]) -> None:
    """Copy nothing from elsewhere: in Hugging Face's cache, links end in one folder beside the models' own files."""
    real = path.resolve()
    if not real.is_relative_to(homes[0]) and real.parent not in homes[1:]:
        raise ModelError(
            f"'{path}' is a symbolic link out of the model's folder, to '{real}': refused. Copy the file there, or "
            "remove the link."
        )


def expected_files(result: Path, models: Iterable[str]) -> list[Path]:
    """What a result may hold, relative to it: the companions that are there already, and models with their data."""
    companions = [path.relative_to(result) for path in result.rglob("*")]
    return [*companions, *(Path(model + end) for model in models for end in ("", ".data"))]


def _files(folder: Path) -> Iterator[Path]:
    """Regular files at any depth, hidden ones and links to folders left out, in a fixed order."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                yield path


def merge(
    source: Path, output: Path | None, reports: Sequence[Report], options: Options, left: Sequence[str] = ()
) -> Report:
    """One report for a folder; with several models in it, every row says which it belongs to.

    Args:
        source: the folder.
        output: the folder that was written, if any.
        reports: one for each model.
        options: what was asked for.
        left: files of the source that were not copied.
    """
    marked = [_marked(r) for r in reports] if len(reports) > 1 else reports
    outputs = tuple(o for r in marked for o in r.outputs)
    latency = tuple(x for r in marked for x in r.latency)
    whole = replace(
        marked[0],
        source=str(source),
        output=str(output) if output else None,
        targets=tuple(t for r in marked for t in r.targets),
        skipped=tuple(s for r in marked for s in r.skipped),
        size=Size(*(sum(getattr(r.size, f.name) for r in marked) for f in fields(Size))),
        estimate=together([r.estimate for r in marked]),
        algorithm=_joined(r.algorithm for r in reports),
        calibration=_joined(r.calibration for r in reports),
        inputs=_joined(r.inputs for r in reports),
        outputs=outputs,
        in_sample=tuple(o for r in marked for o in r.in_sample),
        measured_on=_least_sure(reports),
        latency=latency,
        mixes=tuple(mix for r in marked for mix in r.mixes),
        expected=marked[0].expected if len(marked) == 1 else (),
        language=tuple(figure for r in marked for figure in r.language),
        warnings=tuple(_warnings(reports, left)),
        kernels_run=sum(r.kernels_run for r in marked),
        contents=contents_together(r.contents for r in marked),
        source_contents=contents_together(r.source_contents for r in marked),
    )
    missing = [r for r in reports if r.targets and not telling(r.outputs, changed=r.changes_weights)]
    if missing:  # a figure of the others says nothing of these
        return replace(whole, gates=missing[0].gates)
    return whole.with_gates(options.gates)


def _joined(texts: Iterable[str]) -> str:
    """What is said of models, once each."""
    return ", ".join(dict.fromkeys(text for text in texts if text))


def together(estimates: Sequence[Estimate]) -> Estimate:
    """What models take one after another."""
    return Estimate(sum(e.seconds for e in estimates), max(e.memory_bytes for e in estimates))


def _marked(report: Report) -> Report:
    model = Path(report.source).name
    return replace(
        report,
        targets=tuple(replace(t, model=model) for t in report.targets),
        skipped=tuple(replace(s, model=model) for s in report.skipped),
        outputs=tuple(replace(o, name=f"{model}: {o.name}") for o in report.outputs),
        in_sample=tuple(replace(o, name=f"{model}: {o.name}") for o in report.in_sample),
        latency=tuple(replace(x, case=f"{model}: {x.case}") for x in report.latency),
        mixes=tuple(replace(mix, model=model) for mix in report.mixes),
        language=tuple(replace(figure, note=f"{model}: {figure.note}") for figure in report.language),
    )


def _least_sure(reports: Sequence[Report]) -> str:
    """What was measured, where models differ: the kind of samples that says least."""
    kinds = {report.measured_on for report in reports}
    return next((kind for kind in ("in-sample", "generated", "held-out") if kind in kinds), "")


def _warnings(reports: Sequence[Report], left: Sequence[str]) -> Iterator[str]:
    """What holds for all models once, what holds for some with their names."""
    for warning in dict.fromkeys(w for r in reports for w in r.warnings):
        models = [Path(r.source).name for r in reports if warning in r.warnings]
        yield warning if len(models) == len(reports) else f"{', '.join(models)}: {warning}"
    if left:
        yield f"Weights in other formats were not copied: {', '.join(left)}."
