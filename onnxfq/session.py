"""ONNX Runtime: providers and sessions. The only file that imports it, and only when a session is wanted."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError, ModelError, OperatorError, ProviderError
from onnxfq.providers import FALLBACK, PROVIDERS, ProviderName, facts
from onnxfq.runtime_distributions import conflict, why_not_imported
from onnxfq.signature import Signature, runtime_spec

if TYPE_CHECKING:
    import onnxruntime
    from onnxruntime import OrtValue as OrtValue

_LOGGER = logging.getLogger(__name__)

NOT_ARRAYS = frozenset({"sequence", "optional", "map", "sparse"})  # types of values that no numpy array holds

_UNKNOWN_OPERATOR = re.compile(r"([^\s:]+(?::\S+?)?)\(-?\d+\) is not a registered function/op")
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16, which numpy alone does not know
_FATAL = 4  # logging severity: what goes wrong arrives as an exception, nothing is printed beside it

# A serialized model, y = Relu(x) on float32 [1]: small enough to find out whether a provider really runs.
_PROBE = (
    b'\x08\x08:9\n\x0e\n\x01x\x12\x01y"\x04Relu:\x00\x12\x05probeZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


def runtime_version() -> str:
    """ONNX Runtime's version, such as `1.23.0`."""
    return str(_runtime().__version__)


def available_providers() -> tuple[ProviderName, ...]:
    """The providers that really run here; a build for a device needs its libraries and the device too."""
    return tuple(provider for provider in PROVIDERS if not _why_unusable(provider))


def resolve_provider(provider: str) -> ProviderName:
    """Turn what the user asked for into a provider that runs.

    Args:
        provider: its name, or "auto": the last of `PROVIDERS` that is usable.

    Raises:
        ProviderError: no such provider, or the one asked for cannot run.
    """
    if provider == "auto":
        return available_providers()[-1]
    for name in PROVIDERS:
        if name == provider:
            _require(name)
            return name
    raise ProviderError(f"Unknown provider (got provider={provider!r}). Use auto, {', '.join(PROVIDERS)}.")


class Session:
    """A loaded model that runs.

    Args:
        model: a file, or a serialized model.
        provider: where it runs.
        threads: threads inside an operator; None leaves the choice to ONNX Runtime.
        external_data_folder: for a serialized model, the folder its external initializers lie in.
        config: further ONNX Runtime session config entries.
        passing: one of many sessions, one after the other: what it takes goes back to the system with it. Without
            that, memory pools leave holes, and a process grows with every session.

    Raises:
        ModelError: the model cannot be loaded.
        ProviderError: the provider cannot run.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        provider: ProviderName = FALLBACK,
        threads: int | None = None,
        external_data_folder: Path | None = None,
        config: Mapping[str, str] | None = None,
        passing: bool = False,
    ) -> None:
        self.name, self._source = str(model) if isinstance(model, Path) else "the model in memory", model
        self.provider, self._place = provider, model if isinstance(model, Path) else external_data_folder
        if isinstance(model, Path) and not model.is_file():
            raise ModelError(f"There is no model file {model}. Give the path of an ONNX file.")
        _require(provider)
        self._settings = _options(threads, external_data_folder, config or {})
        if passing:
            self._settings.enable_cpu_mem_arena = False
            self._settings.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        self._session = self._load(model, self._settings)
        self._check_provider()
        self._signature = _signature(self._session)
        self._dtypes = {spec.name: spec.dtype for spec in self._signature.inputs}
        self._defaults = {spec.name: spec.dtype for spec in self._signature.defaults}
        self._outputs = tuple(spec.name for spec in self._signature.outputs if spec.dtype not in NOT_ARRAYS)
        self._by_value = "bfloat16" in {s.dtype for s in (*self._signature.inputs, *self._signature.outputs)}
        _LOGGER.debug("session: %s on %s, threads: %s", self.name, provider, threads or "all")

    def reload(self, threads: int) -> None:
        """Load the model again, to compute with so many threads; what was loaded goes back first."""
        self._settings.intra_op_num_threads = threads
        del self._session
        self._session = self._load(self._source, self._settings)

    def signature(self) -> Signature:
        """Inputs and outputs as ONNX Runtime sees them; it does not tell a scalar from an unknown rank (shape None)."""
        return self._signature

    def run(self, feed: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the model once.

        Args:
            feed: an array for each input.
            outputs: names of the outputs to return; None returns all that are arrays.

        Returns:
            The outputs by name, in host memory.

        Raises:
            DataError: the feed does not fit the model: names, types, shapes, or values it cannot work with.
            ModelError: the model does not run, or has no such output.
        """
        names = self._outputs if outputs is None else tuple(outputs)
        self._check_outputs(names)
        self._check_feed(feed)
        with self._translated():
            if not names:  # ONNX Runtime would give all that there are
                self._session.run(None, dict(feed))
                return {}
            run = self._run_values if self._by_value else self._session.run
            return dict(zip(names, run(list(names), dict(feed)), strict=True))

    def array_outputs(self) -> tuple[str, ...]:
        """Names of the outputs that are arrays."""
        return self._outputs

    def binding(self) -> onnxruntime.IOBinding:
        """Places for inputs and outputs on any device, to be filled and then run with `run_bound`."""
        return self._session.io_binding()

    def run_bound(self, binding: onnxruntime.IOBinding) -> list[onnxruntime.OrtValue]:
        """Run on bound inputs; returns the bound outputs, in the order in which they were bound first.

        Raises:
            DataError, ModelError: as `run` does.
        """
        with self._translated():
            self._session.run_with_iobinding(binding)
            return list(binding.get_outputs())

    def _load(self, model: Path | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        """Build the session, without ONNX Runtime's own way of falling back to other providers."""
        wanted = list(dict.fromkeys(facts(provider).ort_name for provider in (self.provider, FALLBACK)))
        source = str(model) if isinstance(model, Path) else model
        try:
            return _runtime().InferenceSession(source, options, providers=wanted, enable_fallback=0)
        except _failures() as error:
            if call := re.search(r"SystemError : (\d+)", str(error)):  # what a system call answered
                why = os.strerror(int(call[1]))
                raise ModelError(f"Cannot read '{self._place}' ({why}). Check permissions and the disk.") from error
            if lacking := _UNKNOWN_OPERATOR.search(str(error)):
                raise OperatorError(
                    f"ONNX Runtime {runtime_version()} has no operator {lacking[1]}, without which {self.name} cannot "
                    "run: it belongs to a library of its own, or to a newer ONNX Runtime."
                ) from error
            raise ModelError(
                f"ONNX Runtime {runtime_version()} cannot load {self.name} on {self.provider}: {_reason(error)}. "
                "Check the model with onnx.checker; a newer ONNX Runtime may know operators that this one lacks."
            ) from error

    def _check_provider(self) -> None:
        got, wanted = self._session.get_providers(), facts(self.provider)
        if wanted.ort_name not in got:
            raise ProviderError(
                f"ONNX Runtime loaded {self.name} without {wanted.title} (got {', '.join(got)}, wanted "
                f'{wanted.ort_name}). Use `provider="{FALLBACK}"`, or repair {wanted.title}.'
            )

    def _check_outputs(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._outputs]
        if unknown:
            raise ModelError(
                f"{self.name} has no such array output (got {', '.join(unknown)}). "
                f"Its array outputs: {', '.join(self._outputs) or 'none'}."
            )

    def _check_feed(self, feed: Mapping[str, Array]) -> None:
        """Names and element types; shapes are ONNX Runtime's to judge."""
        problems = [f"{name} is missing" for name in self._dtypes if name not in feed]
        known = self._dtypes | self._defaults
        problems += [f"{name} is not an input" for name in feed if name not in known]
        for name, array in feed.items():
            got, wanted = dtype_name(array), known.get(name)
            if wanted is not None and got != wanted:
                problems.append(f"{name} is {got}, wanted {wanted}")
        if problems:
            told = f"{'; '.join(problems)}. Its inputs: {', '.join(self._dtypes) or 'none'}"
            raise DataError(f"The data do not fit {self.name}: {told}.")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise onnxfq's errors in place of ONNX Runtime's."""
        try:
            yield
        except _failures() as error:
            where = f"{self.name} cannot run on {self.provider}"
            if type(error).__name__ == "InvalidArgument":
                raise DataError(
                    f"{where} with these data: {_reason(error)}. Give inputs that fit the model (`calib=FILE.npz`)."
                ) from error
            raise ModelError(
                f"{where}: {_reason(error)}. "
                "Check that it runs by itself and that memory suffices, or try another provider."
            ) from error

    def _run_values(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        """Run through ONNX Runtime's own tensors, which alone carry bfloat16."""
        values = {name: to_value(array) for name, array in feed.items()}
        return [to_array(value) for value in self._session.run_with_ort_values(names, values)]


def dtype_name(array: Array) -> str:
    """The element type of an array in the words of `TensorSpec.dtype`."""
    return "string" if array.dtype.kind in "OSUT" else array.dtype.name


@functools.cache
def _runtime() -> ModuleType:
    try:
        import onnxruntime

        onnxruntime.set_default_logger_severity(_FATAL)
    except (ImportError, AttributeError) as error:  # the latter: a package of which only a part is left
        raise ProviderError(why_not_imported(error)) from error
    module: ModuleType = onnxruntime
    return module


@functools.cache
def _failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its own types, which share no base, and Python's for what its binding refuses."""
    _runtime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)


@functools.cache
def _why_unusable(provider: ProviderName) -> str:
    """Why a provider cannot be used here; empty when it can. Found out by running a model of one operator."""
    known = facts(provider)
    if known.built_in:
        return ""
    if known.ort_name not in _runtime().get_available_providers():
        return f"this ONNX Runtime was built without it. {conflict()}".rstrip(". ")
    not_loaded = _preload() if known.preloads else ""
    try:
        session = _runtime().InferenceSession(
            _PROBE, _options(None, None, {}), providers=[known.ort_name], enable_fallback=0
        )
        if known.ort_name not in session.get_providers():
            return not_loaded or "ONNX Runtime could not start it and gave no reason"
        session.run(None, {"x": np.ones(1, np.float32)})
    except _failures() as error:
        return _reason(error)
    return ""


def _preload() -> str:
    """Load a provider's libraries from the Python packages that hold them; what could not be loaded, as one line."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _runtime().preload_dlls()
    return "; ".join(line for line in printed.getvalue().splitlines() if line.startswith("Failed"))


def _require(provider: ProviderName) -> None:
    reason, known = _why_unusable(provider), facts(provider)
    if reason:
        raise ProviderError(
            f'{known.title} cannot be used here: {reason}. {known.remedy}, or use `provider="{FALLBACK}"`.'
        )


def _options(threads: int | None, folder: Path | None, config: Mapping[str, str]) -> onnxruntime.SessionOptions:
    options = _runtime().SessionOptions()
    options.log_severity_level = _FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    # Threads that wait for the next run keep cores busy that another session may be using.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    return options


def _signature(session: onnxruntime.InferenceSession) -> Signature:
    groups = session.get_inputs(), session.get_outputs(), session.get_overridable_initializers()
    return Signature(*(tuple(runtime_spec(a.name, a.type, a.shape) for a in group) for group in groups))


def _reason(error: Exception) -> str:
    """The message without ONNX Runtime's prefix of codes, on one line, without a final full stop."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text.rstrip(". ") or type(error).__name__


def to_value(array: Array, provider: ProviderName = FALLBACK) -> onnxruntime.OrtValue:
    """An array as ONNX Runtime's own tensor, where a provider runs; on the CPU they share memory."""
    kind = _runtime().OrtValue
    if array.dtype == ml_dtypes.bfloat16:
        return kind.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array).view(np.uint16), _BFLOAT16)
    return kind.ortvalue_from_numpy(array, provider, 0)


def to_array(value: onnxruntime.OrtValue) -> Array:
    """The inverse of `to_value`, always in host memory."""
    if value.data_type() != "tensor(bfloat16)":
        return np.asarray(value.numpy())
    array = np.empty(value.shape(), ml_dtypes.bfloat16)
    ctypes.memmove(array.ctypes.data, value.data_ptr(), array.nbytes)
    return array
