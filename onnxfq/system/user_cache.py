"""Where this user's things are kept from run to run."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def cache_roots() -> Iterator[Path]:
    """Folders of this package, the best first: in the user's cache folder, or else among temporary files.

    None of them need exist, or be writable.
    """
    with suppress(RuntimeError):  # no home
        yield _user_cache() / "onnxfq"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    with suppress(OSError):
        yield Path(tempfile.gettempdir()) / f"onnxfq-{user}"


def can_be_made(root: Path) -> bool:
    """Whether a folder is there or could be, without a try."""
    nearest = next((folder for folder in (root, *root.parents) if folder.is_dir()), root)
    return os.access(nearest, os.W_OK)


def own_folder(root: Path) -> bool:
    """Make a folder that only this user can write; says whether it is one."""
    with suppress(OSError):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return is_own(root)
    return False


def is_own(folder: Path) -> bool:
    """Whether only this user can write there."""
    if not hasattr(os, "getuid"):
        return True
    status = folder.lstat()
    return folder.is_dir() and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _user_cache() -> Path:
    if (given := Path(os.environ.get("XDG_CACHE_HOME", ""))).is_absolute():
        return given
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
