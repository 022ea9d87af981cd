"""Files that survive: locks that keep other runs off, bytes that outlast a power failure, cleaning up that can fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onnxfq.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows has no flock; there, two runs on one output are not detected
    fcntl = None  # type: ignore[assignment,unused-ignore]

# What Windows and some file systems answer when a folder is to be made durable.
_NO_FOLDER_SYNC = frozenset({errno.EACCES, errno.EPERM, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


@contextmanager
def cleaning(clean: Callable[[], None]) -> Iterator[None]:
    """Clean up at the end; where that fails after another error, the other one counts and this becomes its note.

    Raises:
        OSError: cleaning up failed.
    """
    try:
        yield
    except BaseException as error:
        try:
            clean()
        except OSError as failed:
            error.add_note(f"Cleaning up failed as well ({failed}).")
        raise
    clean()


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
        with cleaning(lambda: path.unlink(missing_ok=True)):
            yield
    finally:
        os.close(descriptor)


def _acquire(path: Path, busy: str) -> int | None:
    """Lock a file; None where the run that held the lock removed the file meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except FileNotFoundError:
        pass
    except BlockingIOError as error:
        os.close(descriptor)
        raise OutputError(busy) from error
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def sync(path: Path) -> None:
    """Make a file's bytes durable, and a folder's entries where the file system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows wants to be able to write
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC or not path.is_dir():
            raise


def write_durably(path: Path, data: bytes, part: Path) -> None:
    """Write a small file, whole or not at all, even where the power fails.

    Args:
        path: the file, which may exist.
        data: what it is to hold.
        part: where it is made; in the same folder.

    Raises:
        OSError: it cannot be written.
    """
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync(path.parent)
