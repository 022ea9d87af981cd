"""The command line: what it prints where, and with which code it exits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxfq import cli, pipeline
from onnxfq.session import available_providers
from onnxfq.system.threads import thread_count
from onnxfq.version import VERSION
from support.models import model as parse
from support.models import write
from support.tiny import QUICK, contents, entries, inspect, pair, quantize, weight

EVIL = "[bold]evil[/bold] :warning: \x1b[31mred\x07 \u202e\x9b2J"
SHOWN = "[bold]evil[/bold] :warning: \\x1b[31mred\\x07 \\u202e\\x9b2J"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return pair(tmp_path / "m.onnx")


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    return pair(tmp_path / "m.onnx", EVIL, "[/] \\")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


Output = pytest.CaptureFixture[str]


def test_quantize_writes_beside_the_source_prints_tables_on_stdout_and_the_rest_on_stderr(
    model: Path, capsys: Output
) -> None:
    assert quantize(model, *QUICK) == 0
    assert entries(model.parent) == ["m.int4.onnx", "m.onnx"]
    out, err = capsys.readouterr()
    assert "m.int4.onnx" in out
    assert "file size" in out
    for text in ("verifying", "Note: NOT VALIDATED"):
        assert text in err
        assert text not in out
    assert "file size" not in err


def test_quiet_prints_neither(model: Path, capsys: Output) -> None:
    assert quantize(model, *QUICK, "-q") == 0
    assert capsys.readouterr() == ("", "")


def test_a_folder_as_output_of_a_file_is_where_it_is_written(model: Path, capsys: Output) -> None:
    folder = model.parent / "there"
    folder.mkdir()
    assert quantize(model, *QUICK, "-o", folder) == 0
    assert entries(folder) == ["m.int4.onnx"]
    assert str(folder / "m.int4.onnx") in capsys.readouterr().out
    assert quantize(model, *QUICK, "--bits", "8", "-o", f"{folder}/", "--report", folder / "r.json") == 0
    assert entries(folder) == ["m.int4.onnx", "m.int8.onnx", "r.json"]


def test_a_slash_behind_the_output_makes_the_folder(model: Path, capsys: Output) -> None:
    assert quantize(model, *QUICK, "-o", f"{model.parent}/new/") == 0
    assert entries(model.parent / "new") == ["m.int4.onnx"]
    assert quantize(model, *QUICK, "-o", f"{model.parent}/nowhere/new/") == 3
    assert "Cannot make the folder" in capsys.readouterr().err
    assert quantize(model, *QUICK, "-o", f"{model}/") == 3
    assert entries(model.parent) == ["m.onnx", "new"]


def test_a_folder_that_was_made_in_vain_goes_again(model: Path) -> None:
    assert quantize(model, *QUICK, "-o", f"{model.parent}/new/", "--include", "nowhere") == 2
    assert entries(model.parent) == ["m.onnx"]


def test_what_is_quantized_already_is_left_in_one_line(model: Path, capsys: Output) -> None:
    assert quantize(model, *QUICK) == 0
    done = model.with_name("m.int4.onnx")
    before = contents(model.parent)
    capsys.readouterr()
    assert quantize(done, "-o", model.with_name("again.onnx"), "--max-kl", "1") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == (f"'{done}' is already quantized: nothing was left to do, and nothing was written.")
    assert len(err.splitlines()) == 1
    assert quantize(done, "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert quantize(done, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["output"], told["targets"]) == (None, [])
    assert contents(model.parent) == before


def test_validation_is_on_by_default_and_says_where_its_inputs_come_from(model: Path, capsys: Output) -> None:
    assert quantize(model, "--algorithm", "rtn") == 0
    out, err = capsys.readouterr()
    assert "relative MSE" in out
    assert "time, first sample" in out
    assert "inputs generated" in out
    assert "made up" in err


def test_json_is_one_object_on_stdout_that_names_every_node(tmp_path: Path, capsys: Output) -> None:
    body = "a = MatMul(x, w) b = Gemm(a, small) c = Gemm(a, large) d = Transpose(b) y = MatMul(d, c)"
    proto = parse(body, y="float[8, 64] y", w=weight(), small=weight(1, 64, 8), large=weight(2))
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"
    source = write(proto, tmp_path / "m.onnx")
    assert quantize(source, "--algorithm", "rtn", "--json", "--max-error", "1") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert {"version", "targets", "skipped", "outputs", "latency", "size", "gates"} <= set(told)
    assert [t["name"] for t in told["targets"]] == ["node0", "node2"]
    assert {s["name"]: bool(s["reason"]) for s in told["skipped"]} == {"node1": True, "node4": True}
    assert [o["name"] for o in told["outputs"]] == ["y"]
    assert told["gates"][0]["passed"] is True
    assert told["latency"][0]["speedup"] > 0
    assert told["size"]["output_bytes"] == (tmp_path / "m.int4.onnx").stat().st_size
    assert "{" not in err


def test_inspect_tells_the_same_and_writes_nothing(model: Path, capsys: Output) -> None:
    assert inspect(model, "--exclude", "second", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [t["name"] for t in told["targets"]] == ["first"]
    assert "second" in told["skipped"][0]["reason"]
    assert told["output"] is None
    assert inspect(model) == 0
    out, err = capsys.readouterr()
    assert "Estimate" in out
    assert err == ""
    assert entries(model.parent) == ["m.onnx"]


def test_inspect_shows_a_model_without_targets(tmp_path: Path, capsys: Output) -> None:
    assert inspect(write(parse("y = Relu(x)", y="float[M, 64] y"), tmp_path / "m.onnx")) == 0
    assert "Nothing to quantize" in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_failed_gate_exits_with_1_and_keeps_and_names_the_output(
    model: Path, capsys: Output, more: tuple[str, ...]
) -> None:
    assert quantize(model, "--algorithm", "rtn", "--max-error", "1e-9", "--min-speedup", "0", *more) == 1
    out, err = capsys.readouterr()
    assert "m.int4.onnx" in entries(model.parent)
    assert f"The output is kept: {model.with_name('m.int4.onnx')}" in err
    if more:
        assert [(g["name"], g["passed"]) for g in json.loads(out)["gates"]] == [
            ("max-error", False),
            ("min-speedup", True),
        ]


WRONG_USAGE = {
    "--bits 5": "Use 2, 4 or 8",
    "--bits four": "--bits",
    "--block-size 24": "not a power of two",
    "--block-size 8": "out of range",
    "--block-size -32": "out of range",
    "--block-size row": "'channel' or 'tensor'",
    "--activations int4": "int4",
    "--algorithm magic": "Use auto, ",
    "--algorithm rtn:rounds=1": "rtn has no options",
    "--memory lots": "--memory must be a size (got 'lots'). Write 2GB",
    "--memory -1": "--memory must be a size",
    "--provider gpu": "gpu",
    "--include (": "regular expressions",
    "--exclude [": "regular expressions",
    "--include nowhere": "matches --include nowhere",
    "--exclude nowhere": "matches --exclude nowhere",
    "--samples 0": "--samples must be 1 or more",
    "--seq-len 0": "--seq-len must be 1 or more",
    "--seed -1": "--seed must be 0 or more",
    "--threads 0": "--threads must be 1 or more",
    "--threads many": "--threads",
    "--max-error -1": "--max-error must be",
    "--max-error nan": "--max-error must be",
    "--max-error inf": "--max-error must be",
    "--min-speedup -0.5": "--min-speedup must be",
    "--min-speedup nan": "--min-speedup must be",
    "--max-error 1 --no-validate": "--max-error needs the comparison",
    "--min-speedup 1 --max-error 1 --no-validate": "--max-error and --min-speedup need",
    "--report r.txt": ".json",
    "--report nowhere/r.json": "does not exist",
    "--report m.onnx": ".json",
    "--bits 8 --activations float": "The nearest fast scheme is",
    "--unknown": "--unknown",
    "extra": "extra",
}


@pytest.mark.parametrize("arguments", WRONG_USAGE)
def test_wrong_usage_exits_with_2_and_says_why(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, arguments: str
) -> None:
    monkeypatch.chdir(model.parent)
    assert quantize("m.onnx", *arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert WRONG_USAGE[arguments] in err
    assert "Traceback" not in err
    assert entries(model.parent) == ["m.onnx"]


def test_cuda_without_cuda_is_an_error(model: Path, capsys: Output) -> None:
    if "cuda" in available_providers():
        pytest.skip("CUDA is here")
    assert quantize(model, "--provider", "cuda") == 2
    assert "--provider cpu" in capsys.readouterr().err
    assert entries(model.parent) == ["m.onnx"]


@pytest.mark.parametrize(
    "arguments", [["-h"], ["--help"], ["quantize", "-h"], ["inspect", "-h"], ["evaluate", "-h"], ["doctor", "-h"]]
)
def test_help(arguments: list[str], capsys: Output) -> None:
    assert cli.run(arguments) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["quantize"], ["inspect"], ["evaluate"]])
def test_an_incomplete_or_unknown_command_is_wrong_usage(arguments: list[str], capsys: Output) -> None:
    assert cli.run(arguments) == 2
    assert "Usage" in "".join(capsys.readouterr())


def test_version(capsys: Output) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"{VERSION}\n"


def test_the_module_runs_as_a_program(model: Path) -> None:
    command = [sys.executable, "-m", "onnxfq", "quantize", str(model), *QUICK, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["output"] == str(model.with_name("m.int4.onnx"))


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, onnxfq.cli; print(sorted({'numpy', 'numba', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Whatever a model's names hold


@pytest.mark.parametrize("command", [quantize, inspect])
def test_names_reach_the_terminal_as_text_only(evil: Path, capsys: Output, command: Callable[..., int]) -> None:
    quick = QUICK if command is quantize else ()
    assert command(evil, "--exclude", "evil", *quick) == 0
    out, err = capsys.readouterr()
    assert not set("\x1b\x07\x9b\u202e") & set(out + err)
    assert SHOWN in out


def test_names_in_errors_reach_the_terminal_as_text_only(evil: Path, capsys: Output) -> None:
    assert quantize(evil, "--include", "nowhere") == 2
    err = capsys.readouterr().err
    assert not set("\x1b\x07\x9b\u202e") & set(err)
    assert "[bold]evil[/bold] :warning:" in err
    assert err.count("\n") == 1


def test_json_keeps_names_as_they_are(evil: Path, capsys: Output) -> None:
    assert inspect(evil, "--json") == 0
    assert [t["name"] for t in json.loads(capsys.readouterr().out)["targets"]] == [EVIL, "[/] \\"]


@pytest.mark.parametrize(("seconds", "told"), [(0.0, True), (1e6, False)])
def test_long_work_is_announced(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, seconds: float, told: bool
) -> None:
    monkeypatch.setattr("onnxfq.quantization.announce_cost.TELL_FROM_SECONDS", seconds)
    assert quantize(model, *QUICK) == 0
    assert ("Solving alone will take about 2 s, and 210 MB of memory." in capsys.readouterr().err) is told


@pytest.mark.parametrize("algorithm", ["gptq", "gptq:recode=0"])
def test_what_data_cost_is_part_of_the_announcement(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, algorithm: str
) -> None:
    """The more there are, the longer it takes, whatever the options of the algorithm."""
    monkeypatch.setattr("onnxfq.quantization.announce_cost.TELL_FROM_SECONDS", 20.0)
    monkeypatch.setattr("onnxfq.quantization.summary.TOKENS_TIMES_WEIGHTS_PER_SECOND", 1e6)
    told = []
    for count in (1, 40):
        np.savez(tmp_path / "data.npz", x=np.ones((count, 4, 64), np.float32))
        assert quantize(model, *QUICK, "--calib", tmp_path / "data.npz", "--algorithm", algorithm) == 0
        told += re.findall(r"Calibrating and solving alone will take about (\d+) s", capsys.readouterr().err)
    assert told == ["170"]


def test_threads_hold_for_one_run_only(model: Path) -> None:
    before = thread_count()
    seen = []
    pipeline.quantize(model, threads=1, validate=False, progress=lambda *_: seen.append(thread_count()))
    assert set(seen) == {1}
    assert thread_count() == before
    assert quantize(model, "--algorithm", "rtn", "--threads", "100000") == 0
