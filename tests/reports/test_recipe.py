"""Commands and calls that make a run again."""

from __future__ import annotations

import ast
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import onnxfq
from onnxfq import cli
from onnxfq.option_changes import Changes
from onnxfq.reports.recipe import command_line, python_call
from support.reports import EVIL, evil, run
from support.tiny import entries, pair


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bits": 4, "symmetric": True, "activations": "float", "include": ["first"], "validate": False},
        {"block_size": "channel", "exclude": ["se.*d", "-x-"], "allow_slow": True, "algorithm": "hqq", "seed": 3},
        {"target_size": "24%", "algorithm": "rtn", "embeddings": "float"},
        {"calib": "self", "samples": 2, "max_error": 0.9, "min_speedup": 1e-9, "algorithm": "gptq:damping=0.1"},
    ],
)
def test_the_command_makes_the_same_file_again(tmp_path: Path, changes: Changes) -> None:
    model = pair(tmp_path / "a model's.onnx", "first", "second -x-" if "exclude" not in changes else "-x-")
    changes = {**changes, "exclude": ["-x-"]} if "exclude" in changes else changes
    report = onnxfq.quantize(model, tmp_path / "o.onnx", **changes)
    made = (tmp_path / "o.onnx").read_bytes()
    (tmp_path / "o.onnx").unlink()
    words = shlex.split(command_line(report))
    assert words[0] == "onnxfq"
    assert cli.run(words[1:]) == 0
    assert (tmp_path / "o.onnx").read_bytes() == made
    (tmp_path / "o.onnx").unlink()
    again = eval(python_call(report), {"onnxfq": onnxfq})
    assert (tmp_path / "o.onnx").read_bytes() == made
    assert again.settings == report.settings


def test_the_command_inspects_again(tmp_path: Path) -> None:
    report = onnxfq.inspect(pair(tmp_path / "m.onnx"), bits=2, include="first", calib="nowhere.npz")
    words = shlex.split(command_line(report))
    assert words[:3] == ["onnxfq", "inspect", str(tmp_path / "m.onnx")]
    assert cli.run(words[1:]) == 0
    assert entries(tmp_path) == ["m.onnx"]


def test_samples_from_python_have_to_be_given_again(tmp_path: Path) -> None:
    samples = [{"x": np.ones((4, 64), np.float32)}]
    report = onnxfq.quantize(pair(tmp_path / "m.onnx"), calib=samples)
    assert "--calib SAMPLES" in command_line(report)
    assert "calib=samples" in python_call(report)


def test_nothing_in_a_report_becomes_another_word_of_the_command() -> None:
    hostile = "x; rm -rf ~ $(id) `id` \n' \""
    report = run(
        source="-rf", output=hostile, settings={"include": [hostile, "--exclude"], "rm": "x", "bits": {"a": 1}}
    )
    words = shlex.split(command_line(report))
    assert words[:5] == ["onnxfq", "quantize", "./-rf", "-o", hostile]
    assert words[words.index("--include") + 1] == hostile
    assert "--include=--exclude" in words
    assert "--rm" not in words
    (call,) = ast.parse(python_call(replace(evil(), output=hostile))).body
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    assert [ast.literal_eval(a) for a in call.value.args] == [EVIL, hostile]
