"""Whether a run that met a fault lost anything."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tools.faulting.places import Place
from tools.faulting.runner import Run, Runner

DONE, REFUSED, INTERRUPTED = 0, 3, 130
COMPLETE = "complete"  # in messages about what fails after the output is in place


@dataclass(slots=True)
class Tally:
    """What happened so far.

    Attributes:
        outcomes: how often, by campaign, kind of fault and outcome.
        losses: everything that should not have happened.
        faults: faults that took place.
        kills: those of them that were kills.
        missed: runs in which the fault did not take place.
    """

    outcomes: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    losses: list[dict[str, str]] = field(default_factory=list)
    faults: int = 0
    kills: int = 0
    missed: int = 0

    def count(self, campaign: str, kind: str, outcome: str) -> None:
        """Note an outcome."""
        self.outcomes.setdefault(campaign, {}).setdefault(kind, Counter())[outcome] += 1

    def lose(self, campaign: str, place: str, fault: str, what: str, err: str = "") -> None:
        """Note what should not have happened."""
        self.losses.append({"campaign": campaign, "place": place, "fault": fault, "what": what, "told": err[-600:]})

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "faults": self.faults,
            "kills": self.kills,
            "missed": self.missed,
            "losses": self.losses,
            "outcomes": {c: {k: dict(n) for k, n in sorted(kinds.items())} for c, kinds in self.outcomes.items()},
        }


@dataclass(slots=True)
class Judge:
    """Looks at a place after a fault, resumes, and looks again."""

    tally: Tally
    runner: Runner
    campaign: str = ""

    def judge(self, place: Place, run: Run, kind: str, fault: str) -> str:
        """Look at what a run left; returns the outcome."""
        if not run.hit:
            self.tally.missed += 1
        else:
            self.tally.faults += 1
            self.tally.kills += run.code == -signal.SIGKILL
        outcome = self._outcome(place, run)
        for what in self._wrong(place, run):
            self.tally.lose(self.campaign, place.name, fault, what, run.err)
        self.tally.count(self.campaign, kind, outcome if run.hit else f"not met: {outcome}")
        return outcome

    def resume(self, place: Place, fault: str) -> None:
        """Go on without faults: there must be the bytes of an uninterrupted run, and nothing else."""
        run = self.runner.run(place.arguments("--resume"))
        if run.code != DONE:
            self.tally.lose(self.campaign, place.name, fault, f"--resume ends with {run.code}", run.err)
        elif place.visible() != place.wanted:
            self.tally.lose(self.campaign, place.name, fault, "--resume gives other bytes", run.err)
        elif place.leftovers():
            self.tally.lose(self.campaign, place.name, fault, f"--resume leaves {place.leftovers()}", run.err)
        if not place.is_untouched():
            self.tally.lose(self.campaign, place.name, fault, "the source was touched by --resume", run.err)

    def _outcome(self, place: Place, run: Run) -> str:
        seen = place.visible()
        state = "none" if not seen else "new" if seen == place.wanted else "old" if seen == place.start else "halves"
        return f"exit {run.code}, {state}"

    def _wrong(self, place: Place, run: Run) -> list[str]:
        """Everything that must not be."""
        found = []
        if not place.is_untouched():
            found.append("the source was touched")
        seen = place.visible()
        if seen not in (place.wanted, place.start) and not (run.code == -signal.SIGKILL and _is_waiting(place)):
            found.append(f"neither the old nor the new output is there: {sorted(seen)}")
        if run.code == -signal.SIGKILL:
            return found
        if run.code not in (DONE, REFUSED, INTERRUPTED, 2):
            found.append(f"exit code {run.code}")
        if "Traceback" in run.err or "Bug:" in run.err or "Exception ignored" in run.err:
            found.append("a traceback")
        if run.code == DONE and seen != place.wanted:
            found.append("exit 0 without the new output")
        if run.code in (REFUSED, 2):
            found += _bad_message(place, run.err)
            if seen == place.wanted and COMPLETE not in run.err:
                found.append("the new output is there, and the message does not say so")
        if run.hit and not told(run.err, place.leftovers(), place):
            found.append(f"left behind without a word: {place.leftovers()}")
        return found


def _is_waiting(place: Place) -> bool:
    """Whether a killed run has left the old output where the next run finds it, and no new model."""
    if place.target.exists() or not place.start:
        return not place.target.exists()
    folder = place.target.with_name(f".{place.target.name}.partial")
    kept = {path.name for end in ("replacing", "replaced") for path in folder.glob(f"*.{end}/*")}
    return place.target.name in kept


def _bad_message(place: Place, err: str) -> list[str]:
    last = err.strip().splitlines()[-1] if err.strip() else ""
    found = [] if last.startswith("Error: ") else ["no message"]
    if str(place.home.parent) not in last:
        found.append("the message names no file")
    if last.count(". ") < 1:
        found.append("the message names no remedy")
    return found


def told(err: str, leftovers: list[str], place: Place) -> bool:
    """Whether a message names what was left, stages of an unfinished run apart."""
    work = place.work.relative_to(place.out) if place.work else None
    for name in leftovers:
        if work is not None and (name == str(work) or name.startswith(f"{work}/")) and not name.endswith(".part"):
            continue
        if name.split("/")[0] not in err:
            return False
    return True
