"""What every change must pass, as it is typed in the repository's root."""

from __future__ import annotations

CHECKS = {
    "ruff": "ruff check .",
    "format": "ruff format --check .",
    "mypy": "mypy",
    "imports": "lint-imports",
}
