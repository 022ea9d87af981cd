"""Sizes as users write them, and how large an output may be."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from onnxfq.errors import UsageError
from onnxfq.weight_formats import USUAL_FORMAT

SMALLEST = "smallest"
MIXED_FORMATS = (USUAL_FORMAT, "qdq")  # that have weights of several bits
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", re.IGNORECASE)
_WANTED = f'Write a share of the source such as 25%, a size such as 2.1GB, or "{SMALLEST}".'


@dataclass(frozen=True, slots=True)
class SizeTarget:
    """A limit on the bytes of the output's files.

    Attributes:
        share: of the source's bytes; None where bytes are given.
        nbytes: of all models together; None where a share is given. Neither is given for the smallest file whose error
            holds.
    """

    share: float | None = None
    nbytes: int | None = None

    @classmethod
    def parse(cls, given: str | int) -> SizeTarget:
        """A limit as a user wrote it: "25%", "2.1GB", "smallest", or bytes.

        Raises:
            UsageError: it is none of these, or nothing can be so small.
        """
        text = str(given).strip()
        if text.lower() == SMALLEST:
            return cls()
        if text.endswith("%"):
            share = _number(text.removesuffix("%")) / 100
            if not 0 < share <= 1:
                raise UsageError(f"`target_size` must be more than 0% and at most 100% (got {given}). {_WANTED}")
            return cls(share=share)
        try:
            nbytes = parse_bytes(text, "`target_size`")
        except UsageError:
            raise UsageError(f"`target_size` is no size (got {given!r}). {_WANTED}") from None
        if nbytes < 1:
            raise UsageError(f"`target_size` must be more than 0 (got {given!r}). {_WANTED}")
        return cls(nbytes=nbytes)

    @property
    def is_smallest(self) -> bool:
        """Whether the error is the limit, not the size."""
        return self.share is None and self.nbytes is None

    def limit(self, source_bytes: int, all_bytes: int) -> int | None:
        """The bytes that a model's files may have; None where the error is the limit.

        Args:
            source_bytes: of the model.
            all_bytes: of all models that are quantized together; each may have as large a part of its own size.
        """
        if self.share is not None:
            return int(self.share * source_bytes)
        return None if self.nbytes is None else self.nbytes * source_bytes // max(1, all_bytes)


def refuse_beside(wanted: SizeTarget, *, limits_error: bool, validates: bool, keeps_work: bool, format: str) -> None:
    """Refuse settings that leave nothing to choose, or nothing to choose by.

    Args:
        wanted: the size.
        limits_error: whether an error is limited that can stand for it.
        validates: whether the output is compared with the original.
        keeps_work: whether finished work is to be kept or gone on with.
        format: of products.

    Raises:
        UsageError: one of them does.
    """
    if wanted.is_smallest and not limits_error:
        raise UsageError(
            f'`target_size="{SMALLEST}"` needs the error that is allowed. Give it with `max_kl=X` (models with logits) '
            "or `max_error=X`, or give a size instead."
        )
    if not validates:
        raise UsageError(
            "`target_size` chooses by what is measured in the comparison, which `validate=False` leaves out. Drop one "
            "of them."
        )
    if keeps_work:
        raise UsageError(
            "A run that chooses a mix (`target_size`) keeps no finished work to go on with. Drop `work_dir` and "
            "`resume`."
        )
    if format not in MIXED_FORMATS:
        raise UsageError(
            f"`target_size` mixes weights of several bits, which the format {format} does not have. Use "
            f"{' or '.join(f'`format={name}`' for name in MIXED_FORMATS)}, or drop one of them."
        )


def parse_bytes(size: int | str, what: str) -> int:
    """Bytes from "2GB", "500 MB", "1.5GiB", or a plain number.

    Args:
        size: the text, or bytes.
        what: names the setting, for messages.

    Raises:
        UsageError: the text is not a size.
    """
    if not isinstance(size, str):
        return size
    match = _SIZE.fullmatch(size.strip())
    if match is None:
        raise UsageError(f"{what} must be a size (got {size!r}). Write 2GB, 500MB, 1.5GiB or a number of bytes.")
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** (" kmgt".index(unit.lower()) if unit else 0))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
