"""The page of all results, `benchmarks/README.md`, made from the JSON in `benchmarks/results/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import tables, zoo_table
from benchmarks.parts import PARTS, shown

_QUALITY = {"relative_mse": "relative MSE", "spearman": "Spearman"}
_PERPLEXITY = {"mean_kl": "mean KL", "perplexity": "perplexity", "lambada_loss": "LAMBADA loss"}
_PERPLEXITY_ALONE = {"mean_kl": "mean KL", "perplexity": "perplexity"}
TABLES: dict[str, Callable[[], str]] = {
    "minilm": lambda: tables.quality("minilm", _QUALITY),
    "opt-4m": lambda: tables.quality("opt-4m", _PERPLEXITY),
    "formats": tables.formats,
    "embeddings-opt-4m": lambda: tables.embeddings("embeddings-opt-4m", _PERPLEXITY_ALONE),
    "embeddings-minilm": lambda: tables.embeddings("embeddings-minilm", _QUALITY),
    "steps-minilm": lambda: tables.steps("steps-minilm", "relative_mse", "MiniLM, relative MSE"),
    "bits2-minilm": lambda: tables.beyond(["bits2-minilm"]),
    "self-minilm": lambda: tables.beyond(["self-minilm"]),
    "tuning-opt-4m": lambda: tables.tuning("tuning-opt-4m"),
    "bands-opt-4m": lambda: tables.bands("bands-opt-4m"),
    "bands-minilm": lambda: tables.bands("bands-minilm"),
    "granularity": tables.granularity,
    "throughput": lambda: tables.throughput("throughput"),
    "throughput-1b": lambda: tables.throughput("throughput-1b"),
    "repeatability": tables.repeatability,
    "time-minilm": lambda: tables.quality("time-minilm", _QUALITY),
    "depth": lambda: f"Peak memory on a model {tables.depth()}.",
    "calibrated": tables.calibrated,
    "kernel_speed": tables.kernels,
    "decode_4096": tables.decode,
    "large": tables.large,
    "large-hqq": lambda: tables.large("large-hqq"),
    "architectures": zoo_table.architectures,
    "faults": tables.faults,
    "fuzz": tables.fuzz,
    "streaming-7b": lambda: tables.streaming(["7b"]),
    "streaming-13b": lambda: tables.streaming(["13b"]),
}
HEAD = """# Benchmarks

All measurements, made from the files in `results/` by `python -m benchmarks --page`: change those, not this page. Below
every table stand the day, the machine, the versions, and the command that measured it. `python -m benchmarks` measures
everything again for which it is given models and texts; what takes long, or much disk, only where it is asked for with
`--also`. To see the commands without running them, and to make this page:

<!-- quick -->
```bash
python -m benchmarks --plan --data DATA --encoder ENCODER --also kernels speed large throughput-1b streaming --work BIG
python -m benchmarks --page
```

`DATA` is a folder with `stsb-train.csv`, `stsb-test.csv` (sentence, sentence, score), `wikitext2-valid.txt`,
`wikitext2-test.txt` and `lambada-test.jsonl`; `ENCODER` an export of all-MiniLM-L6-v2. In the commands below inputs
are in capitals, and `--out` is left out.

Every tool runs in a process, and where it must in an environment, of its own (`rivals.py` says how to make these); one
script judges the written files. All files of a table have the same bits and block size, and tools that calibrate get
the same samples. "One token" and "speed" are relative to the original, which runs in turns with the quantized files.
Files of the same format differ in speed by noise only. To add a measurement: a line in `PARTS` (`parts.py`: title,
command) and one in `TABLES` (`page.py`: its table).
"""


def page() -> str:
    """The page."""
    sections = [HEAD]
    for part in PARTS.values():
        sections.append(f"## {part.title}\n\n{part.about}\n")
        sections += [_section(result, shown(template)) for result, template in part.results.items()]
    return "\n".join(sections)


def _section(result: str, command: str) -> str:
    path = tables.RESULTS / f"{result}.json"
    if not path.exists():
        return f"Not measured yet: `{command}`.\n"
    return f"{TABLES[result]()}\n\n{provenance(tables.read(result))}: `{command}` (`results/{result}.json`).\n"


def provenance(result: dict[str, Any]) -> str:
    """Date, machine and versions of a result."""
    machine = result["machine"]
    versions = {**machine["versions"]}
    rows = result["rows"] if isinstance(result.get("rows"), list) else []
    for row in rows:  # other tools have environments of their own
        versions |= {name: v for name, v in row.get("versions", {}).items() if name not in versions}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{result['date']}, {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, Python "
        f"{machine['python']}, {listed}"
    )
