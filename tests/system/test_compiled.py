"""Compiled loops: kept in the user's cache for every environment, and working where nothing can be kept."""

from __future__ import annotations

import os
import runpy
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from numba.core import config

from onnxfq.system import loop_cache
from onnxfq.system.compiled import compiled
from onnxfq.system.loop_cache import announced, cache_folder

PACKAGE = Path(loop_cache.__file__).parents[1]
LOOP = """
from onnxfq.system.compiled import compiled

@compiled()
def one_more(value: int) -> int:
    return value + 1
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's cache and a folder of temporary files of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(config, "CACHE_DIR", "")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    cache_folder.cache_clear()
    yield tmp_path
    cache_folder.cache_clear()


def installed(environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, from now on the one whose loops are kept."""
    package = environment / "onnxfq"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(loop_cache, "_PACKAGE", package)
    cache_folder.cache_clear()
    return package


def test_another_environment_with_the_same_loops_has_the_same_folder(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cache_folder()
    package = installed(places / "environment", monkeypatch)
    assert cache_folder() == here
    with (package / "cli.py").open("a") as file:
        file.write("# has no loops\n")
    cache_folder.cache_clear()
    assert cache_folder() == here
    with (package / "half.py").open("a") as file:
        file.write("# another loop, which may have been compiled into those of other files\n")
    cache_folder.cache_clear()
    assert cache_folder() != here


def test_how_loops_are_compiled_decides_too(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = cache_folder()
    with (installed(places / "environment", monkeypatch) / "system" / "compiled.py").open("a") as file:
        file.write("# other flags\n")
    cache_folder.cache_clear()
    assert cache_folder() != here


def test_the_same_loop_in_another_place_is_not_compiled(places: Path) -> None:
    told: list[Path] = []
    for place in ("one", "other"):
        file = places / place / "loops.py"
        file.parent.mkdir()
        file.write_text(LOOP)
        space = runpy.run_path(str(file))
        with announced(partial(told.append, file)):
            assert space["one_more"](1) == 2
    assert told == [places / "one" / "loops.py"]


def doubled(values: npt.NDArray[np.float64]) -> float:
    total = 0.0
    for value in values:
        total += 2 * value
    return total


def test_compiling_is_told_once_and_only_where_it_happens(places: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        first, second = compiled()(doubled), compiled(fastmath=frozenset({"nsz"}))(doubled)
        with announced(lambda: told.append("compiling")):
            assert first(np.ones(3)) == second(np.ones(3)) == 6.0
    assert told == ["compiling"]
    assert cache_folder() is not None
    assert (places / "cache" / "onnxfq") in cache_folder().parents  # type: ignore[union-attr]


def test_damaged_machine_code_is_compiled_again(places: Path) -> None:
    compiled()(doubled)(np.ones(3))
    folder = cache_folder()
    assert folder is not None
    kept = list(folder.glob("*.nb*"))
    assert len(kept) == 2
    for file in kept:
        file.write_bytes(file.read_bytes()[:10])
    assert compiled()(doubled)(np.ones(3)) == 6.0


def test_a_full_disk_costs_the_machine_code_only(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", refuse)
    assert compiled()(doubled)(np.ones(3)) == 6.0


def test_where_the_cache_cannot_be_written_temporary_files_hold_it(places: Path) -> None:
    (places / "cache").write_text("a file, where a folder ought to be")
    assert cache_folder().is_relative_to(places / "tmp")  # type: ignore[union-attr]


def test_no_place_for_a_cache_is_no_error(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places / "cache").write_text("a file, where a folder ought to be")
    monkeypatch.setattr("tempfile.tempdir", str(places / "cache"))
    assert cache_folder() is None
    assert compiled()(doubled)(np.ones(3)) == 6.0


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
def test_what_others_may_write_is_not_run(places: Path) -> None:
    shared = places / "cache" / "onnxfq"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    assert cache_folder().is_relative_to(places / "tmp")  # type: ignore[union-attr]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
def test_users_who_share_new_files_with_a_group_have_a_cache(places: Path) -> None:
    before = os.umask(0o002)
    try:
        assert cache_folder().is_relative_to(places / "cache")  # type: ignore[union-attr]
    finally:
        os.umask(before)


def test_what_was_made_for_other_loops_long_ago_goes(places: Path) -> None:
    old, young = (places / "cache" / "onnxfq" / f"loops-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 100 * 86400,) * 2)
    assert cache_folder() is not None
    assert (old.exists(), young.exists()) == (False, True)


def test_a_place_that_the_user_names(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(places / "named"))
    assert cache_folder().is_relative_to(places / "named")  # type: ignore[union-attr]
