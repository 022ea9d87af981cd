"""Builds small exports of many architectures with random weights, each into a folder of its own.

    python tools/make_zoo.py FOLDER
    python tools/make_zoo.py FOLDER bert t5

Needs what `.[zoo]` installs; models of plain onnx need none of it. What cannot be made is named with the reason, and
the exit code is 1. What is there already is left alone. Names of packages that carry models,
such as ddddocr, copy these from the installed package.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from tools.zoo.table import REAL, ZOO  # noqa: E402


def build_zoo(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Build models one after the other.

    Returns:
        Why those that are missing could not be made.
    """
    failed: dict[str, str] = {}
    for name in names:
        if (folder / name).exists():
            continue
        start, unfinished = time.perf_counter(), folder / f".{name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            (ZOO | REAL)[name](unfinished)
        except Exception as error:  # noqa: BLE001 - exporters raise everything
            failed[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            shutil.rmtree(unfinished, ignore_errors=True)
            print(f"{name}: {failed[name]}", flush=True)
            continue
        unfinished.rename(folder / name)
        size = sum(file.stat().st_size for file in (folder / name).glob("*.onnx*")) / 1e6
        print(f"{name}: {size:.1f} MB, {time.perf_counter() - start:.1f} s", flush=True)
        gc.collect()
    return failed


def main() -> None:
    """Build what was asked for, or everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ZOO | REAL))
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in ZOO | REAL]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(ZOO | REAL)}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")  # tracing warns of every branch that it cannot follow
    arguments.folder.mkdir(parents=True, exist_ok=True)
    sys.exit(bool(build_zoo(arguments.folder, arguments.names or ZOO)))


if __name__ == "__main__":
    main()
