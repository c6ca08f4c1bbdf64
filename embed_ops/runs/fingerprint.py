"""What decides the vectors: fields of the spec and hashes of the model.

Compared with those of an earlier run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from typing import Any

from embed_ops import __version__
from embed_ops.errors import RunError
from embed_ops.sources.plan import SourceFile


def listing_digest(files: Iterable[SourceFile]) -> str:
    """Hash names, sizes and times of change of files."""
    listed = [(file.name, file.size, file.modified) for file in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def digest_of(fingerprint: Mapping[str, Any]) -> str:
    """Hash a fingerprint to 16 hexadecimal digits, as the footers carry it."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def versions_of(*packages: str) -> dict[str, str]:
    """Give the versions of embed-ops and of installed packages that decide bytes, by name."""
    return {"embed-ops": __version__, **{name: importlib.metadata.version(name) for name in packages}}


def require_same(where: str, known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of another fingerprint.

    Raises:
        RunError: names every field that differs, with both values.
    """
    differing = [name for name in sorted({*known, *asked}) if known.get(name) != asked.get(name)]
    if differing:
        listed = "; ".join(
            f"{name}: the run has {_short(known.get(name))}, asked for {_short(asked.get(name))}"
            for name in differing
        )
        raise RunError(
            f"{where} holds a run of another spec: {listed}. Choose another sink.path, or ask for the same"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
