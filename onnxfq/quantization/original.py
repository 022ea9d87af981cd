"""The original of a run: what its inputs are to look like, and its session, loaded once for all that needs it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from onnxfq.calibration.pieces import Runtime
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import Feed, RefusedError, fit_sizes, generate, with_configured_sizes, within
from onnxfq.graph import loaded_bytes
from onnxfq.metrics.output_error import no_inputs
from onnxfq.progress import Progress
from onnxfq.providers import facts
from onnxfq.quantization.job import Job
from onnxfq.session import Session
from onnxfq.signature import Signature

GENERATED_TOKENS = 64


class Original:
    """A model before it is quantized.

    Args:
        job: the model and what was decided.
        folder: takes what does not fit in memory.
        progress: told about long work.

    Attributes:
        graph: of the model; its signature is completed with sizes that suit it.
        runtime: where and how it runs.
        loaded: bytes that its session takes.
    """

    def __init__(self, job: Job, folder: Path, progress: Progress) -> None:
        self.graph, self.runtime = job.graph, Runtime(job.provider, job.threads, job.options.memory, folder)
        self.loaded = loaded_bytes(job.graph, widens=facts(job.provider).widens_half)
        self._options, self._progress = job.options, progress
        self.graph.prefer(with_configured_sizes(self.graph.signature, self.graph.path))

    @property
    def fits_memory(self) -> bool:
        """Whether it can be run as a whole."""
        return self.loaded <= self.runtime.memory

    @cached_property
    def session(self) -> Session:
        """Runs it.

        Raises:
            ModelError: it does not load.
        """
        return Session(self.graph.path, provider=self.runtime.provider, threads=self.runtime.threads)

    @property
    def tokens(self) -> int:
        """How many tokens inputs have that are made up for a comparison."""
        return self._within(min(self._options.seq_len, GENERATED_TOKENS))

    def _within(self, seq_len: int) -> int:
        """The length asked for, within what the model takes."""
        try:
            return within(seq_len, self.graph.signature, self.graph.path.parent)
        except DataError:  # of a configuration that nobody asked to be read
            return seq_len

    def decoding_step(self) -> Feed:
        """Inputs of one token after as many cached ones as it takes, of a model with a cache that fits into memory.

        Raises:
            DataError, ModelError: it runs on none of those tried.
        """
        past = max(1, self._within(self.tokens + 1) - 1)
        while True:
            feed = self._make(self.graph.signature, self.tokens, past=past)
            try:
                self.session.run(feed)
            except (DataError, ModelError):
                if past == 1:
                    raise
                past //= 2
                continue
            return feed

    def _make(self, signature: Signature, tokens: int, past: int = 0) -> Feed:
        return generate(signature, samples=1, seq_len=tokens, seed=self._options.seed, past=past)[0]

    def fit(self, tokens: int) -> None:
        """Find out on which sizes of made-up inputs it runs, so that all inputs are made up so; a run where it suits.

        Args:
            tokens: of the inputs.

        Raises:
            DataError: none can be made up, or it runs on none of those tried.
            ModelError: it does not load.
        """
        if not self.fits_memory:
            return

        session = self.session
        try:
            found = fit_sizes(self.graph.signature, lambda s: self._make(s, tokens), session.run, self._progress)
        except RefusedError as refused:
            raise no_inputs(refused.error, refused.trials) from refused.error
        self.graph.prefer(found)
