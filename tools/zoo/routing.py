"""Exports of routed experts that hold for other inputs than the one that was traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    import transformers


@contextmanager
def every_expert(config: transformers.PretrainedConfig) -> Iterator[None]:
    """Let transformers go through all experts, as it did before it looked up those that the example's tokens chose.

    The loop over the latter is unrolled by tracing, into a file that fails where other experts are chosen.
    """
    import torch

    names = ("num_experts", "num_local_experts")
    count = next((getattr(config, name) for name in names if getattr(config, name, None)), 0)
    original = torch.Tensor.nonzero

    def nonzero(tensor: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        chosen = tensor.dim() == 1 and len(tensor) == count
        return torch.arange(count)[:, None] if chosen else original(tensor, *args, **kwargs)

    torch.Tensor.nonzero = nonzero
    try:
        yield
    finally:
        torch.Tensor.nonzero = original
