"""Fuzzes onnxfq with hostile models and data, in a process that is watched; writes what was tried and what came of it.

    python tools/fuzz.py --seconds 600 --seed 0 --out benchmarks/results/fuzz.json [--keep FOLDER]

A finding is a crash, a hang, memory without bound, an exception that is no OnnxfqError, a file opened outside of the
model's folder, text that would control a terminal, or an output that does not load or computes something else where the
source does. `--keep` stores the first case of each kind, which `--replay FILE` runs again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.machine import write  # noqa: E402
from tools.fuzzing import data, structure, wire  # noqa: E402
from tools.fuzzing.case import Case  # noqa: E402
from tools.fuzzing.graphs import generated_case  # noqa: E402
from tools.fuzzing.seeds import seeds  # noqa: E402
from tools.fuzzing.work import work_seed  # noqa: E402

SECONDS_A_CASE = 15.0
SECONDS_TO_START = 300.0
TICK = 0.05
LONGEST = 60.0  # seconds a case can count for: this process may have been stopped
_SETTINGS = (0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 6)  # as the worker numbers them


class Worker:
    """The watched process; a new one is started after a crash or hang."""

    def __init__(self, folder: Path, *, flags: Sequence[str]) -> None:
        self._folder, self._flags = folder, flags
        self._process: subprocess.Popen[bytes] | None = None
        self.started = 0

    def try_case(self, case: Case, seconds: float = SECONDS_A_CASE) -> dict[str, Any]:
        """What came of a case; crashes and hangs are findings."""
        process = self._running()
        stdin, stdout = _pipes(process)
        stdin.write(case.dumps().encode() + b"\n")
        stdin.flush()
        line = _answer(process, stdout, seconds)
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        if line is None:
            self.stop()
            if seconds == SECONDS_A_CASE:  # on a busy machine? Once more, with more time
                return self.try_case(case, 2 * seconds)
        name = "hang" if line is None else f"crash: {_signal_name(process.wait())}"
        return {"outcome": "", "finding": name, "new_lines": 0}

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in _pipes(self._process):
                pipe.close()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.stop()
        command = [sys.executable, "-m", "tools.fuzzing.worker", str(self._folder), *self._flags]
        path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
        environment = {**os.environ, "PYTHONPATH": path}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=ROOT
        )
        self._process, self.started = process, self.started + 1
        if _answer(process, _pipes(process)[1], SECONDS_TO_START) != b"ready\n":
            raise SystemExit("The worker does not start: run `python -m tools.fuzzing.worker FOLDER`.")
        return process


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError
    return process.stdin, process.stdout


def _answer(process: subprocess.Popen[bytes], stdout: IO[bytes], seconds: float) -> bytes | None:
    """The next line; b"" where the process ends, None where it takes too long. While it is stopped, no time passes."""
    left = seconds
    while left > 0:
        ready, _, _ = select.select([stdout], [], [], TICK)
        if ready:
            return stdout.readline()
        left -= 0 if _is_stopped(process.pid) else TICK
    return None


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt"
    except OSError:
        return False


def _signal_name(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit {code}"


@dataclass
class Campaign:
    """Which cases are tried, and what came of them."""

    chance: random.Random
    corpus: list[Case]
    stage: tuple[bytes, bytes]
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)
    first: dict[str, Case] = field(default_factory=dict)
    keep: Path | None = None
    lines: int = 0

    def __post_init__(self) -> None:
        self.untried = [replace(case, settings=n) for n in sorted(set(_SETTINGS)) for case in self.corpus[::-1]][::-1]

    def next_case(self) -> Case:
        """A case: a mutated model, a generated one, or data."""
        chance, way = self.chance, self.chance.random()
        if self.untried:
            return self.untried.pop()
        if way < 0.12:
            makers = (data.npz_case, data.jsonl_case, data.text_case)
            return chance.choice(makers)(chance)
        if way < 0.16:
            return data.work_case(chance, *self.stage)
        if way < 0.32:
            return replace(generated_case(chance), settings=chance.choice(_SETTINGS))
        parent = replace(chance.choice(self.corpus), settings=chance.choice(_SETTINGS))
        if "in.onnx" not in parent.files:
            target = parent.links.get("in.onnx", "")
            mutated, name = wire.mutate(parent.files[target], chance)
            return replace(parent, files={**parent.files, target: mutated}, mutation=name)
        if way < 0.72:
            return structure.mutate(parent, chance)
        return parent.with_model(*wire.mutate(parent.model, chance))

    def add(self, case: Case, result: dict[str, Any]) -> None:
        """Count a case, and keep it where it reached new lines or found something."""
        finding = result["finding"]
        outcome = "finding" if finding else result["outcome"]
        self.counts.setdefault(case.mutation, Counter())[outcome] += 1
        self.lines += result["new_lines"]
        if result["new_lines"] and case.job == "model" and len(case.files) < 10:
            self.corpus.append(case)
        if finding:
            entry = self.findings.setdefault(finding, {"count": 0, "mutations": []})
            entry["count"] += 1
            if case.mutation not in entry["mutations"]:
                entry["mutations"].append(case.mutation)
            if finding not in self.first:
                self.first[finding] = case
                self._tell(finding, case)

    def _tell(self, finding: str, case: Case) -> None:
        """Print a new kind of finding, and store the case."""
        if self.keep is None:
            return
        self.keep.mkdir(parents=True, exist_ok=True)
        name = f"{len(self.first) - 1:03}.json"
        (self.keep / name).write_text(case.dumps())
        print(f"{name}: {finding}  ({case.mutation})", flush=True)


def fuzz(
    seed: int, *flags: str, seconds: float = float("inf"), cases: float = float("inf"), keep: Path | None = None
) -> Campaign:
    """Try cases, for some time or so many.

    Args:
        seed: of everything drawn.
        *flags: of the worker: "--coverage" finds out which cases reach new lines, "--cold" starts without warming up.
        seconds: how long; the seeds come first, as they are.
        cases: how many, without the seeds as they are.
        keep: where to store the first case of each finding.
    """
    campaign = Campaign(random.Random(seed), seeds(), work_seed(), keep=keep)
    if cases < float("inf"):
        campaign.untried.clear()
    with worker(*flags) as watched:
        while seconds > 0 and cases > 0:
            start = time.monotonic()
            case = campaign.next_case()
            campaign.add(case, watched.try_case(case))
            seconds, cases = seconds - min(time.monotonic() - start, LONGEST), cases - 1
    return campaign


@contextmanager
def worker(*flags: str) -> Iterator[Worker]:
    """A watched process with a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        made = Worker(Path(name, "case"), flags=flags)
        try:
            yield made
        finally:
            made.stop()


def main() -> None:
    """A campaign, or one case again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="where to store the first case of each finding")
    parser.add_argument("--replay", type=Path, help="a stored case")
    parser.add_argument("--no-coverage", action="store_true", help="twice as many cases, but none is built upon")
    arguments = parser.parse_args()
    if arguments.replay:
        with worker() as watched:
            print(json.dumps(watched.try_case(Case.loads(arguments.replay.read_text()))))
        return
    flags = () if arguments.no_coverage else ("--coverage",)
    campaign = fuzz(arguments.seed, *flags, seconds=arguments.seconds, keep=arguments.keep)
    tried = sum(sum(counts.values()) for counts in campaign.counts.values())
    outcomes = sum(campaign.counts.values(), Counter())
    result = {
        "seconds": arguments.seconds, "seed": arguments.seed, "inputs": tried, "findings": campaign.findings,
        "outcomes": dict(outcomes.most_common()), "lines_reached": campaign.lines, "corpus": len(campaign.corpus),
        "mutations": {name: dict(counts.most_common()) for name, counts in sorted(campaign.counts.items())},
    }  # fmt: skip
    if arguments.out:
        write(arguments.out, result)
    print(
        f"{tried} inputs, {len(campaign.findings)} kinds of findings, {campaign.lines} lines reached; {dict(outcomes)}"
    )


if __name__ == "__main__":
    main()
