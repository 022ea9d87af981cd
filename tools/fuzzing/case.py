"""One input: the files of a folder, and what is done with them."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

MODEL = "in.onnx"
SECRET = bytes(range(7, 247)) * 40  # what lies outside of the model's folder; whoever copies it has read it
SECRET_NAME = "secret.bin"


@dataclass(frozen=True)
class Case:
    """A folder and what to do with it.

    Attributes:
        files: contents by relative path.
        links: symbolic links, relative path → target.
        mutation: what was done to it, for the counts.
        job: what the worker does: "model", "feeds" or "work".
        settings: which options, an index; see the worker.
    """

    files: dict[str, bytes]
    links: dict[str, str] = field(default_factory=dict)
    mutation: str = "seed"
    job: str = "model"
    settings: int = 0

    @property
    def model(self) -> bytes:
        """The model file's bytes."""
        return self.files[MODEL]

    def with_model(self, model: bytes | onnx.ModelProto, mutation: str = "") -> Case:
        """The same with another model file."""
        data = model if isinstance(model, bytes) else model.SerializeToString()
        return replace(self, files={**self.files, MODEL: data}, mutation=mutation or self.mutation)

    def write(self, folder: Path) -> None:
        """Write files and links below a folder, and the secret beside it."""
        folder.mkdir(parents=True)
        (folder.parent / SECRET_NAME).write_bytes(SECRET)
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        for name, target in self.links.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(target)

    def dumps(self) -> str:
        """The case as JSON."""
        files = {name: base64.b85encode(data).decode() for name, data in self.files.items()}
        return json.dumps({**asdict(self), "files": files})

    @classmethod
    def loads(cls, text: str) -> Case:
        """The inverse of `dumps`."""
        value: dict[str, Any] = json.loads(text)
        return cls(**{**value, "files": {name: base64.b85decode(data) for name, data in value["files"].items()}})
