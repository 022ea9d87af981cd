"""The configuration of an evaluation: the models, the data, and how they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnxfq.errors import UsageError
from onnxfq.evaluation.encoder_decoder import EncoderDecoder
from onnxfq.evaluation.evaluated_model import EvaluatedModel
from onnxfq.feeds import Text, with_configured_sizes
from onnxfq.feeds.configurations import TOKENIZER, settings_folder
from onnxfq.graph import Graph
from onnxfq.input_files import RECORD_FILES
from onnxfq.progress import Progress
from onnxfq.providers import ProviderName
from onnxfq.session import Session
from onnxfq.signature import Signature


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """One evaluation, its models found.

    Attributes:
        model: the file, or the folder of an encoder and a decoder.
        baseline: the same of what it is compared with.
        text: running text.
        data: samples of other kinds.
        tokenizer: the folder of tokenizer.json.
        seq_len: longest sample, in tokens.
        samples: how many at most; None for all.
        provider: where the models run.
        threads: inside an operator.
        progress: called with (what, done, total).
    """

    model: Path
    baseline: Path | None
    text: Path | None
    data: Path | None
    tokenizer: Path
    seq_len: int
    samples: int | None
    provider: ProviderName
    threads: int | None
    progress: Progress

    @property
    def has_table(self) -> bool:
        """Whether the data are a table: named columns, row by row."""
        return self.data is not None and self.data.suffix.lower() in RECORD_FILES

    @property
    def data_file(self) -> Path:
        """The data, for tasks that cannot do without.

        Raises:
            UsageError: there are none.
        """
        if self.data is None:
            raise UsageError("There is nothing to evaluate the model on. Give it with `data=FILE`.")
        return self.data

    def tell(self, what: str) -> Callable[[int, int], None]:
        """Progress of one stage."""
        return lambda done, total: self.progress(what, done, total)

    def session(self, path: Path) -> Session:
        """A model that runs."""
        return Session(path, provider=self.provider, threads=self.threads)

    def load_models(self, output: Callable[[Signature], str]) -> tuple[EvaluatedModel, EvaluatedModel | None]:
        """The model and the baseline; `output` finds the one that is looked at."""
        self.progress("loading", 0, 1)
        model = self._load_model(self.model, output)
        return model, None if self.baseline is None else self._load_model(self.baseline, output)

    def _load_model(self, path: Path, output: Callable[[Signature], str]) -> EvaluatedModel:
        signature = with_configured_sizes(Graph.load(path).signature, path)
        return EvaluatedModel(
            self.session(path), signature, Text(self.tokenizer, signature, self.seq_len), output(signature)
        )

    def load_encoder_decoders(self) -> tuple[EncoderDecoder, EncoderDecoder | None]:
        """The model and the baseline as encoder–decoders."""
        self.progress("loading", 0, 1)
        model = self._load_encoder_decoder(self.model)
        return model, None if self.baseline is None else self._load_encoder_decoder(self.baseline)

    def _load_encoder_decoder(self, folder: Path) -> EncoderDecoder:
        return EncoderDecoder(
            folder, self.tokenizer, seq_len=self.seq_len, provider=self.provider, threads=self.threads
        )

    def as_json(self) -> dict[str, str | int | None]:
        """Settings to reproduce a run with."""
        paths = {name: getattr(self, name) for name in ("text", "data", "tokenizer")}
        named = {name: None if path is None else str(path) for name, path in paths.items()}
        return {**named, "seq_len": self.seq_len, "samples": self.samples}


def find_tokenizer(given: Path | None, model: Path, baseline: Path | None) -> Path:
    """The folder that was named, or the first beside a model that has a tokenizer."""
    if given is not None:
        return given
    folders = [settings_folder(path, TOKENIZER) for path in (model, baseline) if path is not None]
    return next((folder for folder in folders if (folder / TOKENIZER).is_file()), folders[0])
