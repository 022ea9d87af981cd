"""Weights read while others are solved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle

import numpy as np
import numpy.typing as npt

from onnxfq.graph import Scratch
from onnxfq.quantization.solved_weight import WeightTask

Value = npt.NDArray[np.generic]


def read_ahead(tasks: Iterable[WeightTask], most: int) -> Iterator[tuple[WeightTask, Value]]:
    """Tasks in order, each with its weight as `Weight.read` returns it, to be used before the next one is asked for.

    Args:
        tasks: asked for one by one, each while the one before it is done.
        most: bytes of a weight that may be read while another is in use; a larger one waits for its turn.

    Raises:
        ModelError: a weight cannot be read.
    """
    scratches = cycle((Scratch(), Scratch()))  # two weights at a time, each in pages that are used again and again
    ahead: tuple[WeightTask, Future[Value] | None, Scratch] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="onnxfq-read") as pool:
        for task in tasks:
            scratch = next(scratches)
            known = task.weight.constant.leaf.nbytes <= most
            following = (task, pool.submit(task.weight.read, scratch) if known else None, scratch)
            if ahead is not None:
                yield _ready(*ahead)
            ahead = following
        if ahead is not None:
            yield _ready(*ahead)


def _ready(task: WeightTask, future: Future[Value] | None, scratch: Scratch) -> tuple[WeightTask, Value]:
    return task, task.weight.read(scratch) if future is None else future.result()
