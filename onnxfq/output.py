"""Where results are written: whole or not at all.

Everything is made in a hidden staging folder beside the output, under its final names, and moved into place at the
very end. A lock keeps a second run off the same output; both vanish with the run, and what a killed run left behind is
removed by the next.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from onnxfq.errors import OnnxfqError, OutputError, UsageError
from onnxfq.terminal import size_text

try:
    import fcntl
except ImportError:  # Windows has no flock; there, two runs on one output are not detected
    fcntl = None  # type: ignore[assignment,unused-ignore]

_REMEDIES = {
    errno.ENOSPC: "Free some disk space or choose another place with -o.",
    errno.EDQUOT: "Your disk quota is used up; choose another place with -o.",
}


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A fresh folder in which to make `output`; gone afterwards, whatever happens.

    Raises:
        OutputError: the place cannot be written, or another run is writing the same output.
    """
    folder = _staging_folder(output)
    try:
        if not output.parent.is_dir():
            raise OutputError(f"Cannot write '{output}': the folder '{output.parent}' does not exist. Create it first.")
        busy = f"Another run is writing '{output}' just now. Wait for it, or choose another output with -o."
        with locked(_lock_file(output), busy):
            _recover(folder, output)
            folder.mkdir()
            try:
                yield folder
            finally:
                _remove(folder)
    except OSError as error:
        raise OutputError(_message(error, output)) from error
    except OnnxfqError as error:  # what is wrong with a staged file is told under its final name
        error.args = (str(error).replace(f"{folder}{os.sep}", f"{output.parent}{os.sep}"),)
        raise


def _staging_folder(output: Path) -> Path:
    return output.parent / f".{output.name}.partial"


def _lock_file(output: Path) -> Path:
    return output.parent / f".{output.name}.lock"


def _data_file(output: Path) -> Path:
    return output.with_name(output.name + ".data")


def _retired(staged: Path) -> Path:
    """Where the old output waits until the new one is in place."""
    return staged.with_name(staged.name + ".replaced")


def _message(error: OSError, output: Path) -> str:
    """What the operating system refused, about which file, and what to do."""
    reason = error.strerror or str(error)
    folder = _staging_folder(output)
    left = f"'{folder}' could not be removed." if os.path.lexists(folder) else "Nothing was left behind."
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else output
    own = named in (output, _data_file(output), _lock_file(output)) or named.is_relative_to(folder)
    about = "" if own else f"'{named}': "
    remedy = _REMEDIES.get(error.errno or 0, "Check permissions, or choose another place with -o.")
    return f"Cannot write '{output}' ({about}{reason}). {left} {remedy}"


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file; it vanishes with the lock.

    Args:
        path: the file.
        busy: what to say where another run holds it.

    Raises:
        OutputError: another run holds it.
        OSError: the file cannot be made.
    """
    if fcntl is None:
        yield
        return
    while (descriptor := _acquire(path, busy)) is None:
        pass
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, busy: str) -> int | None:
    """Lock a file; None where the run that held the lock removed the file meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except BlockingIOError as error:
        os.close(descriptor)
        raise OutputError(busy) from error
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _recover(folder: Path, output: Path) -> None:
    """Clear what a killed run left; an old output that it was just replacing comes back."""
    retired = _retired(folder / output.name)
    if retired.is_dir() and not os.path.lexists(output):
        for path in retired.iterdir():
            path.replace(output.with_name(path.name))
    _remove(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Make a file's bytes durable, and a folder's entries where the file system can do that."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def commit_files(staged: Path, output: Path) -> None:
    """Move a model and its data file into place of an old model and its data file.

    A model without data replaces another in one step. Otherwise the old model goes first, then the old data, then the
    new data come and at last the new model: a crash at any point leaves no pair of halves, and an error the old pair.
    """
    data = _data_file(staged)
    pairs = [(data, _data_file(output))] if data.exists() or os.path.lexists(_data_file(output)) else []
    _exchange([*pairs, (staged, output)])


def commit_folder(staged: Path, output: Path, ours: Iterable[Path]) -> None:
    """Put a finished folder in the place of `output`, which may exist if it holds nothing else.

    Args:
        staged: the folder.
        output: its place.
        ours: what an earlier result may have left there, relative to it.

    Raises:
        OutputError: `output` is a file, or a folder with something else in it.
    """
    refuse_losing(output, ours)
    _exchange([(staged, output)])


def refuse_losing(output: Path, ours: Iterable[Path]) -> None:
    """Refuse to replace a folder that holds what is not ours.

    Args:
        output: the folder, which need not exist.
        ours: what an earlier result may have left there, relative to it.

    Raises:
        OutputError: it holds something else, or is no folder.
    """
    if not os.path.lexists(output):
        return
    if not output.is_dir():
        raise OutputError(f"Will not replace '{output}' by a folder: it is none. Choose another folder with -o.")
    old = {path.relative_to(output) for path in output.rglob("*")}
    lost = sorted(str(path) for path in old.difference(ours))
    if lost:
        raise OutputError(
            f"Will not replace '{output}': it holds {len(lost)} entries that the result does not have "
            f"(such as '{lost[0]}'). Choose another folder with -o or remove it first."
        )


def _exchange(moves: Sequence[tuple[Path, Path]]) -> None:
    """Move new files or folders into place, in order; if anything fails, all is again as it was.

    Args:
        moves: (new, place). A new one that does not exist only clears its place. The last one decides: its old one goes
            first, and itself it comes last.
    """
    new, place = moves[-1]
    for path in (path for new, _ in moves if new.exists() for path in (new, *new.rglob("*"))):
        _sync(path)
    if len(moves) == 1 and new.is_file():
        new.replace(place)
    else:
        _swap(moves, _retired(new))
    _sync(place.parent)


def _swap(moves: Sequence[tuple[Path, Path]], retired: Path) -> None:
    retired.mkdir()
    undo: list[tuple[Path, Path]] = []
    try:
        for _, place in reversed(moves):
            if os.path.lexists(place):
                _move(place, retired / place.name, undo)
        for new, place in moves:
            if new.exists():
                _move(new, place, undo)
    except BaseException:
        for place, back in reversed(undo):
            if os.path.lexists(place) and not os.path.lexists(back):
                place.rename(back)
        raise


def _move(path: Path, place: Path, undo: list[tuple[Path, Path]]) -> None:
    undo.append((place, path))
    path.rename(place)


def check_place(output: Path, *, folder: bool) -> None:
    """Refuse an output that is something else than what will be written there.

    Raises:
        UsageError: a folder where a file will be written, the other way round, or neither of both.
    """
    try:
        _check_folder(output) if folder else _check_file(output)
    except OSError as error:
        raise UsageError(
            f"The output '{output}' is no usable name ({error.strerror}). Choose another with -o."
        ) from error


def _check_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"The source is a folder, but the output '{output}' is a file. Name a folder with -o.")


def _check_file(output: Path) -> None:
    if output.is_dir():
        raise UsageError(
            f"The output '{output}' is a folder. Name a file in it with -o, such as '{output / 'model.int4.onnx'}'."
        )
    for path in (output, _data_file(output)):
        if path.exists() and not path.is_file():
            raise UsageError(f"The output '{path}' exists and is no regular file. Choose another name with -o.")


def check_space(staged: Path, wanted: int) -> None:
    """Refuse early what cannot fit on the disk.

    Args:
        staged: a folder on that disk.
        wanted: bytes that will be written.

    Raises:
        OutputError: fewer are free.
    """
    free = shutil.disk_usage(staged).free
    if wanted > free:
        raise OutputError(
            f"The output needs about {size_text(wanted)}, but only {size_text(free)} are free in '{staged.parent}'. "
            "Free some space or choose another place with -o."
        )


def refuse_overwriting(output: Path, sources: Iterable[Path]) -> None:
    """Refuse an output that is one of the source's files, or for which one would be written or removed.

    Raises:
        UsageError: it would overwrite the source.
    """
    targets = (output, _data_file(output), _lock_file(output))
    for source in sources:
        clash = [target for target in targets if _same(target, source)]
        if clash or source.resolve().is_relative_to(_staging_folder(output).resolve()):
            raise UsageError(
                f"The output '{clash[0] if clash else output}' would overwrite the source '{source}', which is never "
                "touched. Choose another name with -o."
            )


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, by name or by hard link."""
    try:
        return one.resolve() == other.resolve() or one.samefile(other)
    except OSError:  # one of them does not exist
        return False
