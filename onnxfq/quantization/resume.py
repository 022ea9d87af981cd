"""Where a calibrated run keeps what it has finished, so that a resumed run can go on with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxfq.calibration.checkpoint import Checkpoint, checkpoint, count_stages, discard, refuse_foreign
from onnxfq.errors import ExecutorError, OutputError, UsageError
from onnxfq.feeds import Feeds, fingerprint
from onnxfq.progress import Progress
from onnxfq.quantization.job import Job
from onnxfq.session import runtime_version
from onnxfq.solvers import algorithm_text
from onnxfq.version import VERSION


@dataclass(frozen=True, slots=True)
class Work:
    """The work directory of one model.

    Attributes:
        root: the directory that the user names or sees.
        folder: the model's own: the same, or one in it where there are several models.
        chosen: whether the user named it; then it stays.
    """

    root: Path
    folder: Path
    chosen: bool

    def finish(self) -> None:
        """Remove the work of a finished run, unless the user chose the place."""
        if self.chosen:
            return
        with suppress(OSError):  # what is left there does no harm
            discard(self.folder)
        with suppress(OSError):  # another model's work is in it
            self.root.rmdir()


def find_work(job: Job, output: Path, name: str = "") -> Work | None:
    """The work directory of a model; None where it is done without data.

    Args:
        job: the model and what was decided.
        output: what is written; the default directory lies beside it.
        name: of the model, where there are several.

    Raises:
        UsageError: the directory cannot serve: it holds other files, or lies in the output or, of folders, the source.
        OutputError: it cannot be read.
    """
    if not job.solver.calibrated or not job.planned:
        return None
    chosen = job.options.work_dir is not None
    root = Path(job.options.work_dir or output.with_name(output.name + ".work"))
    folder = root / name if name else root
    _refuse_inside(root, [output, *([job.graph.path.parent] if name else job.graph.files)])
    try:
        refuse_foreign(folder)
    except OSError as error:
        raise OutputError(
            f"Cannot read the work directory '{folder}' ({error.strerror or error}). Give another with `work_dir`."
        ) from error
    return Work(root, folder, chosen)


def _refuse_inside(root: Path, places: list[Path]) -> None:
    for place in places:
        if root.resolve().is_relative_to(place.resolve()):
            raise UsageError(
                f"The work directory '{root}' is or lies in '{place}', which it would change. "
                "Give another with `work_dir`."
            )


@contextmanager
def working(
    work: Work | None, job: Job, feeds: Feeds | None, source_hash: Future[str], progress: Progress
) -> Iterator[Checkpoint | None]:
    """Use a work directory, alone; whoever is interrupted there is told that the work can be resumed.

    Args:
        work: the directory; None where nothing is kept.
        job: the model and what was decided.
        feeds: the samples.
        source_hash: of the model.
        progress: told what is found there.

    Raises:
        UsageError: the directory holds the work of another run, or something else.
        OutputError: it cannot be written, or another run is using it.
    """
    if work is None or feeds is None:
        yield None
        return
    with checkpoint(work.folder, _identity(job, feeds, source_hash.result()), resume=job.options.resume) as opened:
        if opened.thrown_away:
            progress(f"An unfinished run in '{work.folder}' was thrown away; `resume=True` goes on with one.", 0, 0)
        if opened.finished:
            progress(f"Resuming: {opened.finished} finished stages were found in '{work.folder}'.", 0, 0)
        try:
            yield opened
        except (KeyboardInterrupt, MemoryError, ExecutorError, OutputError, OSError) as error:
            if count_stages(work.root):
                error.add_note(f"`resume=True` goes on from '{work.root}'.")
            raise


def _identity(job: Job, feeds: Feeds, source_hash: str) -> dict[str, Any]:
    """Whatever the solved weights depend on."""
    targets = [[p.target.name, p.storage.operator, str(p.scheme)] for p in job.planned]
    return {
        "model": source_hash,
        "data": fingerprint(feeds),
        "targets": hashlib.sha256(json.dumps(targets).encode()).hexdigest(),
        "scheme": job.scheme,
        "constant_inputs": job.options.constant_inputs,
        "unshare": job.options.unshare,
        "algorithm": algorithm_text(job.solver),
        "provider": job.provider,
        "onnxfq": VERSION,
        "onnxruntime": runtime_version(),
        "numpy": np.__version__,
    }
