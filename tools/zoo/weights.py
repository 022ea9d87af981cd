"""Random weights that are in some ways as trained ones: heavy-tailed, and with few strong directions.

What transformers starts training with is narrow and alike in all directions: attention is then uniform, layers are
nearly linear, and what goes through them fills all directions alike, which nothing that has been trained does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LARGE = 4.0  # how much larger some scales of norms are
RARE = 1 / 64  # the share of those
DECAY = 0.6  # the i-th strongest direction has 1 / i**DECAY of the strongest one's strength
MOST = 1024  # directions that are shaped
GAIN = 0.8  # of a layer, about
TABLE = 0.5  # deviation of embeddings
UNTOUCHED = ("A_log", "D", "original0")  # decays, and lengths of directions
UNSCALED_QUERIES = ("SelfAttention.q.weight", "EncDecAttention.q.weight")  # of T5, whose attention divides by nothing


def liven(model: torch.nn.Module, seed: int = 0) -> None:
    """Draw all parameters of a torch module anew.

    Matrices and convolutions keep the size of what goes through them; scales of norms lie around 1, biases around 0.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            last = name.rpartition(".")[2]
            if parameter.ndim == 0 or last in UNTOUCHED or "dt_proj.bias" in name:
                continue
            if parameter.ndim == 1:
                parameter.copy_(_vector(parameter.shape, generator, is_bias="bias" in last))
            elif id(parameter) in tables:
                parameter.copy_(TABLE * _shaped(torch.randn(parameter.shape, generator=generator), generator))
            else:
                parameter.copy_(_matrix(name, parameter.shape, generator))


def _vector(shape: torch.Size, generator: torch.Generator, *, is_bias: bool) -> torch.Tensor:
    import torch

    noise = torch.randn(shape, generator=generator)
    if is_bias:
        return 0.05 * noise
    scale = 1 + 0.1 * noise
    scale[torch.rand(shape, generator=generator) < RARE] *= LARGE
    return scale


def _matrix(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """A weight [outputs, inputs, …], or a stack of weights [experts, inputs, outputs]."""
    import torch

    is_stack = len(shape) == 3 and "conv" not in name
    fan_in = shape[1] if is_stack else shape[1:].numel()
    tails = torch.rand(shape, generator=generator).clamp_min(0.02) ** -0.25
    drawn = torch.randn(shape, generator=generator) * tails * (GAIN / fan_in**0.5)
    if name.endswith(UNSCALED_QUERIES):
        drawn *= (shape[0] // 4) ** -0.5
    return _shaped(drawn, generator) if len(shape) == 2 else drawn


def _shaped(drawn: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A matrix with few strong directions on both sides."""
    rows, columns = drawn.shape
    if rows <= MOST:
        drawn = _spectrum(rows, generator) @ drawn
    return drawn @ _spectrum(columns, generator) if columns <= MOST else drawn


def _spectrum(size: int, generator: torch.Generator) -> torch.Tensor:
    """A symmetric matrix that keeps the mean square of what it multiplies, and makes few of its directions strong."""
    import torch

    directions, _ = torch.linalg.qr(torch.randn((size, size), generator=generator))
    strengths = torch.arange(1, size + 1) ** -DECAY
    strengths = strengths / strengths.square().mean().sqrt()
    return directions * strengths @ directions.T
