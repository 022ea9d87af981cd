"""What a benchmark found: as data and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from onnxfq.benchmarking.speed_verdict import (
    SpeedWord,
    interval_texts,
    judge_speed,
    shown_decimals,
    time_texts,
)
from onnxfq.metrics.gates import Gate, Gated
from onnxfq.system.notebook import notebook_table
from onnxfq.system.terminal import one_line

JSON_VERSION = 1


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a model takes, whatever it is run on.

    Attributes:
        model: the file.
        file_bytes: of all files it is made of.
        weight_bytes: what every run has to read: all constants but tables of which only rows are looked up, in the type
            in which they are computed with.
        load_seconds: median over processes of their own, files in the system's cache.
        peak_bytes: memory of such a process at its peak, Python and mapped files included; None where nothing tells.
        base_bytes: the part of it that was there before the model.
    """

    model: str
    file_bytes: int
    weight_bytes: int
    load_seconds: float
    peak_bytes: int | None
    base_bytes: int | None


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one model takes for one run, by the benchmark's clock.

    Attributes:
        model: the file.
        median_ms: milliseconds, median over rounds, or less: in the ratios that the speed-ups are.
        p95_ms: 95th percentile.
        runs: how many were timed.
        tokens_per_second: at the median, over all rows; None where inputs are no tokens.
        limit_tokens_per_second: of decoding, where reading the weights from memory once a run takes all the time.
    """

    model: str
    median_ms: float
    p95_ms: float
    runs: int
    tokens_per_second: float | None = None
    limit_tokens_per_second: float | None = None

    @property
    def limit_share(self) -> float | None:
        """Tokens a second as a share of the limit; above 1 where caches hold weights."""
        if self.tokens_per_second is None or self.limit_tokens_per_second is None:
            return None
        return self.tokens_per_second / self.limit_tokens_per_second


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times as fast as a baseline the model is.

    Attributes:
        baseline: the file.
        ratio: median over rounds; above 1 the model is faster.
        low: lower end of the median's 99 % interval.
        high: upper end.
        precise: whether the interval is within 1.5 % on both sides.
    """

    baseline: str
    ratio: float
    low: float
    high: float
    precise: bool

    @property
    def verdict(self) -> SpeedWord:
        """Whether the model is faster than the baseline, as far as the interval tells."""
        return judge_speed(self.low, self.high)

    @property
    def text(self) -> str:
        """For people, short: `1.32x [1.30, 1.34]`, `about the same [0.97, 1.01]`, `unknown [0.43, 7.86]`."""
        word, ends = self.verdict, f"[{', '.join(interval_texts(self.low, self.high))}]"
        places = shown_decimals(self.low, self.high)
        return f"{word} {ends}" if places is None else f"{self.ratio:.{places}f}x {ends}"


@dataclass(frozen=True, slots=True)
class Case:
    """One kind and size of run.

    Attributes:
        kind: "prefill", "decode" or "run".
        batch: rows at once.
        length: tokens of the prompt or input; of decode those cached at the beginning; None without a length.
        rounds: in which all models ran in turn.
        timings: of the model, then of the baselines.
        speedups: against each baseline.
        waiting: share of the time in which the benchmark waited for a processor that others used; None where nothing
            tells.
    """

    kind: str
    batch: int
    length: int | None
    rounds: int
    timings: tuple[Timing, ...]
    speedups: tuple[Speedup, ...] = ()
    waiting: float | None = None

    def __str__(self) -> str:
        """For people: `decode, batch 1, after 128 tokens`."""
        length = "" if self.length is None else f", {'after ' * (self.kind == 'decode')}{self.length} tokens"
        return f"{self.kind}, batch {self.batch}{length}"

    @property
    def time_texts(self) -> list[str]:
        """The medians in milliseconds, for people: with so many digits that the speed-ups are their quotients."""
        first, *others = (timing.median_ms for timing in self.timings)
        return time_texts(first, others, [shown_decimals(speedup.low, speedup.high) for speedup in self.speedups])


@dataclass(frozen=True, slots=True, repr=False)
class Benchmark(Gated):
    """How fast a model is, beside its baselines.

    Attributes:
        model: the file.
        baselines: what it was compared with.
        provider: "cpu" or "cuda".
        clock: "wall", or "processor": the time that the one thread computing was on a processor.
        threads: inside an operator; None: ONNX Runtime's own choice.
        bandwidth: bytes a second read from memory, the best of several times during the benchmark.
        costs: size, load time and memory, of the model, then of the baselines.
        cases: what was timed.
        gates: limits and whether they hold.
        warnings: what the user should know.
        settings: what was asked for.
        environment: versions and the machine, by name.

    Example:
        >>> found = onnxfq.benchmark("model.int4.onnx", only="prefill", lengths=[16], loads=1, seconds=1)
        >>> found.cases[0].timings[0].tokens_per_second > 0
        True
    """

    model: str
    baselines: tuple[str, ...]
    provider: str
    clock: str
    threads: int | None
    bandwidth: float
    costs: tuple[ModelCost, ...]
    cases: tuple[Case, ...]
    gates: tuple[Gate, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        models = " against ".join(one_line(path) for path in (self.model, *self.baselines))
        times = (", ".join(s.text for s in case.speedups) or f"{case.time_texts[0]} ms" for case in self.cases)
        facts = (f"{case}: {told}" for case, told in zip(self.cases, times, strict=True))
        return f"<Benchmark {models}: {'; '.join(filter(None, (*facts, self._gates_text)))}>"

    def _repr_html_(self) -> str:
        rows = [
            (str(case), one_line(timing.model), f"{time} ms", speedup)
            for case in self.cases
            for timing, time, speedup in zip(
                case.timings, case.time_texts, ["", *(s.text for s in case.speedups)], strict=True
            )
        ]
        notes = [*(f"Gate {gate}" for gate in self.gates), *self.warnings]
        return notebook_table(self.model, ("", "model", "median", "speed-up over it"), rows, notes)

    def _gated(self) -> str:
        return self.model

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `version` is the layout's, and changes when a key is renamed, removed, or means another thing.

        Keys are the attributes of this class, with `costs`, `cases` and `gates` as lists of objects with those of
        `ModelCost`, `Case` (`timings`: `Timing`, and `limit_share` besides; `speedups`: `Speedup`) and `Gate`. What is
        not known is null.
        """
        found = asdict(self)
        for case, told in zip(self.cases, found["cases"], strict=True):
            for timing, entry in zip(case.timings, told["timings"], strict=True):
                entry["limit_share"] = timing.limit_share
        return {"version": JSON_VERSION, **found}
