"""A model that runs with weights that are fed, and says how its loss changes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxfq.arrays import Array, Float32Array
from onnxfq.errors import OnnxfqError
from onnxfq.feeds import Feed, token_masks
from onnxfq.graph import LOSS, Loss, Submodel, TrainingModel, factor, teacher
from onnxfq.metrics.output_error import are_logits
from onnxfq.providers import ProviderName
from onnxfq.session import Session
from onnxfq.signature import Signature
from onnxfq.tuning.parameters import Parameter

_TRIED, _AGREES = 1e-3, 0.25  # change of all parameters that is tried, and how far what it does may be off


class NotTunableError(Exception):
    """Why a model cannot be tuned, for people."""


@dataclass(eq=False)
class Training:
    """Original and quantized model, side by side.

    Args:
        model: the quantized one.
        original: what its outputs ought to be like.
        signature: of both.
        parameters: what is fed, by name.
        fixed: what is fed and not tuned, by name.
        first: a sample, with the largest sizes.
        provider: where they run.
        threads: of an operator; None leaves the choice to ONNX Runtime.
        memory: bytes for what the original gives, which is computed again where it does not fit.

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
    fixed: dict[str, Float32Array]
    first: Feed
    provider: ProviderName
    threads: int | None = None
    memory: int = 0

    def __post_init__(self) -> None:
        """Make the sessions."""
        self._kept: dict[int, dict[str, Array]] = {}
        self._spreads = dict[str, float]()
        if not self.model.differentiable:
            raise NotTunableError("it is written for an older version of ONNX's operators, below 13")
        self.losses = _losses(self.signature)
        if not self.losses:
            raise NotTunableError("it has no output of floating-point numbers")
        fed = {name: parameter.value().shape for name, parameter in self.parameters.items()}
        try:
            shapes = self._shapes(fed)
            made, gradients = self.model.with_gradients(shapes, fed, self.losses)
        except OnnxfqError as error:
            raise NotTunableError(str(error)) from error
        self.blocked, self._names = gradients.blocked, dict(gradients.names)
        self.fixed |= {name: p.value() for name, p in self.parameters.items() if name not in self._names}
        self.parameters = {name: p for name, p in self.parameters.items() if name in self._names}
        if not self.parameters:
            raise NotTunableError(f"nothing is known of the gradient of {', '.join(self.blocked) or 'its outputs'}")
        self._session = self._load(made)
        self._inputs = {spec.name for spec in self._session.signature().inputs}

    def loss(self, feed: Feed) -> float:
        """Of one batch."""
        return self._run(feed, [])[0]

    def slopes(self, feed: Feed) -> tuple[float, dict[str, Float32Array]]:
        """The loss of one batch, and its gradients with respect to changes of the parameters."""
        loss, found = self._run(feed, list(self.parameters))
        return loss, {name: self.parameters[name].slope(gradient) for name, gradient in found.items()}

    def check(self) -> None:
        """Hold gradients against what a small change does.

        Raises:
            NotTunableError: they do not agree.
        """
        _, slopes = self.slopes(self.first)
        before = {name: p.changes().copy() for name, p in self.parameters.items()}
        ways = {name: np.sign(slope) * np.float32(_TRIED) for name, slope in slopes.items()}
        found = []
        for sign in (1, -1):
            for name, p in self.parameters.items():
                p.move(np.asarray(before[name] + sign * ways[name], np.float32))
            found.append(self.loss(self.first))
        for name, p in self.parameters.items():
            p.move(before[name])
        expected = 2 * sum(float((slopes[name].astype(np.float64) * way).sum()) for name, way in ways.items())
        if not abs(found[0] - found[1] - expected) <= _AGREES * abs(expected):
            raise NotTunableError(
                f"its gradients do not agree with what changes do (got {found[0] - found[1]:.3g}, wanted "
                f"{expected:.3g}); please report this"
            )

    def _shapes(self, fed: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        names = self.model.values(list(fed))
        if not names:
            raise NotTunableError("no product or vector that could be tuned stands in its main graph")
        forward = self.model.forward(fed, names)
        session = self._load(forward, passing=True)
        inputs = {spec.name for spec in session.signature().inputs}
        found = session.run(
            {n: v for n, v in {**self.first, **self.fixed, **self._values(fed)}.items() if n in inputs}, names
        )
        shapes = {name: tuple(value.shape) for name, value in found.items()}
        return {**{name: tuple(value.shape) for name, value in self.first.items()}, **shapes}

    def _values(self, names: Mapping[str, object]) -> dict[str, Array]:
        return {name: self.parameters[name].value() for name in names if name in self.parameters}

    def _run(self, feed: Feed, wanted: Sequence[str]) -> tuple[float, dict[str, Array]]:
        fed: dict[str, Array] = {**feed, **self.fixed, **self._values(dict.fromkeys(self.parameters))}
        told = self._kept.get(id(feed)) or self._told(feed)
        for output, loss in self.losses.items():
            fed[teacher(output)] = told[output].astype(np.float32)
            fed[factor(output)] = self._factor(feed, output, loss, told[output])
        names = [self._names[name] for name in wanted]
        found = self._session.run({n: v for n, v in fed.items() if n in self._inputs}, [LOSS, *names])
        return float(found[LOSS]), {name: found[self._names[name]] for name in wanted}

    def _told(self, feed: Feed) -> dict[str, Array]:
        """What the original gives for a batch, which lives as long as this object."""
        told = self.original.run(feed, list(self.losses))
        self.memory -= sum(value.nbytes for value in told.values())
        if self.memory >= 0:
            self._kept[id(feed)] = told
        return told

    def _factor(self, feed: Feed, output: str, loss: Loss, value: Array) -> Float32Array:
        """Squares count in parts of what the output varies by."""
        spread = 1.0 if loss == "kl" else self._spreads.setdefault(output, _spread(value))
        return counting(feed, self.signature, value) / np.float32(spread)

    def _load(self, made: Submodel, *, passing: bool = False) -> Session:
        return Session(
            made.model, provider=self.provider, threads=self.threads, external_data_folder=made.folder, passing=passing
        )


def counting(feed: Feed, signature: Signature, value: Array) -> Float32Array:
    """1 where an output's elements count, 0 at padding; broadcasts to the output."""
    for mask in token_masks(feed, signature):
        if value.ndim >= 2 and mask.shape == value.shape[:2]:
            return mask.reshape(*mask.shape, *[1] * (value.ndim - 2)).astype(np.float32)
    return np.ones((1,) * value.ndim, np.float32)


def _losses(signature: Signature) -> dict[str, Loss]:
    """Logits where there are any, else all outputs of floating-point numbers."""
    real = [spec.name for spec in signature.outputs if spec.dtype in ("float32", "float16", "bfloat16")]
    logits = [name for name in real if are_logits(name)]
    return dict.fromkeys(logits, "kl") or dict.fromkeys(real, "squares")


def _spread(value: Array) -> float:
    """Mean over rows of the squares about the mean of each feature, summed up."""
    rows = value.reshape(-1, value.shape[-1] if value.ndim else 1).astype(np.float64)
    found = float(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()) if rows.size else 0.0
    return found or 1.0
