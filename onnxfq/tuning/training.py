"""A model that runs with weights that are fed, and says how its loss changes with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from onnxfq.arrays import Array, Float32Array
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import Feed, token_masks
from onnxfq.graph import LOSS, Loss, Submodel, TrainingModel, factor, teacher
from onnxfq.metrics.output_error import are_logits
from onnxfq.metrics.running_sums import Spread
from onnxfq.providers import ProviderName
from onnxfq.session import Session
from onnxfq.signature import Signature
from onnxfq.system.terminal import size_text
from onnxfq.tuning.parameters import Parameter, TunedScales

_TRIED = 1e-3  # change of parameters by which gradients are checked
_AGREES = 0.25  # how far what it does may be from what they say, in parts of that
_MOST_SHAPED = 4  # samples whose shapes are looked at
_SPREAD_OVER = 64  # samples over which outputs vary
_KEPT = 4  # part of the memory that holds what the original gives, at most
_TIMES = 3  # values, their gradients, and what is made of both on the way


class NotTunableError(Exception):
    """Why a model cannot be tuned, for people."""


@dataclass(eq=False)
class Training:
    """Original and quantized model, side by side.

    Args:
        model: the quantized one.
        original: what its outputs ought to be like.
        signature: of both.
        parameters: what is fed and tuned, by name; those that have no gradient leave it.
        fixed: what is fed and not tuned, by name.
        samples: some that the models will run on; they live as long as this object.
        provider: where they run.
        threads: of an operator; None leaves the choice to ONNX Runtime.
        memory: bytes that values of one sample may take; a part of it keeps what the original gives.

    Attributes:
        losses: the outputs that count.
        blocked: operators through which gradients do not go.

    Raises:
        NotTunableError: it cannot be.
    """

    model: TrainingModel
    original: Session
    signature: Signature
    parameters: dict[str, Parameter]
    fixed: Mapping[str, Float32Array]
    samples: Sequence[Feed]
    provider: ProviderName
    threads: int | None
    memory: int

    def __post_init__(self) -> None:
        """Make the sessions."""
        self._kept: dict[int, dict[str, Array]] = {}
        self._room = self.memory // _KEPT
        if self.model.unfit:
            raise NotTunableError(self.model.unfit)
        real = [spec.name for spec in self.signature.outputs if spec.dtype in ("float32", "float16")]
        if not real:
            raise NotTunableError("it has no output in float32 or float16")
        with _explained():
            self.losses, self._spreads = self._choose_losses(real)
            fed = {name: parameter.value().shape for name, parameter in self.parameters.items()}
            made, gradients = self.model.with_gradients(self._shapes(fed), fed, self.losses)
            self._session = self._load(made)
        self.blocked, self._names = gradients.blocked, dict(gradients.names)
        still = {name: p.value() for name, p in self.parameters.items() if name not in self._names}
        self._still = {**self.fixed, **still}
        self.parameters = {name: p for name, p in self.parameters.items() if name in self._names}
        if not self.parameters:
            raise NotTunableError(f"nothing is known of the gradient of {', '.join(self.blocked) or 'its outputs'}")
        self._inputs = _fed_by(self._session)

    def loss(self, feed: Feed) -> float:
        """Of one batch.

        Raises:
            NotTunableError: the model does not run on it.
        """
        return self._run(feed, [])[0]

    def slopes(self, feed: Feed) -> dict[str, Float32Array]:
        """The gradients of the loss of one batch with respect to changes of the parameters.

        Raises:
            NotTunableError: the model does not run on it.
        """
        _, found = self._run(feed, list(self.parameters))
        return {name: self.parameters[name].slope(gradient) for name, gradient in found.items()}

    def check(self) -> None:
        """Hold gradients against what a small change does, of scales and of vectors.

        Raises:
            NotTunableError: they do not agree, or there is no sample whose loss is a number.
        """
        feed = next((feed for feed in self.samples if math.isfinite(self.loss(feed))), None)
        if feed is None:
            raise NotTunableError("its loss is no number on any sample")
        slopes = self.slopes(feed)
        scales = [name for name, parameter in self.parameters.items() if isinstance(parameter, TunedScales)]
        for group in (scales, [name for name in self.parameters if name not in scales]):
            if group:
                self._check(feed, {name: slopes[name] for name in group})

    def _check(self, feed: Feed, slopes: Mapping[str, Float32Array]) -> None:
        before = {name: self.parameters[name].changes() for name in slopes}
        ways = {name: np.sign(slope) * np.float32(_TRIED) for name, slope in slopes.items()}
        found = []
        for sign in (1, -1):
            for name, way in ways.items():
                self.parameters[name].move(np.asarray(before[name] + sign * way, np.float32))
            found.append(self.loss(feed))
        for name in slopes:
            self.parameters[name].move(before[name])
        expected = 2 * sum(float((slopes[name].astype(np.float64) * way).sum()) for name, way in ways.items())
        if not abs(found[0] - found[1] - expected) <= _AGREES * abs(expected):
            raise NotTunableError(
                f"its gradients do not agree with what changes do (got {found[0] - found[1]:.3g}, wanted "
                f"{expected:.3g}); please report this"
            )

    def _choose_losses(self, real: Sequence[str]) -> tuple[dict[str, Loss], dict[str, float]]:
        """Logits where there are any, else all outputs; and what squares are divided by."""
        seen = {name: _Variation() for name in real}
        for feed in self.samples[:_SPREAD_OVER]:
            for name, value in self.original.run(feed, real).items():
                seen[name].add(value)
        logits = [name for name in real if are_logits(name) and seen[name].width > 1]
        if logits:
            return dict.fromkeys(logits, "kl"), {}
        return dict.fromkeys(real, "squares"), {name: found.variation for name, found in seen.items()}

    def _shapes(self, fed: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Of values in float32, the largest in some runs."""
        names = self.model.values(list(fed))
        if not names:
            raise NotTunableError("there are no products or vectors in float32 in its main graph")
        session = self._load(self.model.forward(fed, names), passing=True)
        inputs, found = _fed_by(session), dict[str, tuple[int, ...]]()
        lost, most = set[str](), 0
        for feed in _widest(self.samples):
            values = {**feed, **self.fixed, **self._values(fed)}
            run = session.run({name: value for name, value in values.items() if name in inputs}, names)
            most = max(most, sum(value.nbytes for value in run.values()))
            for name, value in {**feed, **run}.items():
                shape = found.setdefault(name, value.shape)
                if len(shape) != value.ndim or value.dtype != np.float32:
                    lost.add(name)
                else:
                    found[name] = tuple(map(max, shape, value.shape))
        if _TIMES * most > self.memory:
            raise NotTunableError(
                f"what it computes on a sample takes about {size_text(_TIMES * most)}, there and back (got "
                f"`memory={size_text(self.memory)}`); shorter samples take less"
            )
        return {name: shape for name, shape in found.items() if name not in lost}

    def _values(self, names: Mapping[str, object]) -> dict[str, Array]:
        return {name: self.parameters[name].value() for name in names if name in self.parameters}

    def _run(self, feed: Feed, wanted: Sequence[str]) -> tuple[float, dict[str, Array]]:
        fed: dict[str, Array] = {**feed, **self._still, **self._values(self.parameters)}
        with _explained():
            told = self._kept.get(id(feed)) or self._told(feed)
            for output in self.losses:
                fed[teacher(output)] = told[output].astype(np.float32)
                counts = counting(feed, self.signature, told[output])
                fed[factor(output)] = np.asarray(counts / self._spreads.get(output, 1.0), np.float32)
            names = [self._names[name] for name in wanted]
            found = self._session.run({n: v for n, v in fed.items() if n in self._inputs}, [LOSS, *names])
        return float(found[LOSS]), {name: found[self._names[name]] for name in wanted}

    def _told(self, feed: Feed) -> dict[str, Array]:
        """What the original gives for a sample, kept where there is room."""
        told = self.original.run(feed, list(self.losses))
        taken = sum(value.nbytes for value in told.values())
        if taken <= self._room:
            self._room -= taken
            self._kept[id(feed)] = told
        return told

    def _load(self, made: Submodel, *, passing: bool = False) -> Session:
        return Session(
            made.model, provider=self.provider, threads=self.threads, external_data_folder=made.folder, passing=passing
        )


@dataclass
class _Variation:
    """How much an output of the original varies."""

    spread: Spread = field(default_factory=Spread)
    squares: float = 0.0
    rows: int = 0
    width: int = 0

    def add(self, value: Array) -> None:
        """Add a sample's."""
        self.width = value.shape[-1] if value.ndim else 1
        rows = value.reshape(-1, self.width).astype(np.float64) if value.size else np.zeros((0, self.width))
        finite = np.isfinite(rows)
        self.rows += len(rows)
        self.squares += float((rows[finite] ** 2).sum())
        if rows.size:
            self.spread.add(rows, finite)

    @property
    def variation(self) -> float:
        """Of a row; where all are alike, its mean square; 1 where there is none."""
        total = self.spread.total() if self.rows else 0.0
        return (total or self.squares) / max(1, self.rows) or 1.0


@contextmanager
def _explained() -> Iterator[None]:
    """What does not load or run cannot be tuned.

    Raises:
        NotTunableError: with the reason.
    """
    try:
        yield
    except (DataError, ModelError) as error:
        raise NotTunableError(str(error).rstrip(". ")) from error


def _fed_by(session: Session) -> set[str]:
    """All inputs, those that have values of their own included."""
    signature = session.signature()
    return {spec.name for spec in (*signature.inputs, *signature.defaults)}


def _widest(samples: Sequence[Feed]) -> list[Feed]:
    """Samples in which every axis of every input is as long as it gets, as far as few can be."""
    longest: dict[tuple[str, int], tuple[int, int]] = {}
    for index, feed in enumerate(samples):
        for name, value in feed.items():
            for axis, size in enumerate(value.shape):
                longest[name, axis] = max(longest.get((name, axis), (0, 0)), (size, -index))
    chosen = dict.fromkeys(-index for _, index in longest.values()) or {0: None}
    return [samples[index] for index in list(chosen)[:_MOST_SHAPED]]


def counting(feed: Feed, signature: Signature, value: Array) -> Float32Array:
    """1 where an output's elements count, 0 at padding; broadcasts to the output.

    Padding is known of outputs [batch, tokens, …, features].
    """
    for mask in token_masks(feed, signature):
        if value.ndim >= 3 and mask.shape == value.shape[:2]:
            return mask.reshape(*mask.shape, *[1] * (value.ndim - 2)).astype(np.float32)
    return np.ones((1,) * value.ndim, np.float32)
