"""Everything onnxfq raises on purpose.

OnnxfqError
├── UsageError                 the request itself is wrong (exit code 2)
│   ├── SchemeError            a quantisation scheme that does not exist, or not on this provider
│   └── ProviderError          an execution provider that was asked for is not there
├── ModelError                 the model cannot be read or handled (exit code 3)
├── DataError                  calibration or validation data cannot be used (exit code 3)
├── ExecutorError              work that was sent elsewhere cannot be done or did not come back (exit code 3)
├── OutputError                the result cannot be written (exit code 3)
├── VerificationError          the written file is not what the solver meant (exit code 3)
└── GateError                  a quality or speed gate failed (exit code 1)

Messages say what is wrong, where, what was got, what was wanted, and what to do about it.
"""

from __future__ import annotations


class OnnxfqError(Exception):
    """Base of all deliberate errors; `exit_code` is what the command line exits with."""

    exit_code = 3


class UsageError(OnnxfqError):
    """The request is wrong, whatever the model."""

    exit_code = 2


class SchemeError(UsageError):
    """A quantisation scheme that does not exist, or that the chosen provider cannot run."""


class ProviderError(UsageError):
    """An execution provider that was asked for is not available here."""


class ModelError(OnnxfqError):
    """The model cannot be read, or holds something that cannot be handled."""


class DataError(OnnxfqError):
    """Calibration or validation data do not fit the model or cannot be read."""


class ExecutorError(OnnxfqError):
    """The workers that an executor stands for cannot be reached, do not fit, or are lost."""


class OutputError(OnnxfqError):
    """The result, or what goes with it, cannot be written; the message says what is there."""


class VerificationError(OnnxfqError):
    """The written file does not decode to, or does not compute, what the solver meant."""


class GateError(OnnxfqError):
    """A gate on accuracy or speed failed."""

    exit_code = 1
