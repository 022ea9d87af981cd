"""What a decoder reads of its encoder: where that lies beside it, states that it really gives instead of noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxfq.arrays import Array
from onnxfq.feeds.feed import Feed, Feeds
from onnxfq.feeds.generate import element_type, fill, generate
from onnxfq.feeds.names import stem, takes_token_ids
from onnxfq.session import Session
from onnxfq.signature import Signature, TensorSpec

_STATES, _MASKS = "encoder_hidden_states", ("encoder_attention_mask", "attention_mask")
_OUTPUT = "last_hidden_state"


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """An encoder that can run.

    Attributes:
        session: its.
        signature: its.
    """

    session: Session
    signature: Signature


def reads_encoder(signature: Signature) -> bool:
    """Whether a model reads the states of an encoder."""
    return _input(signature, _STATES) is not None


def generate_behind(
    encoder: Encoder, signature: Signature, *, samples: int, seq_len: int, seed: int, shortest: int
) -> Feeds:
    """Make up inputs of a decoder: the states that its encoder gives for made-up inputs, and tokens by chance.

    Args:
        encoder: the decoder's.
        signature: of the decoder.
        samples: how many.
        seq_len: tokens of a sample at most, for encoder and decoder.
        seed: of the random generator.
        shortest: tokens of a sample at least, where its length is left to chance.

    Raises:
        DataError: nothing can be made up for an input, or the encoder does not run on that.
        ModelError: the encoder does not run.
    """
    texts = any(takes_token_ids(spec) for spec in encoder.signature.inputs)
    read = generate(
        encoder.signature, samples=samples, seq_len=seq_len, seed=seed, shortest=shortest if texts else None
    )
    made = []
    for index, states in enumerate(_states(encoder, read, signature)):
        rng = np.random.default_rng([seed, index, 1])
        length = int(rng.integers(min(shortest, seq_len), seq_len + 1))
        made.append(fill(states, signature, rng, seq_len=length))
    return Feeds(tuple(made), "generated behind the encoder", is_generated=True)


def _states(encoder: Encoder, feeds: Feeds, signature: Signature) -> Iterator[Feed]:
    """What the decoder takes over of each of the encoder's runs: its states, and the mask of what it read."""
    states, mask = _input(signature, _STATES), _input(signature, _MASKS[0])
    for feed in feeds:
        found = encoder.session.run(feed)
        taken: Feed = {}
        if states is not None:
            taken[states.name] = _as(states, next((a for n, a in found.items() if stem(n) == _OUTPUT), _first(found)))
        read = next((array for name, array in feed.items() if stem(name) in _MASKS), None)
        if mask is not None and read is not None:
            taken[mask.name] = _as(mask, read)
        yield taken


def _input(signature: Signature, name: str) -> TensorSpec | None:
    return next((spec for spec in signature.inputs if stem(spec.name) == name), None)


def _first(found: dict[str, Array]) -> Array:
    return next(iter(found.values()))


def _as(spec: TensorSpec, array: Array) -> Array:
    """An array in the type that an input has."""
    return array.astype(element_type(spec))
