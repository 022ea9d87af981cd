"""Settings in messages become the options that people type."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from onnxfq import pipeline
from onnxfq.commands import quantize as verbs
from onnxfq.commands.option_names import with_option_names
from onnxfq.errors import UsageError
from onnxfq.option_changes import Changes
from support.tiny import pair, quantize

SPELLINGS = {
    "`samples` must be 1 or more": "--samples must be 1 or more",
    "give `calib=FILE.npz`, or `validate=False`": "give --calib FILE.npz, or --no-validate",
    'use `calib="self"`': "use --calib self",
    'use `provider="cpu"`': "use --provider cpu",
    'got `executor="dask:…"`': "got --executor dask:…",
    "got `memory=2 GB`": "got --memory 2 GB",
    "choose another `output`": "choose another -o",
    "raise `seq_len`": "raise --seq-len",
    "`schemes=/h.0/up=bits:4,activations:float`": "--scheme /h.0/up=bits:4,activations:float",
    "`constant_inputs=True`": "--constant-inputs",
    "`unshare=True`": "--unshare",
    "`validate=False`, and no `calib`": "--no-validate, and no --calib",
    "`symmetric=True`, `symmetric=False`": "--symmetric, --asymmetric",
    "`resume=True` goes on": "--resume goes on",
    "`allow_slow=True`": "--allow-slow",
    "`data` or `text=FILE.txt` of `tokens`": "--data or --text FILE.txt of --tokens",
}


NO_OPTIONS = {"scheme", "validate", "auto_format"}  # pieces, a switch the other way round, a value of `format`


@pytest.mark.parametrize("message", SPELLINGS)
def test_settings_become_options(message: str) -> None:
    assert with_option_names(message) == SPELLINGS[message]


@pytest.mark.parametrize(
    "message",
    [
        "run `onnxfq inspect` or `pip install onnxfq[cuda]`",
        "one output `logits` [batch, classes]",
        "`logits=x` is nothing that anybody sets",
        "samples without marks, and `not closed",
        "no switch: `samples=False`",
        "a `model`, which is an argument",
    ],
)
def test_everything_else_stays(message: str) -> None:
    assert with_option_names(message) == message


@pytest.mark.parametrize("name", ["output", *sorted(set(Changes.__annotations__) - NO_OPTIONS)])
def test_every_setting_has_an_option(name: str) -> None:
    option = with_option_names(f"`{name}`")
    assert option == {"output": "-o", "schemes": "--scheme"}.get(name, f"--{name.replace('_', '-')}")


def test_the_library_names_settings_and_the_command_line_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pair(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"^`samples` must be 1 or more \(got 0\)\.$"):
        pipeline.quantize(model, samples=0)
    assert quantize(model, "--samples", "0") == 2
    assert capsys.readouterr().err == "Error: --samples must be 1 or more (got 0).\n"


def test_parameters_are_the_settings() -> None:
    parameters = set(inspect.signature(verbs.quantize).parameters)
    assert parameters >= set(Changes.__annotations__) - NO_OPTIONS
