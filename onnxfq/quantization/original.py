"""The original of a run: what its inputs are to look like, and its session, loaded once for all that needs it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from onnxfq.calibration.pieces import Runtime
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import (
    Encoder,
    Feed,
    Feeds,
    RefusedError,
    fit_sizes,
    generate,
    generate_behind,
    has_cache,
    reads_encoder,
    with_configured_sizes,
    within,
)
from onnxfq.graph import Graph, loaded_bytes
from onnxfq.metrics.output_error import no_inputs
from onnxfq.model_files import ENCODER
from onnxfq.progress import Progress
from onnxfq.providers import facts
from onnxfq.quantization.job import Job
from onnxfq.session import Session
from onnxfq.signature import Signature
from onnxfq.system.terminal import size_text

GENERATED_TOKENS = 64
SHORT_PAST = 8  # cached tokens, as many as nearly every model takes


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
        notes: what the user should know of made-up inputs.
    """

    def __init__(self, job: Job, folder: Path, progress: Progress) -> None:
        self.graph, self.runtime = job.graph, Runtime(job.provider, job.threads, job.options.memory, folder)
        self.loaded = loaded_bytes(job.graph, widens=facts(job.provider).widens_half)
        self._options, self._progress = job.options, progress
        self.notes: list[str] = []
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
        return min(self.longest, GENERATED_TOKENS)

    @property
    def longest(self) -> int:
        """How many tokens inputs have at most that it makes itself."""
        return self._within(self._options.seq_len)

    def _within(self, seq_len: int) -> int:
        """The length asked for, within what the model takes."""
        try:
            return within(seq_len, self.graph.signature, self.graph.path.parent)
        except DataError:  # of a configuration that nobody asked to be read
            return seq_len

    def fit(self, tokens: int, past: int = 0) -> None:
        """Find out on which sizes of made-up inputs it runs, so that all inputs are made up so; a run where it suits.

        What does not fit into memory is not asked.

        Args:
            tokens: of the inputs.
            past: cached ones before a single new one; 0 for all at once.

        Raises:
            DataError: none can be made up, or it runs on none of those tried.
            ModelError: it does not load.
        """
        if not self.fits_memory:
            return
        session = self.session
        try:
            found = fit_sizes(self.graph.signature, lambda s: self._make(s, tokens, past), session.run, self._progress)
        except RefusedError as refused:
            raise no_inputs(refused.error, refused.trials, timed_out=refused.timed_out) from refused.error
        self.graph.prefer(found)

    @cached_property
    def decoding_step(self) -> tuple[Feed | None, str]:
        """Inputs of one token after as many cached ones as it takes; or None, and why there are none.

        Only for a model that fits into memory. Where sizes had to be found, all inputs are made up so from then on.

        Raises:
            ModelError: it does not load.
        """
        if not has_cache(self.graph.signature):
            return None, ""
        past, session = max(1, self._within(self.tokens + 1) - 1), self.session
        for length in (past >> halved for halved in range(past.bit_length())):
            feed = self._make(self.graph.signature, self.tokens, length)
            try:
                session.run(feed)
            except (DataError, ModelError):
                continue
            return feed, ""
        length = min(past, SHORT_PAST)
        try:
            self.fit(self.tokens, length)
        except DataError as error:
            return None, str(error)
        return self._make(self.graph.signature, self.tokens, length), ""

    @cached_property
    def encoder(self) -> Encoder | None:
        """The encoder that lies beside a decoder, as exporters lay it; None where there is none that suits it."""
        path, signature = self.graph.path.with_name(ENCODER), self.graph.signature
        if not self.fits_memory or not reads_encoder(signature) or not path.is_file() or path == self.graph.path:
            return None
        try:
            graph = Graph.load(path)
            large = loaded_bytes(graph, widens=facts(self.runtime.provider).widens_half) > self.runtime.memory
            if large or reads_encoder(graph.signature):
                why = "it is too large for `memory`" if large else "it reads an encoder's states itself"
                raise ModelError(f"'{path}' cannot serve: {why}.")
            session = Session(path, provider=self.runtime.provider, threads=self.runtime.threads)
            found = Encoder(session, with_configured_sizes(graph.signature, path))
            self.session.run(self._behind(found, 1, self._options.seed)[0])
        except (DataError, ModelError) as error:
            self.notes.append(
                f"MADE UP: states of an encoder are noise, for that beside the model was not used. {error}"
            )
            return None
        return found

    def affordable(self, samples: int) -> int:
        """How many of so many samples that it makes itself fit into the memory together: one at least."""
        feed = self._make(self.graph.signature, self.longest, 0)
        size = sum(array.nbytes for array in feed.values())
        most = max(1, self.runtime.memory // max(1, size))
        if most < samples:
            self.notes.append(
                f"MADE UP: {most} samples instead of {samples}, for one takes {size_text(size)} and all must fit into "
                "`memory`."
            )
        return min(samples, most)

    def generate(self, samples: int, seed: int) -> Feeds:
        """Inputs for a comparison: behind the model's encoder where it has one, else made up from its signature alone.

        Raises:
            DataError: none can be made up.
            ModelError: the encoder does not run.
        """
        if self.encoder is not None:
            return self._behind(self.encoder, samples, seed)
        return generate(self.graph.signature, samples=samples, seq_len=self.tokens, seed=seed)

    def _behind(self, encoder: Encoder, samples: int, seed: int) -> Feeds:
        signature, tokens = self.graph.signature, self.tokens
        return generate_behind(encoder, signature, samples=samples, seq_len=tokens, seed=seed, shortest=tokens)

    def _make(self, signature: Signature, tokens: int, past: int) -> Feed:
        return generate(signature, samples=1, seq_len=tokens, seed=self._options.seed, past=past)[0]
