"""Everything that a run can be asked for, from Python and from the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

from onnxfq.arrays import Array
from onnxfq.errors import SchemeError, UsageError
from onnxfq.executors.accepted import check_executor
from onnxfq.machines import check_target
from onnxfq.metrics.gates import Gates
from onnxfq.scheme import Scheme
from onnxfq.setting_types import check_types
from onnxfq.size_target import SizeTarget, refuse_beside
from onnxfq.transformers_js import DATA_SUFFIX, OF_THE_SOURCE, is_transformers_js, parse_layout
from onnxfq.usage import Usage, parse_workload

SELF = "self"
_WRITE_SCHEMES = "Write 'lm_head=bits:8,block_size:32', or in Python {'lm_head': {'bits': 8}}."
FLOAT = "float"
EMBEDDINGS = ("4", "8", FLOAT)
AUTO = "auto"
OTHERS = (AUTO, "stored8", "stored4", FLOAT)
GATES = ("max_error", "max_kl", "min_cosine", "max_ppl_increase", "min_speedup")
CalibrationData = str | Path | Iterable[Mapping[str, Any]] | Iterable[Array] | Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All settings of `quantize` and `inspect`.

    Attributes:
        scheme: what to quantize to.
        schemes: other schemes for nodes whose name a regular expression matches; where several match, the later wins.
            A dict `{"lm_head": {"bits": 8}}`, or texts "lm_head=bits:8,block_size:32".
        embeddings: what tables of embeddings are quantized to: 4 or 8 bits, or "float", which leaves them alone.
        others: what becomes of large weights that no operator computes with in few bits, such as a Conv's: "stored8" or
            "stored4" stores them in so many bits, and they become floats when the model is loaded; "float" leaves them
            alone; "auto" stores them in 8 bits where neither the weights nor the outputs change much by that.
        algorithm: what chooses the codes, with its options: "auto", "hqq", "gptq:damping=0.02", …
        provider: where models run and what the output is made for: "auto", "cpu" or "cuda".
        include: regular expressions (or one); with any, only nodes whose name one of them matches are quantized.
        exclude: regular expressions (or one); nodes whose name one of them matches are left alone.
        target: what the output is made for: "auto" (this machine), "avx2", "vnni", "arm", "cuda", "webgpu", or
            "portable", any runtime of standard ONNX.
        workload: how many rows of activations a weight meets at once: "decode", "prefill", "encoder", "mixed", or
            numbers; None tells it from the data, or from the kind of model.
        auto_format: choose for each weight the fastest format that loses little more than `scheme`, never one that is
            slower than float.
        allow_slow: write formats that are known to run slower than floating point on this kind of processor.
        constant_inputs: graph inputs that have a value of their own, as exporters list weights, are constants: no
            caller replaces them, and the output does not list them.
        unshare: nodes that share one weight each get a quantized copy of their own, which calibration fits to that node
            alone, and an output head one apart from its table: a larger file, with a smaller error.
        layout: how the output is laid out: "source", as the source is; "transformers.js", a folder with the models in
            `onnx/`, named by their data type, to which further types can be added; or "transformers.js:DTYPE" where
            several names would do ("transformers.js:q8").
        calib: inputs to calibrate with and to compare on: one of `input_files.FEED_FILES`, or a folder of arrays;
            samples from Python, as dicts of arrays (or tensors), texts, or an array for each, or as columns; or
            "self", with which the model makes its own. None: no
            calibration, and inputs made up for the comparison.
        tokenizer: the folder of tokenizer.json; None looks beside the model.
        samples: how many samples to use at most; None for up to 1024 that calibrate, of 65536 tokens in all (images,
            sound and states count as 512 each), and up to 128 for anything else.
        seq_len: longest sample, in tokens.
        seed: of everything that is made up.
        work_dir: where finished work is kept; None keeps it beside the output, until the run is finished.
        resume: go on with what is found in the work directory.
        memory: bytes for what is kept between stages of calibration, what is more goes to disk; and for the models in
            the comparison, larger ones are run piece by piece.
        threads: threads to use at most, in each process; None for all.
        executor: does what need not be done in this process: "dask:ADDRESS", the scheduler of a cluster, or any
            executor of `concurrent.futures`; None does everything here. The result is the same.
        tune: how often the samples of `calib` are gone through once more, to tune scales, biases and normalization
            layers by gradients of the outputs' error; 2 gives most of what there is to gain. The model must fit into
            `memory` several times.
        target_size: how large the output may be, "25%" of the source, "2.1GB", or "smallest" where `max_kl` or
            `max_error` is the limit: bits and block size of each weight are then chosen by what they do to the outputs,
            within the rest of these settings. `embeddings` of 8 bits may get 4 too.
        validate: compare the output with the original.
        max_error: gate: the largest relative MSE allowed over the floating outputs.
        max_kl: gate: the largest mean KL allowed, in nats, over outputs that are logits.
        min_cosine: gate: the smallest mean cosine allowed over the floating outputs.
        max_ppl_increase: gate: how far the perplexity may be above the original's, 0.5 or "1%".
        eval_data: inputs to compare on, in the forms of `calib`; None holds back some of the samples of `calib`.
        eval_text: running text (.txt) for the perplexity, and, without `eval_data`, to compare on; None takes what the
            models are compared on where a gate asks for the perplexity.
        min_speedup: gate: the smallest speed-up allowed; the lower bound of its interval counts.

    Raises:
        UsageError: a value that makes no sense.

    Example:
        >>> careful = onnxfq.Options(scheme=onnxfq.Scheme(bits=8), max_error=0.1)
        >>> onnxfq.quantize("model.onnx", "small.onnx", options=careful).passed
        True
    """

    scheme: Scheme = field(default_factory=Scheme)
    schemes: Mapping[str, Mapping[str, Any]] | Sequence[str] = field(default_factory=dict)
    embeddings: int | str = 8
    others: str = AUTO
    algorithm: str = "auto"
    provider: str = "auto"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    target: str = AUTO
    workload: str | int | Sequence[int] | None = None
    auto_format: bool = False
    allow_slow: bool = False
    constant_inputs: bool = False
    unshare: bool = False
    layout: str = OF_THE_SOURCE
    calib: CalibrationData | None = None
    tokenizer: str | Path | None = None
    samples: int | None = None
    seq_len: int = 512
    seed: int = 0
    work_dir: str | Path | None = None
    resume: bool = False
    memory: int = 2 * 10**9
    threads: int | None = None
    executor: str | Executor | None = None
    tune: int = 0
    target_size: str | int | None = None
    validate: bool = True
    max_error: str | float | None = None
    max_kl: str | float | None = None
    min_cosine: str | float | None = None
    max_ppl_increase: str | float | None = None
    eval_data: CalibrationData | None = None
    eval_text: str | Path | None = None
    min_speedup: str | float | None = None

    def __post_init__(self) -> None:
        """Bring values into one form and refuse what makes no sense."""
        self._check_types()
        for name in ("include", "exclude"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        object.__setattr__(self, "schemes", parse_schemes(self.schemes))
        object.__setattr__(self, "embeddings", _parse_embeddings(self.embeddings))
        self._check_others()
        object.__setattr__(self, "layout", parse_layout(self.layout))
        check_target(self.target)
        if self.workload is not None:
            object.__setattr__(self, "workload", _workload_text(self.workload))
        self._check_numbers()
        self._check_gates()
        self._check_calib()
        self._check_tune()
        self._check_target_size()
        check_executor(self.executor)

    @property
    def calibrates_itself(self) -> bool:
        """Whether the model makes its own calibration data; `./self` and `Path("self")` name a file."""
        return isinstance(self.calib, str) and self.calib == SELF

    @property
    def schemes_by_name(self) -> dict[str, dict[str, Any]]:
        """What is changed of the scheme of nodes whose name a regular expression matches."""
        return cast(dict[str, dict[str, Any]], self.schemes)  # `__post_init__` has brought them into this form

    @property
    def data_suffix(self) -> str:
        """What stands behind a written model's name in that of its data file."""
        return DATA_SUFFIX if is_transformers_js(self.layout) else ".data"

    @property
    def usage(self) -> Usage | None:
        """How the model will be used, where that was said."""
        return None if self.workload is None else parse_workload(self.workload)

    @property
    def gates(self) -> Gates:
        """The limits that are set."""
        return Gates.parse({name: getattr(self, name) for name in GATES})

    @property
    def size_target(self) -> SizeTarget | None:
        """How large the output may be, where that was said."""
        return None if self.target_size is None else SizeTarget.parse(self.target_size)

    @property
    def wants_perplexity(self) -> bool:
        """Whether the perplexity is to be measured."""
        return self.eval_text is not None or self.max_ppl_increase is not None

    def _check_types(self) -> None:
        """Refuse values of types that nothing can be made of."""
        if not isinstance(self.scheme, Scheme):
            raise UsageError(
                f"`scheme` must be a Scheme (got {type(self.scheme).__name__}). Write onnxfq.Scheme(bits=4), or "
                "`bits=4`; schemes for single nodes are `schemes`."
            )
        check_types({f.name: getattr(self, f.name) for f in fields(self)}, _option_hints())
        for name in ("include", "exclude"):
            value = getattr(self, name)
            if not isinstance(value, Iterable) or not all(isinstance(one, str) for one in value):
                raise UsageError(f"`{name}` must be a regular expression or a list of them (got {value!r}).")

    def _check_others(self) -> None:
        if self.others not in OTHERS:
            raise UsageError(f"`others` must be {', '.join(OTHERS[:-1])} or {OTHERS[-1]} (got {self.others!r}).")

    def _check_numbers(self) -> None:
        for name, least in (("samples", 1), ("seq_len", 1), ("threads", 1), ("seed", 0), ("memory", 0), ("tune", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"`{name}` must be {least} or more (got {value}).")

    def _check_gates(self) -> None:
        """Bring limits into one form, numbers but for percentages; refuse those that nothing can be held against."""
        for name, limit in self.gates.chosen.items():
            given = getattr(self, name)
            object.__setattr__(self, name, str(given).strip() if limit.relative else limit.value)
        needed = [f"`{name}`" for name in (*GATES, "eval_data", "eval_text") if getattr(self, name) is not None]
        if needed and not self.validate:
            raise UsageError(
                f"{' and '.join(needed)} needs the comparison that `validate=False` leaves out. Drop one of them."
            )
        if self.max_ppl_increase is not None and self.eval_text is self.eval_data is self.calib is None:
            raise UsageError("`max_ppl_increase` needs text. Give it with `eval_text=FILE`, or with `calib=FILE`.")

    def _check_tune(self) -> None:
        if self.tune and self.calib is None:
            raise UsageError("`tune` goes through the samples of `calib`, and there are none. Give `calib=FILE`.")
        if self.tune and self.target_size is not None:
            raise UsageError("`tune` and `target_size` do not go together. Drop one of them.")

    def _check_target_size(self) -> None:
        if self.size_target is not None:
            refuse_beside(
                self.size_target,
                limits_error=self.max_kl is not None or self.max_error is not None,
                validates=self.validate,
                keeps_work=self.resume or self.work_dir is not None,
                format="auto" if self.auto_format else self.scheme.format,
            )

    def _check_calib(self) -> None:
        for name, words in (("calib", 'a path, "self", or samples'), ("eval_data", "a path or samples")):
            value = getattr(self, name)
            if not isinstance(value, str | Path | Iterable | None) and not hasattr(value, "__getitem__"):
                raise UsageError(
                    f"`{name}` must be {words} (got {type(value).__name__}). "
                    "Give a list with a dict for each sample, of arrays by input name; or a dict of arrays."
                )

    def as_json(self) -> dict[str, Any]:
        """Settings to reproduce a run with."""
        scheme = {name: getattr(self.scheme, name) for name in SCHEME_FIELDS}
        names = ("embeddings", "others", "target", "workload", "auto_format", "allow_slow", "constant_inputs")
        data = ("unshare", "layout", "target_size", "samples", "seq_len", "seed", "tune", "validate")
        lists = {name: list(getattr(self, name)) for name in ("include", "exclude")}
        calib, eval_data = _data_text(self.calib), _data_text(self.eval_data)
        if calib == SELF and not self.calibrates_itself:
            calib = f"./{SELF}"  # a file of that name
        lists["schemes"] = [f"{name}={_listed(changes)}" for name, changes in self.schemes_by_name.items()]
        paths = {"calib": calib, "tokenizer": _text(self.tokenizer), "eval_data": eval_data}
        paths["eval_text"] = _text(self.eval_text)
        return {
            **scheme,
            "algorithm": self.algorithm,
            **lists,
            **{n: getattr(self, n) for n in (*names, *data, *GATES)},
            **paths,
        }


SCHEME_FIELDS = tuple(f.name for f in fields(Scheme))


@cache
def _option_hints() -> dict[str, Any]:
    return get_type_hints(Options)


def parse_schemes(given: Mapping[str, Mapping[str, Any]] | Sequence[str]) -> dict[str, dict[str, Any]]:
    """Schemes for some nodes, as a user wrote them: a dict of dicts, or texts "lm_head=bits:8,block_size:32".

    Raises:
        UsageError: a text is no such thing, or a name no regular expression.
        SchemeError: a scheme has no such attribute or value.
    """
    if not isinstance(given, str | Mapping | Sequence):
        raise UsageError(f"`schemes` must be a dict or a list of texts (got {given!r}). {_WRITE_SCHEMES}")
    texts = [given] if isinstance(given, str) else given
    pairs = texts.items() if isinstance(texts, Mapping) else map(_parse_scheme, texts)
    found: dict[str, dict[str, Any]] = {}
    for name, changes in pairs:
        if not isinstance(name, str) or not isinstance(changes, Mapping):
            raise UsageError(f"`schemes` must give a dict for each name (got {name!r}: {changes!r}). {_WRITE_SCHEMES}")
        found[name] = {**found.pop(name, {}), **changes}  # given again, it is later than those between
    for name, changes in found.items():
        try:
            re.compile(name)
        except re.error as error:
            raise UsageError(f"`schemes` takes regular expressions (got {name!r}: {error}).") from error
        try:
            Scheme().changed(changes)
        except SchemeError as error:
            raise SchemeError(f"`schemes` for {name!r}: {error}") from error
    return found


def _parse_scheme(text: str) -> tuple[str, dict[str, Any]]:
    name, _, listed = text.rpartition("=")
    parts = [part.partition(":") for part in listed.split(",")]
    if not name or not all(colon and value.strip() for _, colon, value in parts):
        raise UsageError(f"`schemes` takes names and what is changed for them (got {text!r}). {_WRITE_SCHEMES}")
    return name, {attribute.strip().replace("-", "_"): value.strip() for attribute, _, value in parts}


def _workload_text(given: str | int | Sequence[int]) -> str:
    """A workload in the form that the command line takes: the name, or numbers with commas between them."""
    found = parse_workload(given)
    return given.strip() if isinstance(given, str) and "," not in given else ",".join(map(str, found.rows))


def _parse_embeddings(given: int | str) -> int | str:
    text = str(given).strip()
    if text not in EMBEDDINGS:
        raise UsageError(f"`embeddings` must be {', '.join(EMBEDDINGS[:-1])} or {FLOAT} (got {given!r}).")
    return text if text == FLOAT else int(text)


def _listed(changes: Mapping[str, Any]) -> str:
    return ",".join(f"{name}:{str(value).lower()}" for name, value in changes.items())


def _data_text(data: CalibrationData | None) -> str | None:
    return _text(data) if isinstance(data, str | Path | None) else "given: from Python"


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
