"""Other schemes for nodes whose name matches: from Python, the command line and files, and what tells of them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from onnxfq.errors import SchemeError, UsageError
from onnxfq.graph import Graph
from onnxfq.options import Options, parse_schemes
from onnxfq.scheme import Scheme
from support import models
from support.resuming import Place, interrupted
from support.tiny import QUICK, contents, pair, quantize

Output = pytest.CaptureFixture[str]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return pair(tmp_path / "m.onnx", "first", "lm_head")


def formats(path: Path, **changes: Any) -> dict[str, tuple[int, int | str]]:
    """Bits and what shares a scale, of every node in the report."""
    report = models.quantized_by_rtn(path, **changes)
    return {target.name: (target.bits, target.granularity) for target in report.targets}


def told(path: Path, *arguments: str) -> dict[str, tuple[int, int | str]]:
    assert quantize(path, *QUICK, "--report", "r.json", *arguments) == 0
    targets = json.loads(Path("r.json").read_text())["targets"]
    return {target["name"]: (target["bits"], target["granularity"]) for target in targets}


# In Python

SAME: list[Any] = [
    ["lm_head=bits:8,block_size:64"],
    ("lm_head=bits:8,block-size:64",),
    ["lm_head = bits: 8 , block_size: 64".replace(" = ", "=")],
    "lm_head=bits:8,block_size:64",
    {"lm_head": {"bits": 8, "block_size": 64}},
    {"^lm_head$": {"bits": "8", "block_size": "64"}},
    {"head": {"bits": 8, "block_size": 64}},
]


@pytest.mark.parametrize("schemes", SAME, ids=str)
def test_texts_and_dicts_mean_the_same(path: Path, schemes: Any) -> None:  # noqa: ANN401
    found = formats(path, schemes=schemes, scheme=Scheme())
    assert found == {"first": (4, 32), "lm_head": (8, 64)}


def test_what_is_not_named_is_that_of_the_run(path: Path) -> None:
    report = models.quantized_by_rtn(path, schemes={"lm_head": {"symmetric": True}}, scheme=Scheme(8, 128))
    assert [target.scheme for target in report.targets] == [
        "int8, block 128, asymmetric, activations int8",
        "int8, block 128, symmetric, activations int8",
    ]


def test_later_ones_win(path: Path) -> None:
    schemes = ["first|lm_head=bits:8,block_size:64", "lm_head=bits:2"]
    assert formats(path, schemes=schemes, scheme=Scheme()) == {"first": (8, 64), "lm_head": (2, 64)}
    assert formats(path, schemes=schemes[::-1], scheme=Scheme()) == {"first": (8, 64), "lm_head": (8, 64)}


def test_a_name_given_again_is_later_than_those_between(path: Path) -> None:
    schemes = ["lm_head=bits:8,block_size:64", ".=bits:2", "lm_head=bits:8"]
    assert formats(path, schemes=schemes, scheme=Scheme()) == {"first": (2, 32), "lm_head": (8, 64)}


def test_the_same_bytes_as_without_where_nothing_differs(path: Path) -> None:
    models.quantized_by_rtn(path, path.with_name("a.onnx"), scheme=Scheme())
    models.quantized_by_rtn(path, path.with_name("b.onnx"), scheme=Scheme(), schemes={"lm_head": {"bits": 4}})
    assert path.with_name("a.onnx").read_bytes() == path.with_name("b.onnx").read_bytes()


def test_options_keep_them_in_one_form() -> None:
    text, given = Options(schemes=["a=bits:8,symmetric:true", "b.*=block_size:channel"]), {"bits": "8"}
    assert text.schemes_by_name == {"a": {"bits": "8", "symmetric": "true"}, "b.*": {"block_size": "channel"}}
    assert text.as_json()["schemes"] == ["a=bits:8,symmetric:true", "b.*=block_size:channel"]
    assert parse_schemes(text.as_json()["schemes"]) == text.schemes_by_name
    assert Options(schemes={"a": given}).schemes_by_name == {"a": given}
    assert Options().schemes_by_name == {}


# Refused

WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "no such node": (["lm_tail=bits:8"], UsageError, r"matches `schemes=lm_tail`\. Names look like 'first', 'lm_head'"),
    "no such attribute": (["lm_head=size:8"], SchemeError, "A scheme has no size .* It has bits, block_size"),
    "no such bits": (["lm_head=bits:5"], SchemeError, "Use 2, 4 or 8"),
    "no such block": (["lm_head=block_size:24"], SchemeError, "not a power of two"),
    "no number": (["lm_head=bits:many"], SchemeError, "Use 2, 4 or 8"),
    "neither true nor false": (["lm_head=symmetric:maybe"], SchemeError, "Use true or false"),
    "no expression": (["(=bits:8"], UsageError, r"regular expressions \(got '\('"),
    "no name": (["=bits:8"], UsageError, "Write 'lm_head=bits:8,block_size:32'"),
    "no change": (["lm_head="], UsageError, "Write 'lm_head=bits:8,block_size:32'"),
    "no value": (["lm_head=bits:"], UsageError, "Write 'lm_head=bits:8,block_size:32'"),
    "no colon": (["lm_head=8"], UsageError, "Write 'lm_head=bits:8,block_size:32'"),
    "no equals sign": (["lm_head"], UsageError, "Write 'lm_head=bits:8,block_size:32'"),
    "a slow one": ({"lm_head": {"bits": 8, "activations": "float"}}, SchemeError, "The nearest fast scheme is int8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_with_the_remedy(path: Path, case: str) -> None:
    schemes, kind, says = WRONG[case]
    with pytest.raises(kind, match=says):
        models.quantized_by_rtn(path, schemes=schemes, scheme=Scheme())
    assert [entry.name for entry in path.parent.iterdir()] == ["m.onnx"]


# On the command line and in files


def test_the_option_may_be_repeated(path: Path) -> None:
    given = ("--scheme", "first=bits:8,block_size:64", "--scheme", "lm_head=bits:2", "--scheme", "first=block_size:16")
    assert told(path, *given) == {"first": (8, 16), "lm_head": (2, 32)}


@pytest.mark.parametrize("wrong", ["lm_tail=bits:8", "lm_head=size:8", "lm_head=bits:5", "lm_head", "(=bits:8"])
def test_the_command_line_refuses_them_by_the_options_name(path: Path, capsys: Output, wrong: str) -> None:
    assert quantize(path, *QUICK, "--scheme", wrong) == 2
    error = capsys.readouterr().err
    assert "Error: " in error
    assert "`schemes`" not in error
    assert "Traceback" not in error


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_files_hold_them(path: Path, kind: str) -> None:
    Path("c.toml").write_text('scheme = ["lm_head=bits:8,block_size:64", "first=bits:2"]\n')
    assert told(path, "--config", "c.toml", "--save-config", f"saved.{kind}") == {"first": (2, 32), "lm_head": (8, 64)}
    text = Path(f"saved.{kind}").read_text()
    saved = tomllib.loads(text) if kind == "toml" else json.loads(text)
    assert saved["scheme"] == ["lm_head=bits:8,block_size:64", "first=bits:2"]
    assert told(path, "--config", f"saved.{kind}") == {"first": (2, 32), "lm_head": (8, 64)}


def test_the_command_line_takes_the_place_of_the_files(path: Path) -> None:
    Path("c.toml").write_text('scheme = ["lm_head=bits:8"]\n')
    assert told(path, "--config", "c.toml", "--scheme", "first=bits:2") == {"first": (2, 32), "lm_head": (4, 32)}


# What tells of them


def test_reports_show_them_row_by_row(path: Path) -> None:
    assert quantize(path, *QUICK, "--scheme", "lm_head=bits:8,block_size:64", "--report", "r.html") == 0
    page = Path("r.html").read_text()
    assert "8-bit/64" in page
    assert "4-bit/32" in page
    assert "lm_head=bits:8,block_size:64" in page


def test_the_written_file_names_them(path: Path) -> None:
    models.quantized_by_rtn(path, scheme=Scheme(), schemes={"lm_head": {"bits": 8}})
    assert Graph.load(path.with_name("out.onnx")).metadata["onnxfq.scheme"] == (
        "int4, block 32, asymmetric, activations int8; 1 node in int8, block 32, asymmetric, activations int8"
    )


def test_a_run_with_other_ones_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    place, one = Place(tmp_path), ("--scheme", "^d$=bits:8")
    interrupted(place, monkeypatch, *one)
    capsys.readouterr()
    for other in ((), ("--scheme", "^d$=bits:2"), ("--scheme", "^y$=bits:8")):
        assert place.run("--resume", *other) == 2
        assert "belongs to another run" in capsys.readouterr().err
    assert place.run("--resume", *one) == 0
    whole = Place(tmp_path / "whole")
    assert whole.run(*one) == 0
    assert contents(place.folder) == contents(whole.folder)
