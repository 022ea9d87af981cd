"""Distributions of ONNX Runtime that disturb each other are named, with what to do."""

from __future__ import annotations

import builtins
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxfq import cli, session
from onnxfq.errors import ProviderError
from onnxfq.runtime_distributions import DISTRIBUTIONS, conflict, distributions
from support.tiny import QUICK, inspect, pair, quantize

Output = pytest.CaptureFixture[str]


def install(folder: Path, *names: str) -> None:
    for name in names:
        info = folder / f"{name.replace('-', '_')}-1.99.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.99.0\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for distributions, in front of those that are really there."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def alone(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with nothing else there."""
    monkeypatch.setattr(sys, "path", [str(site)])
    return site


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ONNX Runtime cannot be imported."""
    usual = builtins.__import__

    def fail(name: str, *arguments: object) -> object:
        if name == "onnxruntime":
            raise ImportError("libonnxruntime.so.1: cannot open shared object file")
        return usual(name, *arguments)  # type: ignore[arg-type]

    session._runtime.cache_clear()
    monkeypatch.setattr(builtins, "__import__", fail)
    yield
    session._runtime.cache_clear()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_every_distribution_is_noticed_and_one_alone_is_right(alone: Path, name: str) -> None:
    install(alone, name, "onnxruntime-extensions")
    assert distributions() == {name: "1.99.0"}
    assert conflict() == ""


def test_one_without_a_version_is_there_all_the_same(alone: Path) -> None:
    install(alone, "onnxruntime", "onnxruntime-gpu")
    (alone / "onnxruntime_gpu-1.99.0.dist-info" / "METADATA").write_text("Name: onnxruntime-gpu\n")
    assert distributions() == {"onnxruntime-gpu": "of no known version", "onnxruntime": "1.99.0"}
    assert "onnxruntime-gpu of no known version and" in conflict()


def test_two_are_named_with_the_remedy(alone: Path) -> None:
    install(alone, "onnxruntime", "onnxruntime-gpu")
    said = conflict()
    assert "onnxruntime-gpu 1.99.0 and onnxruntime 1.99.0 are installed together" in said
    assert "`pip uninstall onnxruntime-gpu onnxruntime`, then `pip install onnxruntime-gpu`" in said


def test_the_list_for_the_small_runtime_is_what_the_package_needs_besides() -> None:
    root = Path(__file__).resolve().parents[1]
    needed = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (root / "requirements-cpu.txt").read_text().splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    runtimes = [line for line in needed if line.startswith("onnxruntime")]
    assert [line.split(";")[0] for line in runtimes] == ["onnxruntime-gpu>=1.23", "onnxruntime>=1.23"]
    assert sorted(listed) == sorted([*(set(needed) - set(runtimes)), "onnxruntime>=1.23"])


def test_runs_say_so_once_on_stderr(site: Path, tmp_path: Path, capsys: Output) -> None:
    install(site, "onnxruntime-directml", "ort-nightly")
    assert quantize(pair(tmp_path / "m.onnx"), *QUICK) == 0
    out, err = capsys.readouterr()
    assert "installed together" not in out
    assert err.count("are installed together") == 1
    assert quantize(tmp_path / "m.onnx", *QUICK, "-q") == 0
    assert capsys.readouterr().err == ""


def test_doctor_names_what_is_installed(site: Path, capsys: Output) -> None:
    install(site, "onnxruntime-directml", "ort-nightly")
    assert cli.run(["doctor"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "onnxruntime-directml 1.99.0" in out
    assert "pip uninstall" in out


def test_cuda_that_is_not_there_is_explained(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    install(site, "onnxruntime-directml", "ort-nightly")
    monkeypatch.setattr(session._runtime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    session._why_unusable.cache_clear()
    assert inspect(pair(tmp_path / "m.onnx"), "--provider", "cuda") == 2
    session._why_unusable.cache_clear()
    err = capsys.readouterr().err
    assert "built without it" in err
    assert "onnxruntime-directml ort-nightly" in err


@pytest.mark.usefixtures("broken")
def test_none_installed_is_an_error_with_the_remedy(tmp_path: Path, alone: Path, capsys: Output) -> None:
    assert inspect(pair(tmp_path / "m.onnx")) == 2
    err = capsys.readouterr().err
    assert "ONNX Runtime is not installed" in err
    assert "pip install onnxruntime-gpu" in err
    assert list(alone.iterdir()) == []


@pytest.mark.usefixtures("broken")
def test_one_that_cannot_be_imported_is_named(alone: Path) -> None:
    install(alone, "onnxruntime-gpu")
    with pytest.raises(ProviderError, match=r"-gpu\) cannot be imported: libonnx.*pip uninstall onnxruntime-gpu"):
        session.runtime_version()


@pytest.mark.usefixtures("broken")
def test_two_that_cannot_be_imported_are_named(alone: Path) -> None:
    install(alone, "onnxruntime-gpu", "onnxruntime")
    with pytest.raises(ProviderError, match=r"cannot be imported.*installed together"):
        session.runtime_version()
