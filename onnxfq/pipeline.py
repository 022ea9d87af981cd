"""The one way through: load → find → check → solve → rewrite → write → verify → validate → report."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numba

from onnxfq.errors import ModelError, OutputError, UsageError
from onnxfq.evaluate import check_gates
from onnxfq.find import Planned, find, plan, refuse_nothing
from onnxfq.graph import Constant, Graph, Spool, save
from onnxfq.output import commit_files, commit_folder, refuse_overwriting, staging
from onnxfq.packing import pack, stored_bytes
from onnxfq.quantized import energy, squared_error
from onnxfq.report import Estimate, Report, Size, SkipReport, TargetReport
from onnxfq.rules import Skip, Stored, rewrite, store
from onnxfq.scheme import Scheme
from onnxfq.session import Provider, resolve_provider, runtime_version
from onnxfq.solvers import WEIGHTS_PER_SECOND, Solver, make_solver
from onnxfq.validate import Inputs, Validation, prepare, try_original, validate
from onnxfq.verify import Meant, fingerprint_of, verify
from onnxfq.version import VERSION

Progress = Callable[[str, int, int], None]
MODEL_SUFFIX = ".onnx"
_DATA_FILE = re.compile(r"\.(onnx|onnx[._]data|data|bin|weight)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that `quantize` can be asked for; see there."""

    scheme: Scheme = Scheme()
    algorithm: str = "auto"
    provider: str = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    allow_slow: bool = False
    calib: Path | None = None
    tokenizer: Path | None = None
    samples: int = 128
    seq_len: int = 512
    seed: int = 0
    threads: int | None = None
    validate: bool = True
    max_error: float | None = None
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        for name in ("samples", "seq_len", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be 1 or more (got {value}).")
        gates = [n for n in ("max_error", "min_speedup") if getattr(self, n) is not None]
        if gates and not self.validate:
            named = " and ".join(f"--{n.replace('_', '-')}" for n in gates)
            raise UsageError(f"{named} needs the comparison that --no-validate leaves out. Drop one of them.")

    def as_json(self) -> dict[str, Any]:
        """Settings to reproduce a run with."""
        scheme = {name: getattr(self.scheme, name) for name in ("bits", "block_size", "symmetric", "activations")}
        names = ("include", "exclude", "allow_slow", "samples", "seq_len", "seed", "max_error", "min_speedup")
        paths = {name: str(value) if (value := getattr(self, name)) else None for name in ("calib", "tokenizer")}
        return {**scheme, "algorithm": self.algorithm, **{n: getattr(self, n) for n in names}, **paths}


def quantize(
    model: str | Path,
    output: str | Path | None = None,
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Report:
    """Quantise a model, or every model of a folder, and prove the result.

    Args:
        model: an ONNX file, or a folder that holds some (such as an optimum export), whose other files are copied.
        output: the file or folder to write; by default beside the source, `model.int4.onnx` or `FOLDER-int4`.
        options: all settings at once.
        progress: called with (what, done, total) as work goes on.
        **changes: single settings, by the names of `Options` (`scheme=Scheme(bits=4, block_size=128)`, …).

    Returns:
        What was done and measured. Gates that fail do not raise: see `Report.require`.

    Raises:
        OnnxfqError: with what is wrong and what to do about it; then nothing was written.

    Example:
        >>> report = quantize("model.onnx", scheme=Scheme(block_size=128))  # doctest: +SKIP
        >>> report.require()  # doctest: +SKIP
    """
    source, chosen = Path(model), replace(options or Options(), **changes)
    told = progress or (lambda what, done, total: None)
    if chosen.threads is not None:
        numba.set_num_threads(min(chosen.threads, numba.config.NUMBA_NUM_THREADS))
    if source.is_dir():
        return _quantize_folder(source, Path(output) if output else default_output(source, chosen), chosen, told)
    return _quantize_file(source, Path(output) if output else default_output(source, chosen), chosen, told)


def inspect(model: str | Path, *, options: Options | None = None, **changes: Any) -> Report:
    """What `quantize` would do with a model or folder: targets, skips with reasons, predicted size. Writes nothing."""
    source, chosen = Path(model), replace(options or Options(), **changes)
    if source.is_dir():
        return _merge(source, None, [(path, inspect(path, options=chosen)) for path in _models_of(source)], chosen)
    graph = Graph.load(source)
    provider, solver = resolve_provider(chosen.provider), make_solver(chosen.algorithm)
    planned, skips = _plan(graph, chosen, provider)
    targets = [_target_report(p, chosen, solver) for p in planned]
    return _report(graph, None, planned, _shared(planned, targets), skips, chosen, provider, solver)


def default_output(source: Path, options: Options) -> Path:
    """`model.int4.onnx` beside `model.onnx`, `FOLDER-int4` beside `FOLDER`."""
    suffix = f"int{options.scheme.bits}"
    if source.is_dir():
        return source.resolve().with_name(f"{source.resolve().name}-{suffix}")
    return source.with_name(f"{source.stem}.{suffix}{MODEL_SUFFIX}")


def _quantize_file(source: Path, output: Path, options: Options, progress: Progress) -> Report:
    graph = Graph.load(source)
    refuse_overwriting(output, graph.files)
    with staging(output) as folder:
        report = _make(graph, output, folder / output.name, options, progress)
        graph.check_unchanged()
        commit_files(folder / output.name, output)
    return report


def _make(graph: Graph, output: Path, staged: Path, options: Options, progress: Progress) -> Report:
    """Everything between load and the final move, on staged files."""
    source = graph.path
    provider, solver = resolve_provider(options.provider), make_solver(options.algorithm)
    planned, skips = _plan(graph, options, provider)
    _check_disk(graph, planned, options, staged)
    inputs = _inputs(graph, options) if options.validate else None
    if inputs:
        progress("checking the original", 0, 1)
        try_original(source, inputs, provider, options.threads)
    with ThreadPoolExecutor(1) as hasher, Spool(staged.with_name(staged.name + ".spool")) as spool:
        source_hash = hasher.submit(graph.source_hash)
        targets, meant = _solve(graph, planned, options, solver, spool, progress)
        if planned:
            graph.set_metadata(_provenance(options, solver, source_hash))
        progress("writing", 0, 1)
        files = save(graph, staged, spool)
    progress("verifying", 0, 1)
    kernels_run = verify(staged, meant, provider)
    report = _report(graph, output, planned, targets, skips, options, provider, solver)
    size = replace(report.size, output_bytes=sum(f.stat().st_size for f in files))
    report = replace(report, size=size, kernels_run=kernels_run)
    if not inputs:
        return report
    progress("comparing with the original", 0, 1)
    return _with_validation(report, validate(source, staged, inputs, provider, options.threads), options)


def _plan(graph: Graph, options: Options, provider: Provider) -> tuple[list[Planned], list[Skip]]:
    targets, skips = find(graph, options.include, options.exclude)
    planned, slow = plan(targets, options.scheme, provider, allow_slow=options.allow_slow)
    if not planned:
        refuse_nothing(graph, [*skips, *slow])
    return planned, [*skips, *slow]


def _inputs(graph: Graph, options: Options) -> Inputs:
    return prepare(
        graph.signature,
        calib=options.calib,
        tokenizer=options.tokenizer or graph.path.parent,
        samples=options.samples,
        seq_len=options.seq_len,
        seed=options.seed,
    )


def _solve(
    graph: Graph, planned: Sequence[Planned], options: Options, solver: Solver, spool: Spool, progress: Progress
) -> tuple[list[TargetReport], list[Meant]]:
    """Solve one target after another; each is packed, stored and forgotten before the next."""
    done: dict[Hashable, tuple[Stored, TargetReport, str]] = {}
    reports: list[TargetReport] = []
    meant: list[Meant] = []
    abandoned: list[Constant] = []
    damaged: list[str] = []
    for index, p in enumerate(planned):
        progress("solving", index, len(planned))
        key = (p.target.key, p.kernel)
        if key in done:
            stored, first, digest = done[key]
            report = replace(first, name=p.target.name, op_type=p.target.node.op_type, bytes=0, shares=first.name)
        elif (solved := _solve_one(graph, p, options, solver, spool, damaged)) is None:
            continue
        else:
            done[key] = stored, report, digest = solved
        abandoned += rewrite(graph, p.target, stored, p.kernel, spool)
        reports.append(report)
        meant.append(Meant(p.target.name, stored.codes, p.target.n, p.target.k, p.kernel, digest))
    progress("solving", len(planned), len(planned))
    _refuse_damaged(graph, damaged)
    graph.finish(abandoned)
    return reports, meant


def _solve_one(
    graph: Graph, p: Planned, options: Options, solver: Solver, spool: Spool, damaged: list[str]
) -> tuple[Stored, TargetReport, str] | None:
    weight = p.target.load()
    total = energy(weight)
    if not total < float("inf"):
        damaged.append(p.target.weight.leaf.name)
    if damaged:
        return None
    q = solver.solve(weight, options.scheme, None, scale_type=p.target.scale_type)
    packed = pack(q, p.kernel.block_size)
    error = squared_error(weight, q) / total if total else 0.0
    report = replace(_target_report(p, options, solver), relative_error=error, bytes=packed.nbytes)
    return store(graph, p.target, packed, spool), report, fingerprint_of(q, p.kernel.block_size)


def _refuse_damaged(graph: Graph, damaged: list[str]) -> None:
    if damaged:
        raise ModelError(
            f"{len(damaged)} weights of '{graph.path}' hold NaN or infinite values: {', '.join(map(repr, damaged))}. "
            "Export the model again, or leave their nodes out with --exclude."
        )


def _provenance(options: Options, solver: Solver, source_hash: Future[str]) -> dict[str, str]:
    return {
        "onnxfq.version": VERSION,
        "onnxfq.scheme": str(options.scheme),
        "onnxfq.algorithm": solver.name,
        "onnxfq.source_sha256": source_hash.result(),
    }


def _target_report(p: Planned, options: Options, solver: Solver) -> TargetReport:
    target, kernel = p.target, p.kernel
    nbytes = stored_bytes(
        target.n, target.k, kernel.bits, kernel.block_size, options.scheme.symmetric, target.scale_type
    )
    return TargetReport(
        name=target.name,
        op_type=target.node.op_type,
        n=target.n,
        k=target.k,
        bits=kernel.bits,
        block_size=kernel.block_size,
        granularity=options.scheme.block_size,
        algorithm=solver.name,
        relative_error=None,
        float_bytes=target.float_bytes,
        bytes=nbytes,
        speed=kernel.speed,
    )


def _shared(planned: Sequence[Planned], reports: Sequence[TargetReport]) -> list[TargetReport]:
    """Mark targets whose weight an earlier one brings already."""
    first: dict[Hashable, str] = {}
    marked = []
    for p, report in zip(planned, reports, strict=True):
        owner = first.setdefault((p.target.key, p.kernel), report.name)
        marked.append(report if owner == report.name else replace(report, bytes=0, shares=owner))
    return marked


def _size(graph: Graph, planned: Sequence[Planned], targets: Sequence[TargetReport]) -> Size:
    leaves = {p.target.weight.key[:2]: p.target.float_bytes for p in planned}
    before, after = sum(leaves.values()), sum(t.bytes for t in targets)
    weights = sum(t.n * t.k for t in targets if not t.shares)
    return Size(graph.source_bytes, max(1, graph.source_bytes - before + after), before, after, weights)


def _estimate(graph: Graph, planned: Sequence[Planned], options: Options, solver: Solver) -> Estimate:
    """Sizes times speeds seen on two cores of a 2023 server; a GPU or more cores only shorten it."""
    weights = sum(p.target.n * p.target.k for p in planned)
    largest = max((p.target.n * p.target.k for p in planned), default=0)
    comparison = 2 * graph.source_bytes if options.validate else 0
    return Estimate(weights / WEIGHTS_PER_SECOND[solver.name] + 2.0, 200 * 2**20 + max(10 * largest, comparison))


def _check_disk(graph: Graph, planned: Sequence[Planned], options: Options, staged: Path) -> None:
    """Refuse early when the output cannot fit."""
    solver = make_solver(options.algorithm)
    targets = _shared(planned, [_target_report(p, options, solver) for p in planned])
    wanted, free = _size(graph, planned, targets).output_bytes, shutil.disk_usage(staged.parent).free
    if wanted > free:
        raise OutputError(
            f"The output needs about {wanted / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free in "
            f"'{staged.parent.parent}'. Free some space or choose another place with -o."
        )


def _report(
    graph: Graph,
    output: Path | None,
    planned: Sequence[Planned],
    targets: Sequence[TargetReport],
    skips: Sequence[Skip],
    options: Options,
    provider: Provider,
    solver: Solver,
) -> Report:
    return Report(
        source=str(graph.path),
        output=str(output) if output else None,
        scheme=str(options.scheme),
        algorithm=solver.name,
        provider=provider,
        targets=tuple(targets),
        skipped=tuple(SkipReport.of(s) for s in skips),
        size=_size(graph, planned, targets),
        estimate=_estimate(graph, planned, options, solver),
        warnings=tuple(_warnings(planned, skips, options)),
        onnxfq_version=VERSION,
        runtime_version=runtime_version(),
        settings=options.as_json(),
    )


def _warnings(planned: Sequence[Planned], skips: Sequence[Skip], options: Options) -> Iterable[str]:
    quantized = sum(s.quantized for s in skips)
    if quantized and not planned:
        yield "The model is already quantised: nothing was left to do."
    elif quantized:
        yield f"{quantized} nodes were already quantised and stay as they are."
    if any(p.kernel.speed == "slow" for p in planned):
        yield "Some targets run slower than in floating point (--allow-slow)."
    if not options.validate:
        yield "NOT VALIDATED: the output was verified, but not compared with the original (--no-validate)."
    elif options.calib is None:
        yield "The inputs of the comparison were made up. Give real ones with --calib to know the error on your data."


def _with_validation(report: Report, validation: Validation, options: Options) -> Report:
    gates = check_gates(
        max_error=options.max_error,
        min_speedup=options.min_speedup,
        outputs=validation.outputs,
        latencies=validation.latency,
    )
    return replace(
        report,
        outputs=validation.outputs,
        latency=validation.latency,
        inputs=validation.inputs,
        gates=tuple(gates),
    )


def _models_of(folder: Path) -> list[Path]:
    models = sorted(folder.glob(f"*{MODEL_SUFFIX}"))
    if not models:
        raise ModelError(f"No ONNX model in '{folder}' (wanted files *.onnx). Export one there, or name the file.")
    return models


def _quantize_folder(source: Path, output: Path, options: Options, progress: Progress) -> Report:
    models = _models_of(source)
    here, there = source.resolve(), output.resolve()
    if here == there or here.is_relative_to(there) or there.is_relative_to(here):
        raise UsageError(f"The output folder '{output}' and the source '{source}' overlap. Choose another with -o.")
    reports: list[tuple[Path, Report]] = []
    with staging(output) as staged:
        result = staged / output.name
        result.mkdir()
        used: set[Path] = set()
        for path in models:
            graph = Graph.load(path)
            used.update(graph.files)
            reports.append((path, _make(graph, result / path.name, result / path.name, options, progress)))
            graph.check_unchanged()
        _copy_companions(source, result, used)
        commit_folder(result, output)
    return _merge(source, output, reports, options)


def _copy_companions(source: Path, result: Path, used: set[Path]) -> None:
    """Configuration and tokenizer go along; weights in other formats do not."""
    for path in sorted(source.iterdir()):
        taken = path in used or path.name.startswith(".") or _DATA_FILE.search(path.name)
        if path.is_file() and not taken and path.suffix not in (".safetensors", ".pt", ".h5"):
            shutil.copyfile(path, result / path.name)


def _merge(source: Path, output: Path | None, reports: list[tuple[Path, Report]], options: Options) -> Report:
    """One report for a folder; with several models in it, every row says which it belongs to."""
    several = len(reports) > 1

    def label(path: Path) -> str:
        return path.name if several else ""

    first = reports[0][1]
    sizes = [r.size for _, r in reports]
    total = Size(*(sum(getattr(s, f) for s in sizes) for f in Size.__dataclass_fields__))
    prefix = {path: f"{path.name}: " if several else "" for path, _ in reports}
    outputs = [replace(o, name=prefix[p] + o.name) for p, r in reports for o in r.outputs]
    latency = [replace(x, case=prefix[p] + x.case) for p, r in reports for x in r.latency]
    gates = check_gates(
        max_error=options.max_error, min_speedup=options.min_speedup, outputs=outputs, latencies=latency
    )
    return replace(
        first,
        source=str(source),
        output=str(output) if output else None,
        targets=tuple(replace(t, model=label(p)) for p, r in reports for t in r.targets),
        skipped=tuple(replace(s, model=label(p)) for p, r in reports for s in r.skipped),
        size=total,
        estimate=Estimate(
            sum(r.estimate.seconds for _, r in reports), max(r.estimate.memory_bytes for _, r in reports)
        ),
        outputs=tuple(outputs),
        latency=tuple(latency),
        gates=tuple(gates),
        warnings=tuple(dict.fromkeys(prefix[p] + w for p, r in reports for w in r.warnings)),
        kernels_run=sum(r.kernels_run for _, r in reports),
    )
