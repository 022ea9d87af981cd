"""Everything side by side: runs all benchmarks for which inputs are given, and makes the page of results.

    python -m benchmarks                      what needs models/opt-4m only
    python -m benchmarks --data DATA --encoder ENCODER_DIR
    python -m benchmarks --data DATA --only decoder granularity
    python -m benchmarks --also kernels speed large throughput-1b streaming --work BIG
    python -m benchmarks --page               makes benchmarks/README.md from benchmarks/results/, measures nothing
    python -m benchmarks --plan ...           shows the commands, runs nothing

DATA holds stsb-train.csv, stsb-test.csv (sentence, sentence, score), wikitext2-valid.txt, wikitext2-test.txt and
lambada-test.jsonl; ENCODER_DIR an export of all-MiniLM-L6-v2. Other tools run in environments of their own, which
`benchmarks.rivals` describes; those that are not there are named in the tables. What cannot be measured is said, and
keeps its earlier result. Exit code 1: a command failed.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.page import page
from benchmarks.parts import DATA, GENERATED, PARTS, Step, plan
from benchmarks.tables import RESULTS
from benchmarks.tools import ROOT


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    usual = [name for name, part in PARTS.items() if not part.asked]
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, help="folder of a sentence encoder's export")
    parser.add_argument("--decoder", type=Path, default=ROOT / "models" / "opt-4m")
    parser.add_argument("--data", type=Path, help="folder of texts")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=usual, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--also", nargs="+", choices=PARTS, default=[], metavar="PART", help="what takes long")
    parser.add_argument("--work", type=Path, help="folder for what is generated, and found again; else a temporary one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for results")
    parser.add_argument("--page", action="store_true", help="only make the page")
    parser.add_argument("--plan", action="store_true", help="only show the commands")
    return parser.parse_args(arguments)


def inputs(arguments: argparse.Namespace) -> dict[str, Path]:
    """What was given, or generated earlier, by name."""
    given = {"decoder": arguments.decoder, "encoder": arguments.encoder}
    if arguments.data is not None:
        given |= {name: path for name, file in DATA.items() if (path := arguments.data / file).exists()}
    if arguments.work is not None:
        given |= {name: path for name in GENERATED if ((path := arguments.work / name) / "model.onnx").exists()}
    return {name: path.resolve() for name, path in given.items() if path is not None}


def execute(steps: Sequence[Step]) -> list[str]:
    """Run commands one after the other; returns what failed or could not be begun."""
    failed: list[str] = []
    for step in steps:
        if any(name in failed for name in step.needs):
            failed.append(step.what)
            continue
        say(f"{step.what}: {show(step)}")
        if subprocess.run([sys.executable, "-m", *step.command], cwd=ROOT, check=False).returncode:
            failed.append(step.what)
    return failed


def show(step: Step) -> str:
    """A command as it is typed."""
    return shlex.join(["python", "-m", *step.command])


def say(text: str) -> None:
    """A line, before whatever a command prints."""
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan, run, make the page."""
    asked = parse(arguments)
    target = RESULTS.parent / "README.md"
    if asked.page:
        target.write_text(page(), encoding="utf-8")
        return 0
    parts = list(dict.fromkeys([*asked.only, *asked.also]))
    with tempfile.TemporaryDirectory() as folder:
        work = (asked.work or Path(folder)).resolve()
        steps, skipped = plan(parts, inputs(asked), work, asked.results.resolve())
        for result, missing in skipped.items():
            say(f"{result}: skipped, not given: {', '.join(missing)}. An earlier result stays.")
        if asked.plan:
            say("\n".join(map(show, steps)))
            return 0
        failed = execute(steps)
    if asked.results.resolve() == RESULTS.resolve():
        target.write_text(page(), encoding="utf-8")
    if failed:
        say(f"Failed: {', '.join(failed)}. Earlier results stay.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
