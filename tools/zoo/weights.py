"""Random weights as trained ones are: heavy-tailed, with some large channels, so that outputs vary with the inputs.

What transformers starts training with is narrow: attention is then uniform, and every layer nearly linear.
"""

from __future__ import annotations

from typing import Any

LARGE = 4.0  # how much larger some channels are
RARE = 1 / 64  # the share of channels that are


def liven(model: Any, seed: int = 0) -> None:
    """Draw all parameters of a torch module anew.

    Matrices and convolutions keep the size of what goes through them; tables of embeddings have deviation 0.5; scales
    of norms lie around 1 and biases around 0.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = _drawn(name, parameter, id(parameter) in tables, generator)
            if drawn is not None:
                parameter.copy_(drawn)


def _drawn(name: str, parameter: Any, is_table: bool, generator: Any) -> Any:
    import torch

    shape, last = parameter.shape, name.rpartition(".")[2]
    noise = torch.randn(shape, generator=generator)
    if parameter.ndim == 0 or last in ("A_log", "D", "original0") or "dt_proj.bias" in name:
        return None  # a scale, a decay or the length of a direction: as it is
    if parameter.ndim == 1:
        return _vector(last, noise, generator)
    if is_table:
        return 0.5 * noise
    fan_in = parameter[0].numel() if parameter.ndim != 3 or "conv" in name else shape[1]
    tails = (torch.rand(shape, generator=generator).clamp_min(0.02)) ** -0.25
    channels = torch.exp(0.3 * torch.randn((1, *shape[1:2], *[1] * (len(shape) - 2)), generator=generator))
    return noise * tails * channels * (0.8 / fan_in**0.5)


def _vector(last: str, noise: Any, generator: Any) -> Any:
    import torch

    if last == "bias":
        return 0.05 * noise
    scale = 1 + 0.1 * noise
    scale[torch.rand(noise.shape, generator=generator) < RARE] *= LARGE
    return scale
