"""Specs of the tiny model, and what tests ask of a run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from embed_ops import Spec


def tiny_spec(model: str, source: dict[str, Any], run: Path, **fields: Any) -> Spec:
    """Make a spec for the tiny model with one replica and no parity check, `section__key` for other fields."""
    tree: dict[str, Any] = {"source": source, "encoder": {"model": model}, "sink": {"path": str(run)}, "parity": {"rows": 0}}
    tree["resources"] = {"replicas": 1}
    for name, value in fields.items():
        section, _, key = name.partition("__")
        if key:
            tree.setdefault(section, {})[key] = value
        else:
            tree[section] = value
    return Spec.parse(tree)


def no_session() -> contextlib.AbstractContextManager[bool]:
    """Stand where a run must not need Ray."""
    raise AssertionError("a Ray session was opened although nothing is left to embed")


def contents(run: Path) -> dict[str, bytes]:
    """Read the files that the laws call a run's bytes."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for folder in ("data", "rejects")
        for path in sorted((run / folder).rglob("*"))
        if path.is_file()
    }
