"""Everything onnxfq raises on purpose.

OnnxfqError
├── UsageError                 the request itself is wrong (exit code 2)
│   ├── SchemeError            a quantization scheme that does not exist, or not on this provider
│   └── ProviderError          an execution provider that was asked for is not there
├── ModelError                 the model cannot be read or handled (exit code 3)
│   └── OperatorError          ONNX Runtime lacks an operator of it, so that it cannot be run
├── DataError                  calibration or validation data cannot be used (exit code 3)
├── ExecutorError              work that was sent elsewhere cannot be done or did not come back (exit code 3)
├── OutputError                the result cannot be written (exit code 3)
├── VerificationError          the written file is not what the solver meant (exit code 3)
└── GateError                  a quality or speed gate failed (exit code 1)

Messages say what is wrong, where, what was got, what was wanted, and what to do about it.
"""

from __future__ import annotations


class OnnxfqError(Exception):
    """Base of all deliberate errors; `exit_code` is what the command line exits with.

    Example:
        >>> try:
        ...     onnxfq.quantize("nowhere.onnx")
        ... except onnxfq.OnnxfqError as error:
        ...     print(type(error).__name__, error.exit_code)
        ModelError 3
    """

    exit_code = 3


class UsageError(OnnxfqError):
    """The request is wrong, whatever the model.

    Example:
        >>> onnxfq.quantize("model.onnx", samples=0)
        Traceback (most recent call last):
        onnxfq.errors.UsageError: `samples` must be 1 or more (got 0).
    """

    exit_code = 2


class SchemeError(UsageError):
    """A quantization scheme that does not exist, or that the chosen provider cannot run.

    Example:
        >>> onnxfq.Scheme(bits=5)
        Traceback (most recent call last):
        onnxfq.errors.SchemeError: ...
    """


class ProviderError(UsageError):
    """An execution provider that was asked for is not available here.

    Example:
        >>> onnxfq.quantize("model.onnx", provider="tpu")
        Traceback (most recent call last):
        onnxfq.errors.ProviderError: Unknown provider (got provider='tpu'). Use auto, cpu, cuda.
    """


class ModelError(OnnxfqError):
    """The model cannot be read, or holds something that cannot be handled.

    Example:
        >>> onnxfq.inspect("test.txt")
        Traceback (most recent call last):
        onnxfq.errors.ModelError: ...
    """


class OperatorError(ModelError):
    """The model has an operator that ONNX Runtime lacks: it can be quantized, but not run.

    Example:
        >>> issubclass(onnxfq.OperatorError, onnxfq.ModelError)
        True
    """


class DataError(OnnxfqError):
    """Calibration or validation data do not fit the model or cannot be read.

    Example:
        >>> onnxfq.quantize("model.onnx", calib="nowhere.txt")
        Traceback (most recent call last):
        onnxfq.errors.DataError: There is no file nowhere.txt. Give a .npz, .npy, .jsonl or .txt file, or ...
    """


class ExecutorError(OnnxfqError):
    """The workers that an executor stands for cannot be reached, do not fit, or are lost.

    Example:
        >>> issubclass(onnxfq.ExecutorError, onnxfq.OnnxfqError)
        True
    """


class OutputError(OnnxfqError):
    """The result, or what goes with it, cannot be written; the message says what is there.

    Example:
        >>> onnxfq.quantize("model.onnx", "nowhere/small.onnx")
        Traceback (most recent call last):
        onnxfq.errors.OutputError: Cannot write 'nowhere/small.onnx': the folder 'nowhere' does not exist. ...
    """


class VerificationError(OnnxfqError):
    """The written file does not decode to, or does not compute, what the solver meant.

    Example:
        >>> onnxfq.VerificationError.exit_code  # nobody should ever meet one
        3
    """


class GateError(OnnxfqError):
    """A gate on accuracy or speed failed.

    Example:
        >>> onnxfq.Report.load("report.json").require(max_error=0)
        Traceback (most recent call last):
        onnxfq.errors.GateError: model.int4.onnx fails 1 gate: max-error: ..., limit 0: failed.
    """

    exit_code = 1
