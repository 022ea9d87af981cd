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
from contextlib import contextmanager, suppress
from pathlib import Path

from onnxfq.errors import OnnxfqError, OutputError, UsageError
from onnxfq.system.durable import cleaning, locked, sync
from onnxfq.system.terminal import size_text

_REMEDIES = {
    errno.ENOSPC: "Free some disk space or choose another place with `output`.",
    errno.EDQUOT: "Your disk quota is used up; choose another place with `output`.",
}


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A fresh folder in which to make `output`; gone afterwards, whatever happens.

    An old output that was just being replaced when something failed is in its place again.

    Raises:
        OutputError: the place cannot be written, or another run is writing the same output.
    """
    folder, made = _staging_folder(output), False
    try:
        if not output.parent.is_dir():
            raise OutputError(f"Cannot write '{output}': the folder '{output.parent}' does not exist. Create it first.")
        busy = f"Another run is writing '{output}' just now. Wait for it, or choose another place with `output`."
        with locked(_lock_file(output), busy):
            _recover(folder, output)
            folder.mkdir()
            with cleaning(lambda: _recover(folder, output)):
                yield folder
                made = True
    except OSError as error:
        refused = OutputError(_message(error, output, made=made))
        for note in getattr(error, "__notes__", ()):
            refused.add_note(note)
        raise refused from error
    except OnnxfqError as error:  # what is wrong with a staged file is told under its final name
        error.args = (str(error).replace(f"{folder}{os.sep}", f"{output.parent}{os.sep}"),)
        raise


def _staging_folder(output: Path) -> Path:
    return output.parent / f".{output.name}.partial"


def _lock_file(output: Path) -> Path:
    return output.parent / f".{output.name}.lock"


def _data_file(output: Path) -> Path:
    return output.with_name(output.name + ".data")


def _retiring(staged: Path) -> Path:
    """Where the old output goes when it makes room; what stands in its place meanwhile is the rest of it."""
    return staged.with_name(staged.name + ".replacing")


def _retired(staged: Path) -> Path:
    """What that becomes once the whole of an old pair is there; what stands in its place then is new."""
    return staged.with_name(staged.name + ".replaced")


def _message(error: OSError, output: Path, *, made: bool) -> str:
    """What the operating system refused, about which file, and what to do."""
    reason = error.strerror or str(error)
    folder = _staging_folder(output)
    names = " and ".join(f"'{path}'" for path in (folder, _lock_file(output)) if os.path.lexists(path))
    left = f"{names} could not be removed." if names else "Nothing was left behind."
    if _waiting(folder, output):
        left = f"The old output is in '{folder}'; the next run brings it back."
    if made:
        return f"'{output}' is complete, but cleaning up failed ({error}). {left} The next run will remove it."
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else output
    own = named in (output, _data_file(output), _lock_file(output)) or named.is_relative_to(folder)
    about = "" if own else f"'{named}': "
    remedy = _REMEDIES.get(error.errno or 0, "Check permissions, or choose another place with `output`.")
    return f"Cannot write '{output}' ({about}{reason}). {left} {remedy}"


def _recover(folder: Path, output: Path) -> None:
    """Clear what a run left; an old output that it was just replacing comes back, its model last."""
    retiring, retired = _retiring(folder / output.name), _retired(folder / output.name)
    if not os.path.lexists(output):
        if retired.is_dir():
            _data_file(output).unlink(missing_ok=True)
            retired.rename(retiring)
        waiting = _waiting(folder, output)
        for path in waiting:
            path.replace(output.with_name(path.name))
        if waiting:
            sync(output.parent)
    _remove(folder)


def _waiting(folder: Path, output: Path) -> list[Path]:
    """What is left of an old output that made room, the model or folder itself last."""
    places = [place(folder / output.name) for place in (_retiring, _retired)]
    found = [path for place in places if os.path.isdir(place) for path in place.iterdir()]  # noqa: PTH112 - no name is too long for it
    return [] if os.path.lexists(output) else sorted(found, key=lambda path: path.name == output.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
        OutputError: it holds something else, or is not a folder.
    """
    if not os.path.lexists(output):
        return
    if not output.is_dir():
        raise OutputError(f"Will not replace '{output}' by a folder: it is a file. Name another `output`.")
    old = {path.relative_to(output) for path in output.rglob("*")}
    lost = sorted(str(path) for path in old.difference(ours))
    if lost:
        raise OutputError(
            f"Will not replace '{output}': it holds {len(lost)} entries that the result does not have "
            f"(such as '{lost[0]}'). Choose another folder with `output` or remove it first."
        )


def _exchange(moves: Sequence[tuple[Path, Path]]) -> None:
    """Move new files or folders into place, in order; if anything fails, `staging` brings back what was there.

    Args:
        moves: (new, place). A new one that does not exist only clears its place. The last one decides: its old one goes
            first, and itself it comes last.

    Raises:
        OutputError: all is in place, but the disk does not say that it will stay.
    """
    new, place = moves[-1]
    for path in (path for new, _ in moves if new.exists() for path in (new, *new.rglob("*"))):
        sync(path)
    if len(moves) == 1 and new.is_file():
        new.replace(place)
    else:
        _swap(moves)
    try:
        sync(place.parent)
    except OSError as error:
        raise OutputError(
            f"'{place}' is complete, but may not outlast a power failure ({error.strerror or error}). Check the disk."
        ) from error


def _swap(moves: Sequence[tuple[Path, Path]]) -> None:
    retired = _retiring(moves[-1][0])
    retired.mkdir()
    for _, place in reversed(moves):
        if os.path.lexists(place):
            place.rename(retired / place.name)
    if len(moves) > 1:
        retired = retired.rename(_retired(moves[-1][0]))
    for folder in (retired, retired.parent, moves[-1][1].parent):
        sync(folder)
    for new, place in moves:
        if new.exists():
            new.rename(place)


@contextmanager
def parent_made(output: Path) -> Iterator[None]:
    """Make the folder of an output; it goes again where nothing is written into it.

    Raises:
        OutputError: it cannot be made.
    """
    folder = output.parent
    there = folder.exists()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"Cannot make the folder '{folder}' ({reason}). Choose another place with `output`."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            if not there and not any(folder.iterdir()):
                folder.rmdir()


def check_place(output: Path, *, folder: bool) -> None:
    """Refuse an output that is something else than what will be written there.

    Raises:
        UsageError: a folder where a file will be written, the other way round, or neither of both.
    """
    try:
        _check_folder(output) if folder else _check_file(output)
    except OSError as error:
        raise UsageError(
            f"The output '{output}' is not a usable name ({error.strerror}). Choose another with `output`."
        ) from error


def _check_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"The source is a folder, but the output '{output}' is a file. Name a folder with `output`.")


def _check_file(output: Path) -> None:
    if output.is_dir():
        raise UsageError(
            f"The output '{output}' is a folder. Name a file in it with `output`, such as "
            f"'{output / 'model.int4.onnx'}'."
        )
    for path in (output, _data_file(output)):
        if path.exists() and not path.is_file():
            raise UsageError(f"The output '{path}' exists and is not a regular file. Name another `output`.")


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
            "Free some space or choose another place with `output`."
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
                "touched. Choose another name with `output`."
            )


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, by name or by hard link."""
    try:
        return one.resolve() == other.resolve() or one.samefile(other)
    except OSError:  # one of them does not exist
        return False
