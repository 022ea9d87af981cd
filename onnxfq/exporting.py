"""From a transformers checkpoint to a folder of ONNX files, through optimum. The only file that imports it.

Needs `pip install onnxfq[export]`, which brings PyTorch.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxfq.errors import ModelError, UsageError
from onnxfq.model_files import MODEL_SUFFIX, is_folder
from onnxfq.progress import Progress, silent
from onnxfq.system.output import check_place, commit_folder, staging

DTYPES = ("fp32", "fp16")
_TALKATIVE = ("optimum", "transformers", "torch", "huggingface_hub")
_UNREACHED = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError", "Timeout"}
_UNKNOWN = {"RepositoryNotFoundError", "GatedRepoError", "RevisionNotFoundError"}


def export(
    model: str | Path,
    output: str | Path,
    *,
    task: str = "auto",
    dtype: str = "fp32",
    progress: Progress | None = None,
) -> list[Path]:
    """Export a model with its configuration and tokenizer to a folder, which `quantize` takes as a whole.

    Args:
        model: a name on the Hugging Face hub, or a folder with a checkpoint.
        output: the folder to write; one that holds nothing but an earlier export is replaced.
        task: what the model is for, such as "text-generation-with-past" or "feature-extraction"; "auto" asks the
            model's configuration, or the hub.
        dtype: "fp32" or "fp16", the type of the weights.
        progress: called with (what, done, total); a total of 0 marks a remark, such as a warning of optimum's.

    Returns:
        The ONNX files.

    Raises:
        UsageError: optimum is not installed, there is no such folder, or no such type.
        ModelError: the model cannot be found, loaded or exported.
        OutputError: the folder cannot be written.

    Example:
        >>> onnxfq.export("no/such/folder", "out")
        Traceback (most recent call last):
        onnxfq.errors.UsageError: There is no folder 'no/such/folder'. Name the folder of a checkpoint, or ...
    """
    tell = progress or silent
    source, target = str(model), Path(output)
    if dtype not in DTYPES:
        raise UsageError(f"Unknown type of weights (got dtype={dtype!r}). Use {' or '.join(DTYPES)}.")
    _check_source(model)
    check_place(target, folder=True)
    main_export = _load()
    with staging(target) as folder:
        staged = folder / target.name
        tell("exporting", 0, 1)
        try:
            with _quiet() as said:
                main_export(model_name_or_path=source, output=staged, task=task, dtype=dtype)
        except Exception as error:  # optimum, transformers, torch and the hub raise whatever they like
            raise _translated(source, error) from error
        models = sorted(path.name for path in staged.glob(f"*{MODEL_SUFFIX}"))
        if not models:
            raise ModelError(f"optimum wrote no ONNX file for '{source}'. Name another `task`.")
        commit_folder(staged, target, [path.relative_to(staged) for path in staged.rglob("*")])
    for message in dict.fromkeys(said):
        tell(message, 0, 0)
    return [target / name for name in models]


def _check_source(model: str | Path) -> None:
    """Refuse a path that leads nowhere; what looks like no path is a name on the hub."""
    path = Path(model)
    if is_folder(path):
        return
    if path.exists():
        raise UsageError(f"'{model}' is a file. Name the folder of a checkpoint, or a model on the Hugging Face hub.")
    if isinstance(model, Path) or str(model).startswith((".", "/", "~")) or str(model).count("/") > 1:
        raise UsageError(f"There is no folder '{model}'. Name the folder of a checkpoint, or a model on the hub.")


def _load() -> Callable[..., None]:
    try:
        with _quiet():
            from optimum.exporters.onnx import main_export
    except ImportError as error:
        raise UsageError(
            f"Exporting needs optimum-onnx and PyTorch ({error}). Install them with `pip install 'onnxfq[export]'`."
        ) from error
    return main_export  # type: ignore[no-any-return, unused-ignore]


@contextmanager
def _quiet() -> Iterator[Sequence[str]]:
    """Collect what optimum warns of; what its libraries say of their own future concerns nobody here."""
    said = _Said()
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [(log.handlers[:], log.propagate) for log in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for log in loggers:
                log.handlers, log.propagate = [said if log.name == "optimum" else logging.NullHandler()], False
            yield said.messages
        finally:
            for log, (handlers, propagate) in zip(loggers, before, strict=True):
                log.handlers, log.propagate = handlers, propagate


class _Said(logging.Handler):
    """Keeps warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.messages.append(record.getMessage())


def _translated(source: str, error: BaseException) -> ModelError:
    """What went wrong, and what to do about it."""
    kinds = {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}
    said = " ".join(str(error).split()) or type(error).__name__
    if kinds & _UNKNOWN:
        remedy = "Check the name; a private model needs `huggingface-cli login`."
        return ModelError(f"There is no model '{source}' on the Hugging Face hub, or not for you: {said} {remedy}")
    if kinds & _UNREACHED:
        return ModelError(
            f"'{source}' is not a folder here, and the Hugging Face hub cannot be reached to fetch it: {said} "
            "Give a folder with the checkpoint, or go online (HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE unset)."
        )
    return ModelError(f"optimum cannot export '{source}': {type(error).__name__}: {said}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[Any] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__
