"""What is to be benchmarked: refused where it makes no sense, and what was left open decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxfq.benchmarking.bandwidth import Bandwidth, DeviceBandwidth, HostBandwidth
from onnxfq.benchmarking.clocks import PROCESSOR, WALL, Clock
from onnxfq.errors import ModelError, UsageError
from onnxfq.feeds import longest, role, with_configured_sizes
from onnxfq.graph import Fed, Graph, single_node
from onnxfq.model_files import find_model, is_folder
from onnxfq.progress import Progress
from onnxfq.providers import ProviderName, facts
from onnxfq.session import Session, resolve_provider
from onnxfq.system.threads import processors

CLOCKS = ("wall", "processor")
KINDS = ("all", "prefill", "decode")
LENGTHS = (128, 512)  # where the model takes them


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkConfig:
    """One benchmark, its models found.

    Attributes:
        graphs: the model, then the baselines.
        provider: where they run.
        threads: inside an operator; None leaves the choice to ONNX Runtime.
        clock: what times are measured with.
        bandwidth: measures how fast memory is read.
        batches: rows at once.
        lengths: tokens of prompts and inputs.
        tokens: appended in decoding.
        seconds: at most for a case.
        loads: processes in which each model is loaded.
        only: the kind of runs, or "all".
        progress: called with (what, done, total).
    """

    graphs: list[Graph]
    provider: ProviderName
    threads: int | None
    clock: Clock
    bandwidth: Bandwidth
    batches: Sequence[int]
    lengths: Sequence[int]
    tokens: int
    seconds: float
    loads: int
    only: str
    progress: Progress


def check_request(
    counts: dict[str, int | None],
    lists: dict[str, Sequence[int] | None],
    *,
    clock: str,
    only: str,
    seconds: float,
    min_speedup: float | None,
    compared: bool,
) -> None:
    """Refuse what makes no sense, whatever the models are.

    Args:
        counts: numbers of 1 or more, or None, by option.
        lists: the same of lists of numbers.
        clock: which clock.
        only: which kind of runs.
        seconds: at most for a case.
        min_speedup: the gate.
        compared: whether there is a baseline.

    Raises:
        UsageError: naming the option, and what it takes.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"`{name}` must be 1 or more (got {value}).")
    for name, values in lists.items():
        if values is not None and (not values or min(values) < 1):
            raise UsageError(f"`{name}` must be numbers of 1 or more (got {', '.join(map(str, values)) or 'none'}).")
    for name, word, words in (("clock", clock, CLOCKS), ("only", only, KINDS)):
        if word not in words:
            raise UsageError(f"Unknown `{name}` (got {word!r}). Use {', '.join(words)}.")
    if clock == "processor" and (counts["threads"] or 1) > 1:
        raise UsageError(
            f"The processor's clock is that of one thread (got `threads={counts['threads']}`). Use `threads=1`, or "
            '`clock="wall"`.'
        )
    for name, number in (("seconds", seconds), ("min_speedup", min_speedup)):
        if number is not None and not 0 <= number < float("inf"):
            raise UsageError(f"`{name}` must be a number of 0 or more (got {number}).")
    if min_speedup is not None and not compared:
        raise UsageError("`min_speedup` compares the model with another one. Name that with `baseline`.")


def configure(
    models: Sequence[str | Path],
    *,
    provider: str,
    threads: int | None,
    clock: str,
    lengths: Sequence[int] | None,
    tokens: int,
    batches: Sequence[int],
    seconds: float,
    loads: int,
    only: str,
    progress: Progress,
) -> BenchmarkConfig:
    """Find the models, and decide what was left open: the arguments are those of `benchmark`.

    Raises:
        UsageError: the models do not take what was asked for, or no clock can time them so.
        ModelError: a model is not there, or is several.
    """
    chosen = resolve_provider(provider)
    graphs = [Graph.load(_file(Path(path))) for path in models]
    for graph in graphs:
        graph.prefer(with_configured_sizes(graph.signature, graph.path))
    timer = choose_clock(clock, chosen)
    count = 1 if timer is PROCESSOR else threads
    return BenchmarkConfig(
        graphs=graphs, provider=chosen, threads=count, clock=timer, bandwidth=bandwidth_of(chosen, count, timer),
        batches=batches, lengths=choose_lengths(lengths, graphs, tokens), tokens=tokens, seconds=seconds, loads=loads,
        only=only, progress=progress,
    )  # fmt: skip


def _file(path: Path) -> Path:
    found = find_model(path)
    if is_folder(found):
        raise ModelError(f"'{path}' holds an encoder and a decoder, which are timed one by one. Name one of its files.")
    return found


def choose_clock(clock: str, provider: ProviderName) -> Clock:
    """The clock of that name.

    Raises:
        UsageError: it cannot time what runs there.
    """
    if clock == "processor" and not facts(provider).host_memory:
        raise UsageError("The processor's clock knows nothing of a GPU's time. Use `clock=\"wall\"`.")
    return PROCESSOR if clock == "processor" else WALL


def bandwidth_of(provider: ProviderName, threads: int | None, clock: Clock) -> Bandwidth:
    """What measures the memory that models read there."""
    if facts(provider).host_memory:
        return HostBandwidth(threads or processors(), clock)
    node = single_node("Neg", "", {"A": Fed(np.float32, ("rows", 4096))}, {}, output=np.float32)
    return DeviceBandwidth(Session(node, provider=provider))


def choose_lengths(given: Sequence[int] | None, graphs: Sequence[Graph], tokens: int) -> tuple[int, ...]:
    """Lengths that leave room for the tokens appended.

    Raises:
        UsageError: the models take no such length.
    """
    inputs = [spec for graph in graphs for spec in graph.signature.inputs]
    rows = [spec.vocabulary for spec in inputs if role(spec) == "position"]
    known = [limit for limit in (*(longest(graph.path.parent) for graph in graphs), *rows) if limit is not None]
    caches = any(role(spec) == "cache" for spec in inputs)
    most = min(known) - (tokens if caches else 0) if known else None
    if most is not None and most < 1:
        raise UsageError(f"The model takes {min(known)} tokens, and none is left for a prompt (got `tokens={tokens}`).")
    if given is None:
        return tuple(dict.fromkeys(min(length, most or length) for length in LENGTHS))
    if most is not None and max(given) > most:
        raise UsageError(
            f"The model takes {min(known)} tokens (got `lengths={max(given)}`{f' and `tokens={tokens}`' * caches}). "
            "Use fewer."
        )
    return tuple(dict.fromkeys(given))
