"""A cluster of dask.distributed, which exists already. The only file that imports it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from onnxfq.errors import ExecutorError, UsageError

if TYPE_CHECKING:
    import distributed

PREFIX = "dask:"
CONNECT_SECONDS = 15  # to find the scheduler, and then a worker
PATIENCE_SECONDS = 60.0  # without any worker

Answer = TypeVar("Answer")


class Cluster:
    """A scheduler and its workers.

    Args:
        client: connected to the scheduler.
        address: what the user calls it.

    Attributes:
        executor: hands work to the workers, and again where one of them is killed.
    """

    def __init__(self, client: distributed.Client, address: str) -> None:
        self._client, self._address = client, address
        self._seen = monotonic()
        self.executor: Executor = client.get_executor(pure=False)

    def ask(self, question: Callable[[], Answer]) -> dict[str, Answer]:
        """Ask every worker there is; answers by what to call it.

        Raises:
            ExecutorError: one cannot answer.
        """
        answers = self._client.run(question, on_error="return")
        for worker, answer in answers.items():
            if isinstance(answer, BaseException):
                raise ExecutorError(
                    f"The worker {worker} of '{self._address}' cannot run onnxfq ({answer}). Install onnxfq there, in "
                    "the same version as here."
                ) from answer
        return {f"The worker {worker}": answer for worker, answer in answers.items()}

    def everywhere(self, function: Callable[[], None]) -> None:
        """Call a function on every worker that can still be reached."""
        with suppress(Exception):  # it only spares them memory
            self._client.run(function)

    def check(self) -> None:
        """Look whether there are workers.

        Raises:
            ExecutorError: there have been none for long.
        """
        try:
            found = bool(self._client.nthreads())
        except (OSError, RuntimeError, TimeoutError) as error:
            raise ExecutorError(f"The scheduler '{self._address}' does not answer any more ({error}).") from error
        now = monotonic()
        if found:
            self._seen = now
        elif now - self._seen > PATIENCE_SECONDS:
            raise ExecutorError(
                f"The scheduler '{self._address}' has had no worker for {PATIENCE_SECONDS:.0f} s. Start some with "
                f"`dask worker {self._address}`."
            )


def address_of(executor: str) -> str:
    """The scheduler's address in "dask:ADDRESS".

    Raises:
        UsageError: the text is something else.
    """
    address = executor.removeprefix(PREFIX).strip()
    if not executor.startswith(PREFIX) or not address:
        raise UsageError(f"`executor` must be dask:ADDRESS (got {executor!r}). Write dask:tcp://HOST:8786.")
    return address


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to a scheduler, and leave it afterwards as it was.

    Raises:
        UsageError: dask.distributed is not installed, or knows no such address.
        ExecutorError: no scheduler answers, or it has no workers.
    """
    try:
        import distributed
    except ImportError as error:
        raise UsageError(
            "`executor=\"dask:…\"` needs the package distributed. Install it with `pip install 'onnxfq[distributed]'`."
        ) from error
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"'{address}' is not the address of a scheduler ({error}). Write dask:tcp://HOST:8786."
        ) from error
    except OSError as error:
        raise ExecutorError(
            f"No dask scheduler answers at '{address}' ({' '.join(str(error).split())}). Start one with "
            "`dask scheduler`, or correct the address."
        ) from error
    try:
        _wait_for_worker(client, address)
        with _quiet():
            yield Cluster(client, address)
    finally:
        client.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the client from printing what goes wrong: it arrives as an exception too."""
    logger = logging.getLogger("distributed.client")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _wait_for_worker(client: distributed.Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise ExecutorError(
            f"The scheduler '{address}' has no workers (waited {CONNECT_SECONDS} s). Start some with "
            f"`dask worker {address}`."
        ) from error


def killed_worker() -> tuple[type[Exception], ...]:
    """What is raised where work has killed so many workers that it is not tried again."""
    if "distributed" not in sys.modules:
        return ()
    from distributed import KilledWorker

    return (KilledWorker,)
