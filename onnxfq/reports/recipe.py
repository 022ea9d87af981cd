"""How to make a run again: its command line and its Python call, from what the report says."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from onnxfq.graph import IN_MEMORY
from onnxfq.reports.report import Report

FROM_PYTHON = "given: from Python"
SAMPLES = "SAMPLES"

_SCHEME = (
    "format", "bits", "block_size", "symmetric", "activations", "schemes", "embeddings", "others",
    "algorithm",
)  # fmt: skip
_NODES = ("target", "workload", "include", "exclude", "allow_slow", "constant_inputs", "unshare")
_DATA = ("calib", "tokenizer", "samples", "seq_len", "seed", "tune", "validate", "eval_data", "eval_text")
_MIX = ("target_size",)
_GATES = ("max_error", "max_kl", "min_cosine", "max_ppl_increase", "min_speedup")
_SPELLED = {"schemes": "--scheme"}
_FLAGS = {
    "symmetric": {True: "--symmetric", False: "--asymmetric"},
    "allow_slow": {True: "--allow-slow"},
    "constant_inputs": {True: "--constant-inputs"},
    "unshare": {True: "--unshare"},
    "validate": {False: "--no-validate"},
}


def command_line(report: Report) -> str:
    """The command that makes the run again, every setting named so that no default matters; quoted for a shell."""
    words = [
        "onnxfq",
        "inspect" if report.output is None else "quantize",
        "MODEL" if report.source == IN_MEMORY else _path(report.source),
    ]
    if report.output is not None:
        words += ["-o", _path(report.output)]
    for name, value in _settings(report):
        words += _option(name, SAMPLES if value == FROM_PYTHON else value)
    return shlex.join(words)


def python_call(report: Report) -> str:
    """The same as a Python expression."""
    source = "model" if report.source == IN_MEMORY else repr(report.source)
    places = [source] + ([repr(report.output)] if report.output is not None else [])
    settings = [f"{name}={'samples' if value == FROM_PYTHON else repr(value)}" for name, value in _settings(report)]
    verb = "inspect" if report.output is None else "quantize"
    return f"onnxfq.{verb}({', '.join([*places, *settings])})"


def _settings(report: Report) -> Iterator[tuple[str, Any]]:
    """Settings that were made and are known here, in the order of the help; the provider is the one that was used."""
    names = (*_SCHEME, "provider", *_NODES, *_MIX, *(() if report.output is None else (*_DATA, *_GATES)))
    chosen = {"format": "auto"} if report.settings.get("auto_format") else {}
    for name in names:
        value = {**report.settings, "provider": report.provider, **chosen}.get(name)
        chosen_by_mix = report.settings.get("target_size") is not None and name in ("bits", "block_size")
        if value is not None and value != [] and not chosen_by_mix:
            yield name, value


def _option(name: str, value: object) -> Iterator[str]:
    if name in _FLAGS:
        if isinstance(value, bool) and value in _FLAGS[name]:
            yield _FLAGS[name][value]
        return
    option = _SPELLED.get(name, f"--{name.replace('_', '-')}")
    for one in value if isinstance(value, list) else [value]:
        yield from [f"{option}={one}"] if str(one).startswith("-") else [option, str(one)]


def _path(path: str) -> str:
    """A path that is not taken for an option."""
    return f"./{path}" if path.startswith("-") else path
