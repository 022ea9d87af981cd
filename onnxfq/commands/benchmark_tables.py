"""A benchmark as tables for people, readable from 80 columns on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from onnxfq.benchmarking.measurements import Benchmark, Case, Timing
from onnxfq.commands.printing import add, say, table
from onnxfq.system.terminal import printable, size_text


def show_benchmark(found: Benchmark, console: Console) -> None:
    """What the models cost and how fast they are, one line a model and case."""
    labels = _labels([cost.model for cost in found.costs])
    threads = "" if found.threads is None else f", {found.threads} threads"
    about = f"  {found.provider}{threads}, {found.clock} clock"
    say(console, Text(printable(found.model), style="bold").append(about, style="not bold"))
    costs = table("", "size", "load", "peak memory", "weights read a run")
    for label, cost in zip(labels, found.costs, strict=True):
        peak = "unknown" if cost.peak_bytes is None else size_text(cost.peak_bytes)
        add(costs, label, size_text(cost.file_bytes), f"{cost.load_seconds:.3g} s", peak, size_text(cost.weight_bytes))
    console.print(costs)
    for case in found.cases:
        _show_case(case, labels, console)
    say(console, f"Memory is read at {size_text(found.bandwidth)}/s, measured in this run: the limit of decoding.")
    for gate in found.gates:
        say(console, f"Gate {gate}", style="green" if gate.passed else "bold red")


def _show_case(case: Case, labels: Sequence[str], console: Console) -> None:
    say(console, f"{case}  ({case.rounds} rounds)", style="bold")
    times = table("", "median", "p95", "tokens/s", "of limit", "speed-up over it")
    rows = zip(labels, case.timings, case.time_texts, ["", *(s.text for s in case.speedups)], strict=True)
    for label, timing, median, speedup in rows:
        add(times, label, f"{median} ms", f"{timing.p95_ms:.4g} ms", *_rates(timing), speedup)
    console.print(times)


def _rates(timing: Timing) -> tuple[str, str]:
    """Tokens a second, and their share of what the memory allows."""
    rate = "" if timing.tokens_per_second is None else f"{timing.tokens_per_second:.4g}"
    return rate, "" if timing.limit_share is None else f"{timing.limit_share:.0%}"


def _labels(models: Sequence[str]) -> list[str]:
    """File names, or whole paths where file names are the same."""
    names = [Path(model).name for model in models]
    return names if len(set(names)) == len(names) else list(models)
