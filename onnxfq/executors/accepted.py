"""What may be given as an executor. Imports nothing heavy."""

from __future__ import annotations

from concurrent.futures import Executor

from onnxfq.errors import UsageError
from onnxfq.executors.cluster import address_of


def check_executor(executor: object) -> None:
    """Refuse what is not an executor, or one whose processes cannot work.

    Raises:
        UsageError: it is not.
    """
    if isinstance(executor, str):
        address_of(executor)
    elif executor is not None and not isinstance(executor, Executor):
        raise UsageError(
            f"`executor` must be dask:ADDRESS or an executor of concurrent.futures (got {type(executor).__name__}). "
            "Give one, or leave it out to do everything in this process."
        )
    context = getattr(executor, "_mp_context", None)  # of ProcessPoolExecutor, which tells it in no other way
    if context is not None and context.get_start_method() == "fork":
        raise UsageError(
            "A process that is forked while threads run may stop for ever (got a ProcessPoolExecutor that forks). "
            "Give ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))."
        )
