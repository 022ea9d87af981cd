"""A written model tuned on the samples that calibrated it, and put in its own place where that brings it nearer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxfq.calibration.pieces import Runtime
from onnxfq.calibration.sample_batches import put_together
from onnxfq.errors import DataError, ModelError, UsageError
from onnxfq.feeds import Feed, Feeds, feed_tokens, hold_tokens
from onnxfq.graph import Graph, TensorFile, TrainingModel, loaded_bytes, save, set_values
from onnxfq.metrics.output_error import compare_outputs, run_both
from onnxfq.packing import fingerprints_of, join_digests
from onnxfq.progress import Progress, Steps
from onnxfq.providers import facts
from onnxfq.quantization.assign import Planned
from onnxfq.quantization.expected import Expected
from onnxfq.quantization.job import Job
from onnxfq.quantization.keep_better import Judgement, compare_errors, take_files
from onnxfq.quantization.verify import verify
from onnxfq.quantization.written_products import WrittenProducts, float_name, read_products
from onnxfq.quantized import QuantizedWeight, squared_error, weight_range
from onnxfq.reports.report import TargetReport
from onnxfq.session import Session
from onnxfq.signature import Signature
from onnxfq.solvers.gptq import FEW_BITS
from onnxfq.system.terminal import size_text
from onnxfq.tuning.parameters import TunedScales, TunedVector
from onnxfq.tuning.training import NotTunableError, Training
from onnxfq.tuning.tune import FEW_BITS_RATE, RATE, Descent, tune

_TUNED = "TUNED"
_NOT_TUNED = "NOT TUNED"
_STEP_TOKENS = 512  # of the samples that a step is of
_COPIES = 5  # of all weights in float32: what is fed, its gradient, and what is made of both on the way


@dataclass(frozen=True, slots=True)
class Written:
    """A model that was written.

    Attributes:
        targets: what became of each target.
        expected: what its node must hold.
        notes: what the user should know.
    """

    targets: list[TargetReport]
    expected: list[Expected]
    notes: list[str]


def refuse_untunable(jobs: Sequence[Job]) -> None:
    """Refuse to tune what does not fit into the memory as a whole, or has scales that calibration put elsewhere.

    Raises:
        UsageError: with the remedy.
    """
    for job in jobs:
        if not job.options.tune or not job.planned:
            continue
        if not job.solver.calibrated or job.solver.scales_inputs:
            raise UsageError(
                f"`tune` goes on from what `algorithm=gptq` has calibrated (got algorithm={job.solver.name}). Give "
                "data with `calib=FILE` and leave `algorithm` out, or leave `tune` out."
            )
        weights = sum(p.target.n * p.target.k for p in job.planned if p.rule.kind == "weights")
        wanted = loaded_bytes(job.graph, widens=facts(job.provider).widens_half) + 4 * _COPIES * weights
        if wanted > job.options.memory:
            raise UsageError(
                f"`tune` runs '{job.graph.path}' as a whole, forth and back, which takes about {size_text(wanted)} of "
                f"memory (got `memory={size_text(job.options.memory)}`). Give more, or leave `tune` out."
            )


def tune_written(
    job: Job, staged: Path, samples: Feeds, written: Written, runtime: Runtime, progress: Progress
) -> Written:
    """Tune scales, biases and normalization layers of a written model.

    Args:
        job: what it was made by.
        staged: the model; another one takes its place.
        samples: that calibrated it.
        written: of the model as it is.
        runtime: where and how samples are run; its folder takes what does not fit into memory.
        progress: told about every step.

    Raises:
        VerificationError: the tuned file does not hold what was meant.
    """
    graph = Graph.load(staged)
    products = read_products(graph, written.expected)
    held = hold_tokens(len(samples))
    try:
        if not held:
            raise NotTunableError(f"{len(samples)} samples are too few to see what it does (wanted 16 or more)")
        training, steps = _training(job, graph, products, samples, held, runtime)
        chosen = [samples[index] for index in sorted(held)]
        told = Steps(progress, "tuning", job.options.tune * (len(steps) + len(held)) + len(held))
        rate = FEW_BITS_RATE if job.options.scheme.bits <= FEW_BITS else RATE
        found = tune(
            training, steps, chosen, passes=job.options.tune, rate=rate, seed=job.options.seed, tell=told
        )  # fmt: skip
        told.finish()
    except (NotTunableError, DataError, ModelError) as error:
        return replace(written, notes=[*written.notes, f"{_NOT_TUNED}: {str(error).rstrip('.')}."])
    if not found.passes:
        note = f"{_NOT_TUNED}: no pass of `tune` made the error on the tuning samples smaller. More data would help."
        return replace(written, notes=[*written.notes, note])
    tuned = staged.with_name(f"{staged.name}.tuned") / staged.name
    tuned.parent.mkdir()
    try:
        judgement = _write(job, graph, training, products, staged, tuned, chosen)
        note = _note(job, judgement, found, len(chosen), training.blocked)
        if judgement is None or not judgement.ours < judgement.other:
            return replace(written, notes=[*written.notes, note])
        grids = {name: p.quantized for name, p in training.parameters.items() if isinstance(p, TunedScales)}
        expected = [_expected(entry, grids) for entry in written.expected]
        verify(tuned, expected, job.provider)
        del training  # a session may hold the file that is replaced
        take_files(tuned, staged, job.options.data_suffix)
    finally:
        shutil.rmtree(tuned.parent)
    targets = [
        _reported(report, planned, entry, grids)
        for report, planned, entry in zip(written.targets, job.planned, expected, strict=True)
    ]
    return Written(targets, expected, [*written.notes, note])


def is_about_tuning(note: str) -> bool:
    """Whether a note tells what tuning did to a file."""
    return note.startswith((_TUNED, _NOT_TUNED))


def _training(
    job: Job, graph: Graph, products: WrittenProducts, samples: Feeds, held: frozenset[int], runtime: Runtime
) -> tuple[Training, list[list[Feed]]]:
    """Both models, and the samples of each step."""
    model = TrainingModel(graph, products.outputs, {name: weight.shape for name, weight in products.fixed.items()})
    parameters = {name: TunedScales(q) for name, q in products.grids.items()}
    vectors = {name: TunedVector(vector) for name, vector in model.vectors.items()}
    batches = put_together(graph, samples, held, runtime)
    alone = batches.holding(held)
    feeds = [feed for index, feed in enumerate(batches.feeds) if index not in alone]
    training = Training(
        model=model,
        original=Session(job.graph.path, provider=runtime.provider, threads=runtime.threads),
        signature=graph.signature,
        parameters={**parameters, **vectors},
        fixed=products.fixed,
        samples=feeds,
        provider=runtime.provider,
        threads=runtime.threads,
        memory=runtime.memory,
    )
    return training, _steps(feeds, graph.signature)


def _steps(feeds: Sequence[Feed], signature: Signature) -> list[list[Feed]]:
    """Samples in groups of so many tokens; what holds no tokens counts as so many."""
    steps: list[list[Feed]] = []
    room = 0
    for feed in feeds:
        tokens = feed_tokens(feed, signature) or _STEP_TOKENS
        if not steps or room < tokens:
            steps.append([])
            room = _STEP_TOKENS
        steps[-1].append(feed)
        room -= tokens
    return steps


def _write(
    job: Job,
    graph: Graph,
    training: Training,
    products: WrittenProducts,
    staged: Path,
    tuned: Path,
    chosen: Sequence[Feed],
) -> Judgement | None:
    """Write the tuned model, and hold it against the one that is not."""
    with TensorFile(tuned.with_name(tuned.name + ".tensors")) as tensor_file:
        for name, parameter in training.parameters.items():
            if isinstance(parameter, TunedScales):
                set_values(graph, products.scales[name], parameter.quantized.scale, tensor_file)
            else:
                set_values(graph, name, parameter.value(), tensor_file)
        graph.set_metadata({"onnxfq.tuned": "by gradients"})
        save(graph, tuned, tensor_file, job.options.data_suffix)
    errors = []
    for path in (tuned, staged):
        candidate = Session(path, provider=job.provider, threads=job.threads)
        wanted = list(training.losses)
        specs = [spec for spec in graph.signature.outputs if spec.name in training.losses]
        errors.append(compare_outputs(specs, run_both(training.original, candidate, chosen, wanted)))
    return compare_errors(*errors)


def _note(job: Job, judgement: Judgement | None, found: Descent, samples: int, blocked: Sequence[str]) -> str:
    if judgement is None:
        return f"{_NOT_TUNED}: there was no error to compare."
    what = f"{judgement.metric} {judgement.other:.4g} before, {judgement.ours:.4g} after, on {samples} tuning samples"
    if not judgement.ours < judgement.other:
        return f"{_NOT_TUNED}: the tuned file was no better ({what}), so that the other one was kept."
    passes = "1 pass" if job.options.tune == 1 else f"{job.options.tune} passes"
    best = "" if found.passes == job.options.tune else f", of which number {found.passes} was the best"
    before = f" What comes before {', '.join(blocked)} was left as it was: no gradient of that is known."
    return f"{_TUNED} by gradients, {passes} over the samples{best}: {what}.{before if blocked else ''}"


def _expected(entry: Expected, grids: Mapping[str, QuantizedWeight]) -> Expected:
    """What a node must hold once it is tuned."""
    q = grids.get(float_name(entry))
    if q is None:
        return entry
    return replace(entry, fingerprint=join_digests(fingerprints_of(q, entry.kernel.block_size)))


def _reported(
    report: TargetReport, planned: Planned, entry: Expected, grids: Mapping[str, QuantizedWeight]
) -> TargetReport:
    """A target with the error that its weight has now."""
    q = grids.get(float_name(entry))
    if q is None:
        return report
    weight = planned.target.load()
    squares = weight_range(weight).sum_squares
    return replace(report, relative_error=squared_error(weight, q) / squares if squares else 0.0)
