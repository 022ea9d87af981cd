"""Single settings on top of all the others, as Python and the command line take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from onnxfq.errors import UsageError
from onnxfq.machines import find_machine
from onnxfq.options import SCHEME_FIELDS, CalibrationData, Options
from onnxfq.providers import facts
from onnxfq.scheme import Scheme
from onnxfq.session import resolve_provider
from onnxfq.setting_types import nearest_names
from onnxfq.size_target import parse_bytes
from onnxfq.weight_formats import USUAL_FORMAT

AUTO_FORMAT = "auto"


class Changes(TypedDict, total=False):
    """Single settings: the fields of `Options`, and those of its `Scheme`.

    `block_size` may be a number in text, and `memory` a size such as "2GB". `format="auto"` is `auto_format=True`. What
    of a scheme is None is left to the format, and `symmetric` to the machine that the output is made for where the
    format leaves it open.
    """

    scheme: Scheme
    format: str
    bits: int | None
    block_size: int | str | None
    symmetric: bool | None
    activations: str | None
    schemes: Mapping[str, Mapping[str, Any]] | Sequence[str]
    embeddings: int | str
    others: str
    algorithm: str
    provider: str
    include: Sequence[str]
    exclude: Sequence[str]
    target: str
    workload: str | int | Sequence[int] | None
    auto_format: bool
    allow_slow: bool
    constant_inputs: bool
    unshare: bool
    layout: str
    calib: CalibrationData | None
    tokenizer: str | Path | None
    samples: int | None
    seq_len: int
    seed: int
    work_dir: str | Path | None
    resume: bool
    memory: int | str
    threads: int | None
    executor: str | Executor | None
    tune: int
    target_size: str | int | None
    validate: bool
    max_error: str | float | None
    max_kl: str | float | None
    min_cosine: str | float | None
    max_ppl_increase: str | float | None
    eval_data: CalibrationData | None
    eval_text: str | Path | None
    min_speedup: str | float | None


def choose_options(options: Options | None, changes: Changes) -> Options:
    """Settings given all at once, one by one, or both.

    Where nothing says whether the scheme is symmetric, the machine that the output is made for decides.

    Raises:
        TypeError: no such setting, or a scheme both as a whole and in pieces.
        UsageError: a value that makes no sense.
    """
    given: dict[str, Any] = dict(changes)
    unknown = sorted(set(given) - set(Changes.__annotations__))
    if unknown:
        raise TypeError(
            f"Unknown settings: {', '.join(unknown)}. There are: {', '.join(Changes.__annotations__)}."
            f"{nearest_names(unknown, Changes.__annotations__)}"
        )
    if given.get("format") == AUTO_FORMAT:
        given["auto_format"] = bool(given.pop("format"))
    pieces = {name: given.pop(name) for name in SCHEME_FIELDS if name in given}
    if pieces and "scheme" in given:
        raise TypeError(f"Give either scheme or its pieces, not both (got scheme and {', '.join(pieces)}).")
    if "memory" in given:
        given["memory"] = parse_bytes(given["memory"], "`memory`")
    chosen = replace(options or Options(), **given)
    _changed(chosen.scheme, pieces)  # refuses what does not exist, before anything is asked of ONNX Runtime
    usual = pieces.get("format") in (None, USUAL_FORMAT)  # others decide themselves
    if options is None and "scheme" not in given and usual and pieces.get("symmetric") is None:
        provider = resolve_provider(chosen.provider)
        machine = find_machine(chosen.target, provider)
        pieces["symmetric"] = machine.prefers_symmetric or facts(machine.provider).prefers_symmetric
    _refuse_fixed_bits(chosen, pieces)
    return replace(chosen, scheme=_changed(chosen.scheme, pieces))


def _refuse_fixed_bits(chosen: Options, pieces: Mapping[str, Any]) -> None:
    """Refuse bits or block sizes for all weights where those of each are to be chosen.

    Raises:
        UsageError: some are given.
    """
    given = [f"{name}={pieces[name]}" for name in ("bits", "block_size") if pieces.get(name) is not None]
    if given and chosen.target_size is not None:
        raise UsageError(
            f"`target_size` chooses bits and block size of each weight (got {' and '.join(given)} too). Drop "
            "`target_size` or these; what single nodes are to have is said with `schemes`."
        )


def _changed(scheme: Scheme, pieces: dict[str, Any]) -> Scheme:
    return scheme.changed({name: value for name, value in pieces.items() if value is not None})
