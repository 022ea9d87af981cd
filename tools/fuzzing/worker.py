"""Works on cases in a process of its own, with bounds: `python -m tools.fuzzing.worker FOLDER`, cases on stdin.

A line of JSON comes in for each case and goes out again as what came of it. A finding is whatever is not a result
that computes what the source does, or a deliberate error: another exception, a wrong exit code, a file opened that is
none of the model's, text for the terminal that a name can control, an output that does not load or computes something
else. Crashes, hangs and memory are seen from outside, by whoever started this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import resource
import shutil
import sys
import traceback
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import onnxruntime
from rich.console import Console

import onnxfq
import onnxfq.quantization.validate
from onnxfq import cli
from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.errors import OnnxfqError
from onnxfq.feeds import load_feeds
from onnxfq.quantization.solved_weight import parted
from onnxfq.scheme import Scheme
from onnxfq.signature import Signature, TensorSpec
from onnxfq.system.loop_cache import cache_folder
from onnxfq.system.progress_bar import progress_bar
from onnxfq.system.terminal import one_line
from tools.fuzzing.case import MODEL, SECRET, SECRET_NAME, Case
from tools.fuzzing.oracle import differs
from tools.fuzzing.seeds import seeds

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 2 << 30  # bytes a case may take beyond what the process needs anyway
_PACKAGE = str(ROOT / "onnxfq")
_SANE_WEIGHT = 4.0
_EXACT = Scheme(bits=8, activations="float")
SETTINGS: tuple[dict[str, Any], ...] = (
    {"algorithm": "rtn", "scheme": _EXACT, "allow_slow": True, "validate": False},
    {"algorithm": "rtn", "scheme": _EXACT, "allow_slow": True},
    {"algorithm": "auto", "validate": False},
    {"algorithm": "gptq", "validate": False, "calib": "self", "samples": 2, "seq_len": 8},
    {"algorithm": "awq", "validate": False, "calib": "self", "samples": 2, "seq_len": 8, "memory": "1MB"},
)
TEXT, JSON = len(SETTINGS), len(SETTINGS) + 1  # `onnxfq inspect`, on the command line
_IDS, _MASK = TensorSpec("ids", "int64", ("batch", "seq"), 100), TensorSpec("attention_mask", "int64", ("batch", "seq"))
_SIGNATURES = (
    Signature((TensorSpec("x", "float32", (None, 64)),), ()),
    Signature((_IDS, _MASK), ()),
    Signature((TensorSpec("x", "string", ("n",)), TensorSpec("ids", "bfloat16", (1, "seq"))), ()),
)


class Watch:
    """Notes which files are opened while it is on: by Python through an audit hook, the secret by anyone."""

    def __init__(self) -> None:
        self.on = False
        self.opened: list[str] = []
        machine = (sys.prefix, sys.base_prefix, "/usr", "/lib", "/proc/self", "/proc/cpuinfo", "/sys")
        self.allowed = tuple(os.path.realpath(p) for p in (*machine, ROOT, cache_folder() or ROOT))
        sys.addaudithook(self._hook)
        libc = ctypes.CDLL(None, use_errno=True)
        self._libc, self._notify = libc, libc.inotify_init1(os.O_NONBLOCK) if hasattr(libc, "inotify_init1") else -1

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event == "open" and isinstance(arguments[0], str | bytes):
            self.on = False
            real = os.path.realpath(os.fsdecode(arguments[0]))
            if not real.startswith(self.allowed):
                self.opened.append(real)
            self.on = True

    @contextlib.contextmanager
    def over(self, folder: Path) -> Iterator[None]:
        """Watch what is opened, but for the model's folder and the output's."""
        self.opened.clear()
        watch = -1
        if self._notify >= 0:
            path = os.fsencode(folder / SECRET_NAME)
            watch = self._libc.inotify_add_watch(self._notify, path, 0x21)  # IN_ACCESS | IN_OPEN
        before, self.allowed = (
            self.allowed,
            (*self.allowed, *(os.path.realpath(folder / name) for name in ("model", "out"))),
        )
        self.on = True
        try:
            yield
        finally:
            self.on, self.allowed = False, before
            if watch >= 0:
                with contextlib.suppress(BlockingIOError):
                    if os.read(self._notify, 4096):
                        self.opened.append(SECRET_NAME)
                self._libc.inotify_rm_watch(self._notify, watch)
                with contextlib.suppress(BlockingIOError):
                    os.read(self._notify, 4096)


class Coverage:
    """Lines of onnxfq that were reached, by `sys.settrace` on its files alone."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:  # noqa: ANN401
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        name, seen = frame.f_code.co_filename, self.seen

        def line(inner: FrameType, event: str, argument: object) -> Any:  # noqa: ANN401
            seen.add((name, inner.f_lineno))
            return line

        return line

    @contextlib.contextmanager
    def over(self) -> Iterator[None]:
        """Trace."""
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(None)


def signature_of(error: BaseException) -> str:
    """Type and place of an exception: the last line of onnxfq in its trace."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename.startswith(_PACKAGE)] or list(frames)[-1:]
    where = f"{Path(own[-1].filename).relative_to(ROOT) if own[-1].filename.startswith(_PACKAGE) else own[-1].filename}"
    return f"{type(error).__name__} at {where}:{own[-1].name}"


def unclean(text: str) -> str:
    """What a terminal could obey in a text; empty where there is nothing."""
    odd = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    return ", ".join(sorted(f"U+{ord(c):04X}" for c in odd))


def run_cli(*arguments: str) -> tuple[str, str]:
    """The command line in this process: (outcome, finding)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(list(arguments))
    text = err.getvalue()
    if code not in (0, 2, 3):
        return "", f"exit code {code}"
    if "Traceback" in text or (code and text.count("Error: ") < 1):
        return "", "no clear error"
    if found := unclean(text):
        return "", f"control characters in the output: {found}"
    if "--json" in arguments and not code:
        json.loads(out.getvalue())
    return f"exit code {code}", ""


def model_job(case: Case, folder: Path) -> tuple[str, str]:
    """Inspect, or quantize; where that succeeds, compare with the source."""
    source, output = folder / "model" / MODEL, folder / "out" / "out.onnx"
    output.parent.mkdir()
    if case.settings >= len(SETTINGS):
        return run_cli("inspect", str(source), "--provider", "cpu", *(["--json"] if case.settings == JSON else []))
    err = io.StringIO()
    try:
        with progress_bar(Console(file=err, width=100)) as told:
            report = onnxfq.quantize(source, output, provider="cpu", progress=told, **SETTINGS[case.settings])
    except OnnxfqError as error:
        left = [path.name for path in output.parent.iterdir() if path.suffix != ".work"]  # for --resume
        finding = f"left behind: {left}" if left else unclean(one_line(str(error)))
        return f"{type(error).__name__}", finding or ("exit code 1" if error.exit_code not in (2, 3) else "")
    if found := unclean(err.getvalue()):
        return "", f"control characters in progress: {found}"
    if any(SECRET[:64] in path.read_bytes() for path in output.parent.iterdir()):
        return "", "the secret is in the output"
    # Garbage for weights has outliers beside which the others vanish.
    sane = all(t.weights and max(map(abs, t.weights)) <= _SANE_WEIGHT for t in report.targets)
    near = sane and SETTINGS[case.settings].get("scheme") is _EXACT
    return "quantized", differs(source, output, bool(report.targets), tolerance=0.05 if near else None)


def feeds_job(case: Case, folder: Path) -> tuple[str, str]:
    """Read a data file."""
    path = next(folder / "model" / name for name in case.files if name.startswith("data."))
    try:
        load_feeds(path, _SIGNATURES[case.settings], tokenizer=folder / "model", samples=4, seq_len=8)
    except OnnxfqError as error:
        return type(error).__name__, unclean(one_line(str(error)))
    return "read", ""


def work_job(case: Case, folder: Path) -> tuple[str, str]:
    """Open a work directory and take what it holds."""
    try:
        found = Checkpoint(folder / "model", {"made": "for fuzzing"}, resume=True).load(0)
    except OnnxfqError as error:
        return type(error).__name__, unclean(one_line(str(error)))
    return "solved again" if found is None or parted(*found) is None else "resumed", ""


def trouble_job(case: Case, folder: Path) -> tuple[str, str]:
    """Whatever a case must not do, to find out whether it is noticed."""
    match case.settings:
        case 0:
            raise KeyError
        case 1:
            os.abort()
        case 2:
            while True:
                pass
        case 3:
            return "", f"took {len(bytearray(2 * MEMORY))} bytes"
        case 4:
            os.close(ctypes.CDLL(None).open(os.fsencode(folder / SECRET_NAME), os.O_RDONLY))
        case 5:
            Path("/etc/passwd").read_bytes()
    return "no trouble", ""


JOBS = {"model": model_job, "feeds": feeds_job, "work": work_job, "trouble": trouble_job}


def work_on(case: Case, folder: Path, watch: Watch, coverage: Coverage | None) -> dict[str, Any]:
    """One case; what came of it."""
    shutil.rmtree(folder, ignore_errors=True)
    case.write(folder / "model")
    reached = len(coverage.seen) if coverage else 0
    outcome = finding = ""
    with watch.over(folder), coverage.over() if coverage else contextlib.nullcontext():
        try:
            outcome, finding = JOBS[case.job](case, folder)
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            finding = signature_of(error)
    if watch.opened and not finding:
        finding = f"opened {sorted(set(watch.opened))[0]}"
    new = len(coverage.seen) - reached if coverage else 0
    return {"outcome": outcome, "finding": finding, "new_lines": new}


def warm_up(folder: Path) -> None:
    """Load and compile what a case may need."""
    for settings in SETTINGS:
        shutil.rmtree(folder, ignore_errors=True)
        seeds()[0].write(folder / "model")
        onnxfq.quantize(folder / "model" / MODEL, folder / "out.onnx", provider="cpu", **settings)


def bound_memory() -> None:
    """Let the process take so much more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Cases in, results out."""
    folder, traced = Path(sys.argv[1]), "--coverage" in sys.argv
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    onnxfq.quantization.validate.LATENCY_SECONDS = 0.0
    onnxruntime.set_default_logger_severity(4)
    if "--cold" not in sys.argv:
        warm_up(folder)
    bound_memory()
    watch, coverage = Watch(), Coverage() if traced else None
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        result = work_on(Case.loads(line), folder, watch, coverage)
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
