"""What a run reads and writes: one model file, or a folder with several models and what goes along with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxfq.model_files import is_folder, models_of
from onnxfq.quantization.folder import copy_companions, expected_files, refuse_overlap
from onnxfq.system.output import commit_files, commit_folder, refuse_losing, refuse_overwriting


@dataclass(frozen=True, slots=True)
class Source:
    """A model file, or a folder of them.

    Attributes:
        path: as the user named it.
        is_folder: whether it is a folder.
    """

    path: Path
    is_folder: bool

    @classmethod
    def of(cls, path: Path) -> Source:
        """What a path stands for; what cannot be looked at is a file, and fails when it is read."""
        return cls(path, is_folder(path))

    @property
    def models(self) -> list[Path]:
        """The model files.

        Raises:
            ModelError: a folder has none.
        """
        return models_of(self.path) if self.is_folder else [self.path]

    def refuse_output(self, output: Path, files: Sequence[Path]) -> None:
        """Refuse an output that would change the source.

        Args:
            output: the file or folder to write.
            files: all that the models are made of.

        Raises:
            UsageError: it would.
        """
        if self.is_folder:
            refuse_overlap(self.path, output)
        refuse_overwriting(output, files)

    def stage(self, result: Path, output: Path, files: Sequence[Path]) -> Staged:
        """Prepare the place in which the result is put together.

        Args:
            result: the file or folder, which is moved to `output` in the end.
            output: where it will be.
            files: all that the models are made of.

        Raises:
            ModelError: a symbolic link leads out of the folder.
            OutputError: the folder at `output` holds files that would be lost.
        """
        if not self.is_folder:
            return Staged(result, output)
        left = copy_companions(self.path, result, files)
        ours = expected_files(result, [model.name for model in self.models])
        refuse_losing(output, ours)
        return Staged(result, output, tuple(ours), tuple(left))


@dataclass(frozen=True, slots=True)
class Staged:
    """A result that is being put together, and appears at once.

    Attributes:
        result: the file or folder.
        output: where it will be.
        ours: all that a folder may hold; None of a file.
        left: weights in other formats, which were not copied.
    """

    result: Path
    output: Path
    ours: tuple[Path, ...] | None = None
    left: tuple[str, ...] = ()

    def file(self, model: Path) -> Path:
        """Where the quantized model of a source's file goes."""
        return self.result if self.ours is None else self.result / model.name

    def commit(self) -> None:
        """Move the result to its place, whole or not at all.

        Raises:
            OutputError: it cannot be moved there.
        """
        if self.ours is None:
            commit_files(self.result, self.output)
        else:
            commit_folder(self.result, self.output, self.ours)
