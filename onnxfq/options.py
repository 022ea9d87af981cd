"""Everything that a run can be asked for, from Python and from the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict

from onnxfq.errors import UsageError
from onnxfq.scheme import Scheme
from onnxfq.session import resolve_provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All settings of `quantize` and `inspect`.

    Attributes:
        scheme: what to quantise to.
        algorithm: what chooses the codes: "auto", "rtn" or "hqq".
        provider: where models run and what the output is made for: "auto", "cpu" or "cuda".
        include: regular expressions (or one); with any, only nodes whose name one of them matches are quantised.
        exclude: regular expressions (or one); nodes whose name one of them matches are left alone.
        allow_slow: write formats that run slower than floating point.
        calib: inputs of the comparison: .npz, a folder of them, .jsonl or .txt; None makes some up.
        tokenizer: the folder of tokenizer.json; None looks beside the model.
        samples: how many samples to use at most.
        seq_len: longest sample, in tokens.
        seed: of everything that is made up.
        threads: threads to use at most; None for all.
        validate: compare the output with the original.
        max_error: gate: the largest relative MSE allowed over the floating outputs.
        min_speedup: gate: the smallest speed-up allowed.

    Raises:
        UsageError: a value that makes no sense.
    """

    scheme: Scheme = field(default_factory=Scheme)
    algorithm: str = "auto"
    provider: str = "auto"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    allow_slow: bool = False
    calib: str | Path | None = None
    tokenizer: str | Path | None = None
    samples: int = 128
    seq_len: int = 512
    seed: int = 0
    threads: int | None = None
    validate: bool = True
    max_error: float | None = None
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        """Bring values into one form and refuse what makes no sense."""
        for name in ("include", "exclude"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        self._check_numbers()
        self._check_gates()
        if str(self.calib) == "self":
            raise UsageError(
                "This version cannot make calibration data from the model itself yet (got --calib self). "
                "Give a .npz, .jsonl or .txt file, or leave --calib out. Or name a folder by its full path."
            )

    def _check_numbers(self) -> None:
        for name, least in (("samples", 1), ("seq_len", 1), ("threads", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{_dashed(name)} must be {least} or more (got {value}).")

    def _check_gates(self) -> None:
        gates = {name: value for name in ("max_error", "min_speedup") if (value := getattr(self, name)) is not None}
        for name, value in gates.items():
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"--{_dashed(name)} must be a number of 0 or more (got {value}).")
        if gates and not self.validate:
            named = " and ".join(f"--{_dashed(name)}" for name in gates)
            raise UsageError(f"{named} needs the comparison that --no-validate leaves out. Drop one of them.")

    def as_json(self) -> dict[str, Any]:
        """Settings to reproduce a run with."""
        scheme = {name: getattr(self.scheme, name) for name in _SCHEME}
        names = ("allow_slow", "samples", "seq_len", "seed", "max_error", "min_speedup")
        lists = {name: list(getattr(self, name)) for name in ("include", "exclude")}
        paths = {"calib": _text(self.calib), "tokenizer": _text(self.tokenizer)}
        return {**scheme, "algorithm": self.algorithm, **lists, **{n: getattr(self, n) for n in names}, **paths}


class Changes(TypedDict, total=False):
    """Single settings: the fields of `Options`, and those of its `Scheme`.

    `block_size` may be a number in text; `symmetric=None` leaves the choice to the provider.
    """

    scheme: Scheme
    bits: int
    block_size: int | str
    symmetric: bool | None
    activations: str
    algorithm: str
    provider: str
    include: Sequence[str]
    exclude: Sequence[str]
    allow_slow: bool
    calib: str | Path | None
    tokenizer: str | Path | None
    samples: int
    seq_len: int
    seed: int
    threads: int | None
    validate: bool
    max_error: float | None
    min_speedup: float | None


_SCHEME = tuple(f.name for f in fields(Scheme))


def choose_options(options: Options | None, changes: Changes) -> Options:
    """Settings given all at once, one by one, or both.

    Where nothing says whether the scheme is symmetric, the provider decides: it is on CUDA.

    Raises:
        TypeError: no such setting, or a scheme both as a whole and in pieces.
        UsageError: a value that makes no sense.
    """
    given: dict[str, Any] = dict(changes)
    unknown = sorted(set(given) - set(Changes.__annotations__))
    if unknown:
        raise TypeError(f"Unknown settings: {', '.join(unknown)}. There are: {', '.join(Changes.__annotations__)}.")
    pieces = {name: given.pop(name) for name in _SCHEME if name in given}
    if pieces and "scheme" in given:
        raise TypeError(f"Give either scheme or its pieces, not both (got scheme and {', '.join(pieces)}).")
    chosen = replace(options or Options(), **given)
    if options is None and "scheme" not in given and pieces.get("symmetric") is None:
        pieces["symmetric"] = resolve_provider(chosen.provider) == "cuda"
    return replace(chosen, scheme=_changed(chosen.scheme, pieces))


def _changed(scheme: Scheme, pieces: dict[str, Any]) -> Scheme:
    block_size = pieces.get("block_size")
    if isinstance(block_size, str) and block_size.removeprefix("-").isdecimal():
        pieces["block_size"] = int(block_size)
    return replace(scheme, **{name: value for name, value in pieces.items() if value is not None})


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _dashed(name: str) -> str:
    return name.replace("_", "-")
