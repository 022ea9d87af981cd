"""Where results are written: whole or not at all.

Everything is made in a hidden staging folder beside the output, under its final names, and moved into place at the
very end. A lock keeps a second run off the same output; both vanish with the run, and what a killed run left behind is
removed by the next.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxfq.errors import OutputError, UsageError

try:
    import fcntl
except ImportError:  # Windows has no flock; there, two runs on one output are not detected
    fcntl = None  # type: ignore[assignment,unused-ignore]


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A fresh folder in which to make `output`; gone afterwards, whatever happens.

    Raises:
        OutputError: the place cannot be written, or another run is writing the same output.
    """
    if not output.parent.is_dir():
        raise OutputError(f"Cannot write '{output}': the folder '{output.parent}' does not exist. Create it first.")
    folder = output.parent / f".{output.name}.partial"
    with writing(output), _lock(output.parent / f".{output.name}.lock", output):
        _remove(folder)
        folder.mkdir()
        try:
            yield folder
        finally:
            _remove(folder)


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn the operating system's errors about writing into an `OutputError`."""
    try:
        yield
    except OSError as error:
        remedy = {
            errno.ENOSPC: "Free some disk space or choose another place with -o.",
            errno.EDQUOT: "Your disk quota is used up; choose another place with -o.",
        }.get(error.errno or 0, "Choose a place that can be written with -o.")
        reason = error.strerror or str(error)
        raise OutputError(f"Cannot write '{output}' ({reason}). Nothing was left behind. {remedy}") from error


@contextmanager
def _lock(path: Path, output: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    descriptor = _acquire(path, output)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, output: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise OutputError(
                f"Another run is writing '{output}' just now. Wait for it, or choose another output with -o."
            ) from error
        except FileNotFoundError:
            pass  # the run that held the lock removed it between our open and our look: try again
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit_files(staged: Path, output: Path) -> None:
    """Move a model and its data file into place.

    The old model goes first, then the data arrive, then the model: a crash at any point leaves no pair of halves.
    """
    data, old_data = staged.with_name(staged.name + ".data"), output.with_name(output.name + ".data")
    with writing(output):
        for path in (staged, data):
            if path.exists():
                sync(path)
        if data.exists() or old_data.exists():
            output.unlink(missing_ok=True)
            sync(output.parent)
        if data.exists():
            data.replace(old_data)
        else:
            old_data.unlink(missing_ok=True)
        staged.replace(output)
        sync(output.parent)


def commit_folder(staged: Path, output: Path) -> None:
    """Put a finished folder in the place of `output`, which may exist if it holds nothing else.

    Raises:
        OutputError: `output` is a file, or a folder with files that the new one does not have.
    """
    strangers = unexpected(staged, output)
    if strangers:
        raise OutputError(
            f"Will not replace '{output}': it holds {len(strangers)} files that the result does not have "
            f"(such as '{strangers[0]}'). Choose another folder with -o or remove it first."
        )
    with writing(output):
        for path in sorted(staged.rglob("*")):
            sync(path)
        retired = staged.with_name(staged.name + ".old")
        _remove(retired)
        if output.exists():
            output.rename(retired)
        staged.rename(output)
        sync(output.parent)
        _remove(retired)


def unexpected(staged: Path, output: Path) -> list[str]:
    """What `output` holds that `staged` does not."""
    if not output.exists():
        return []
    if not output.is_dir():
        return [output.name]
    new = {p.relative_to(staged) for p in staged.rglob("*")}
    return sorted(str(p.relative_to(output)) for p in output.rglob("*") if p.relative_to(output) not in new)


def refuse_overwriting(output: Path, sources: Iterable[Path]) -> None:
    """Refuse an output, or its data file, that is one of the source's files.

    Raises:
        UsageError: it would overwrite the source.
    """
    for target in (output, output.with_name(output.name + ".data")):
        for source in sources:
            same = target.exists() and source.exists() and target.samefile(source)
            if same or target.resolve() == source.resolve():
                raise UsageError(
                    f"The output '{target}' would overwrite the source '{source}', which is never touched. "
                    "Choose another name with -o."
                )
