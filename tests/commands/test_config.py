"""Settings in files: read in place of options, written to make a run again."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxfq.commands.config import read_config, write_config
from onnxfq.errors import OutputError, UsageError
from support.tiny import QUICK, entries, pair, quantize

Output = pytest.CaptureFixture[str]
FAST = ("--algorithm", "rtn")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return pair(tmp_path / "m.onnx", "first", "second -x-")


def target_names(folder: Path) -> list[str]:
    return [target["name"] for target in json.loads((folder / "r.json").read_text())["targets"]]


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_a_saved_run_gives_the_same_bytes_again(model: Path, tmp_path: Path, kind: str) -> None:
    config = f"run.{kind}"
    first = ("-o", "a.onnx", "--bits", "8", "--block-size", "64", "--exclude", "-x-", "--symmetric", *QUICK)
    assert quantize("m.onnx", *first, "--save-config", config) == 0
    made = Path("a.onnx").read_bytes()
    Path("a.onnx").unlink()
    assert quantize("m.onnx", "--config", config) == 0
    assert Path("a.onnx").read_bytes() == made
    assert quantize("m.onnx", "--config", config, "--save-config", f"again.{kind}") == 0
    assert Path(f"again.{kind}").read_text() == Path(config).read_text()
    assert not [name for name in entries(tmp_path) if "partial" in name]


def test_a_saved_run_holds_what_was_decided(model: Path) -> None:
    assert quantize("m.onnx", *QUICK, "--save-config", "run.toml") == 0
    saved = tomllib.loads(Path("run.toml").read_text())
    assert saved["symmetric"] is False
    assert saved["provider"] == "cpu"
    assert saved["no-validate"] is True
    assert saved["bits"] == 4
    assert not {"output", "config", "save-config", "threads", "include"} & set(saved)


def test_the_command_line_beats_the_file(model: Path, tmp_path: Path) -> None:
    Path("c.toml").write_text('bits = 8\ninclude = ["first"]\nno-validate = true\nalgorithm = "rtn"\n')
    assert quantize("m.onnx", "--config", "c.toml", "--report", "r.json") == 0
    assert target_names(tmp_path) == ["first"]
    assert quantize("m.onnx", "--bits", "2", "--include", "second", "--config", "c.toml", "--report", "r.json") == 0
    assert target_names(tmp_path) == ["second -x-"]
    assert entries(tmp_path) == ["c.toml", "m.int2.onnx", "m.int8.onnx", "m.onnx", "r.json"]


WRONG = {
    "bits = 5": "Use 2, 4 or 8",
    "bits = 4.5": "Invalid value for '--bits'",
    "bits = true": "Invalid value for '--bits'",
    "allow-slow = 3": "Invalid value for '--allow-slow'",
    'block_size = 32\ncolour = "red"': "unknown settings: block_size, colour. There are: activations, algorithm",
    "config = 'x.toml'": "unknown settings: config",
    "[bits]\na = 1\n[samples]": "neither text, number nor truth value: bits, samples",
    "bits = [4, 8]": "neither text, number nor truth value: bits. Lists are for exclude, include, scheme only.",
    "include = [3]": "neither text, number nor truth value: include",
    "bits = ": "'c.toml' is not valid TOML",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_wrong_usage(model: Path, tmp_path: Path, capsys: Output, text: str) -> None:
    Path("c.toml").write_text(text)
    assert quantize("m.onnx", "--config", "c.toml") == 2
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert WRONG[text] in err
    assert entries(tmp_path) == ["c.toml", "m.onnx"]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("nowhere.toml", None, "No such file"),
        ("c.yaml", "bits: 4", r"ends in \.toml or \.json"),
        ("c.json", "[1]", "no settings by name"),
        ("c.json", "{", "is not valid JSON"),
        ("c.toml", b"\xff", "is not valid TOML"),
    ],
)
def test_what_is_no_file_of_settings_is_refused(tmp_path: Path, name: str, text: str | bytes | None, why: str) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=why):
        read_config(tmp_path / name, ["bits"])


@pytest.mark.parametrize("place", ["run.txt", "nowhere/run.toml", "folder.toml", "folder.toml/run.toml"])
def test_settings_that_cannot_be_saved_are_refused_before_the_work(
    model: Path, tmp_path: Path, capsys: Output, place: str
) -> None:
    Path("folder.toml").mkdir()
    pair(Path("folder.toml/m.onnx"))
    source = "folder.toml" if place.startswith("folder.toml/") else "m.onnx"
    assert quantize(source, *QUICK, "--save-config", place) == 2
    assert "settings" in capsys.readouterr().err
    assert entries(tmp_path) == ["folder.toml", "m.onnx"]


@given(st.dictionaries(st.sampled_from("abcd"), st.text(st.characters(exclude_categories=["Cs"]))))
def test_every_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, str]) -> None:
    folder = tmp_path_factory.getbasetemp()
    for kind in ("toml", "json"):
        write_config(folder / f"c.{kind}", {**texts, "list": list(texts.values())})
        found = read_config(folder / f"c.{kind}", [*"abcd", "list"], ["list"])
        assert found == {**texts, "list": list(texts.values())}


def test_what_is_no_text_is_refused_whole(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Cannot write the settings"):
        write_config(tmp_path / "c.toml", {"calib": "\udcff"})
    assert entries(tmp_path) == []


# Quiet and verbose


def test_quiet_shows_errors_only(model: Path, capsys: Output) -> None:
    assert quantize("m.onnx", *FAST, "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert quantize("m.onnx", *FAST, "-q", "--max-error", "1e-9") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Failed: a gate does not hold: max-error: ")
    assert err.count("\n") == 1
    assert quantize("m.onnx", *FAST, "--quiet", "--json") == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["output"], err) == ("m.int4.onnx", "")


def test_verbose_shows_targets_sessions_and_segments(model: Path, capsys: Output) -> None:
    assert quantize("m.onnx", "--calib", "self", "--samples", "2", "-v") == 0
    err = capsys.readouterr().err
    assert "first: 64 x 64, 4 bits, block 32, gptq" in err
    assert "second -x-: 64 x 64" in err
    assert "2 stages in 3 segments, 2 samples each" in err
    assert "session: m.onnx on cpu" in err
    assert quantize("m.onnx", *FAST) == 0
    assert "session:" not in capsys.readouterr().err
    assert quantize("m.onnx", *FAST, "--memory", "1kB", "--verbose") == 0
    assert "m.onnx runs in 2 pieces" in capsys.readouterr().err


def test_quiet_and_verbose_contradict_each_other(model: Path, capsys: Output) -> None:
    assert quantize("m.onnx", *FAST, "-q", "-v") == 2
    assert "contradict" in capsys.readouterr().err
