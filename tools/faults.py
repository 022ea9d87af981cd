"""Kills, full disks, I/O errors and changing sources: whatever happens, the output is whole or not there.

Run: `python tools/faults.py --kills 200 --seed 0 --out benchmarks/results/faults.json`. Needs Linux; faults go into
system calls where strace is there and may trace, else into Python's functions; those of whole disks need the right to
mount. What is missing is said, and written into the result, which is there after every campaign.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from benchmarks.machine import write  # noqa: E402
from tools.faulting import campaigns  # noqa: E402
from tools.faulting.campaigns import Campaign  # noqa: E402
from tools.faulting.judge import Judge, Tally  # noqa: E402
from tools.faulting.odd_places import odd_places  # noqa: E402
from tools.faulting.places import larger, places  # noqa: E402
from tools.faulting.runner import Runner, has_strace  # noqa: E402

NEED_STRACE = ("read-errors", "resumed-read-errors")
NAMES: dict[str, Callable[..., None]] = {
    "kills-at-calls": campaigns.kills_at_calls,
    "kills-at-random": campaigns.kills_at_random,
    "kills-of-processes": campaigns.kills_of_processes,
    "signals": campaigns.signals,
    "write-errors": campaigns.write_errors,
    "read-errors": campaigns.read_errors,
    "resumed-read-errors": campaigns.read_errors_of_resumed_runs,
    "changing-sources": campaigns.changing_sources,
    "full-disks": campaigns.full_disks,
    "odd-places": odd_places,
    "same-bytes": campaigns.same_bytes,
}
# Faults of each campaign, relative to the kills asked for; the last four count by place.
SHARES = {
    "kills-at-calls": 0.5, "kills-at-random": 0.4, "kills-of-processes": 0.1, "signals": 0.15, "write-errors": 0.4,
    "read-errors": 0.25, "changing-sources": 0.25, "resumed-read-errors": 0.03, "full-disks": 0.03, "odd-places": 0.3,
    "same-bytes": 0.2,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaigns; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs; of other faults there are about as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--places", nargs="*", help="only these kinds of model; all by default")
    parser.add_argument("--no-strace", action="store_true", help="put faults into Python's functions instead")
    given = parser.parse_args(arguments)
    traces = has_strace() and not given.no_strace
    missing = (
        [] if traces else ["strace is not there, may not trace, or is not wanted: faults are in Python's os module"]
    )
    tally, quick, began = Tally(), given.kills < 10, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        judge = Judge(tally, Runner(folder / "runs", traces=traces))
        campaign = Campaign(judge, random.Random(given.seed), ROOT, quick)
        every = [place for place in places(folder) if not given.places or place.name in given.places]
        for place in every:
            campaign.prepare(place)
        for chosen in given.only:
            if chosen in NEED_STRACE and not traces:
                missing.append(f"{chosen} was left out: it needs strace")
            else:
                before = tally.faults
                NAMES[chosen](campaign, every, max(2, round(given.kills * SHARES[chosen])))
                if chosen == "kills-at-random" and not quick:
                    NAMES[chosen](campaign, [campaign.prepare(larger(folder))], given.kills // 20)
                told = f"{chosen}: {tally.faults - before} faults, {len(tally.losses)} losses so far"
                print(told, file=sys.stderr, flush=True)
            seconds = round(time.monotonic() - began)
            if given.out:
                about = {"seed": given.seed, "runs": judge.runner.runs, "seconds": seconds, "campaigns": given.only}
                write(given.out, {**about, "left_out": missing, **tally.as_json()})
    for line in (*missing, *tally.losses):
        print(line, file=sys.stderr)
    return 1 if tally.losses else 0


if __name__ == "__main__":
    sys.exit(main())
