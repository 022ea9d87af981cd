"""What a run reads and writes: one model file, or a folder with several models and what goes along with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxfq.errors import UsageError
from onnxfq.model_files import is_folder, models_to_write
from onnxfq.quantization.folder import copy_companions, expected_files, refuse_overlap
from onnxfq.quantization.job import Job
from onnxfq.quantization.transformers_config import tell_transformers_js
from onnxfq.quantization.transformers_folder import (
    NamedModel,
    copy_settings,
    holds_models,
    keep_theirs,
    name_models,
    notes_on,
    refuse_another,
    take_along,
)
from onnxfq.system.output import commit_files, commit_folder, refuse_losing, refuse_overwriting
from onnxfq.transformers_js import OF_THE_SOURCE, is_transformers_js


@dataclass(frozen=True, slots=True)
class Source:
    """A model file, or a folder of them.

    Attributes:
        path: as the user named it.
        is_folder: whether it is a folder.
        layout: of the output.
    """

    path: Path
    is_folder: bool
    layout: str = OF_THE_SOURCE

    @classmethod
    def of(cls, path: Path, layout: str = OF_THE_SOURCE) -> Source:
        """What a path stands for; what cannot be looked at is a file, and fails when it is read."""
        return cls(path, is_folder(path), layout)

    @property
    def models(self) -> list[Path]:
        """The model files.

        Raises:
            ModelError: a folder has none.
        """
        return models_to_write(self.path, self.layout)

    @property
    def writes_folder(self) -> bool:
        """Whether the output is a folder."""
        return self.is_folder or is_transformers_js(self.layout)

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
        elif self.writes_folder and self.path.resolve().is_relative_to(output.resolve()):
            raise UsageError(f"The source '{self.path}' lies in the output folder '{output}'. Choose another `output`.")
        refuse_overwriting(output, files)

    def stage(self, result: Path, output: Path, jobs: Sequence[Job]) -> Staged:
        """Prepare the place in which the result is put together.

        Args:
            result: the file or folder, which is moved to `output` in the end.
            output: where it will be.
            jobs: the models.

        Raises:
            ModelError: a symbolic link leads out of the folder.
            OutputError: the folder at `output` holds files that would be lost.
            UsageError: the layout has no place for a model, or `output` holds another one.
        """
        if not self.writes_folder:
            return Staged(result, output)
        files = [file for job in jobs for file in job.graph.files]
        if is_transformers_js(self.layout):
            return self._stage_named(result, output, jobs, files)
        left = copy_companions(self.path, result, files)
        ours = expected_files(result, [model.name for model in self.models])
        refuse_losing(output, ours)
        return Staged(result, output, tuple(ours), tuple(left))

    def _stage_named(self, result: Path, output: Path, jobs: Sequence[Job], files: Sequence[Path]) -> Staged:
        named = name_models(jobs)
        left = copy_settings(self.path, result, files)
        if holds_models(output):
            refuse_another(result, output)
            keep_theirs(result, output)
        else:
            refuse_losing(output, ())
        return Staged(result, output, (), tuple(left), named)


@dataclass(frozen=True, slots=True)
class Staged:
    """A result that is being put together, and appears at once.

    Attributes:
        result: the file or folder.
        output: where it will be.
        ours: all that a folder may hold; None of a file.
        left: weights in other formats, which were not copied.
        named: what models become in the layout of transformers.js, by their files in the source; empty in others.
    """

    result: Path
    output: Path
    ours: tuple[Path, ...] | None = None
    left: tuple[str, ...] = ()
    named: Mapping[Path, NamedModel] = field(default_factory=dict)

    def file(self, model: Path) -> Path:
        """Where the quantized model of a source's file goes."""
        if model in self.named:
            return self.result / self.named[model].place
        return self.result if self.ours is None else self.result / model.name

    def notes(self) -> tuple[str, ...]:
        """What the user should know of the result, which is complete."""
        return notes_on(self.result, self.output, self.named.values()) if self.named else ()

    def commit(self) -> None:
        """Move the result to its place, whole or not at all.

        Raises:
            OutputError: it cannot be moved there.
        """
        if self.ours is None:
            commit_files(self.result, self.output)
        elif self.named:
            tell_transformers_js(self.result, self.output, self.named.values())
            take_along(self.output, self.result, self.named.values())
            replaced = {path.relative_to(self.output) for path in self.output.rglob("*")}
            commit_folder(self.result, self.output, replaced)
        else:
            commit_folder(self.result, self.output, self.ours)
