"""What is expected of a run, kept on this machine until the run's report is held against it."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embed_ops.encoders.hub.cache import cache_folder
from embed_ops.storage.location import full_address


@dataclass(frozen=True)
class Prediction:
    """What is expected of a run.

    Attributes:
        rows: that get a vector; `rejects`, `filtered`: that do not. `exact_rows`: the number of
            records is known.
        tokens: of distinct rows; `truncated`: rows that are cut.
        lengths: of rows in tokens: quantiles by name.
        seconds: of the whole command; `startup`: of these, before the first unit.
        units: of the run; `replicas`: that will share them.
        bytes: of the vectors by stored type; `memory`: greatest resident bytes by kind of process.
        cost: at `price` an hour, None without one.
        warnings: sentences.
        sampled: rows that were embedded.
        resolved: the settings that "auto" became.
    """

    rows: int
    rejects: int
    filtered: int
    exact_rows: bool
    tokens: int
    truncated: int
    lengths: dict[str, int]
    seconds: float
    startup: float
    units: int
    replicas: int
    bytes: dict[str, int]
    memory: dict[str, int]
    cost: float | None
    warnings: list[str]
    sampled: int
    resolved: dict[str, Any]


def _file(address: str) -> Path:
    name = hashlib.sha256(full_address(address).encode()).hexdigest()[:32]
    return cache_folder() / "predictions" / f"{name}.json"


def keep(run: str, prediction: Prediction) -> None:
    """Keep a prediction on this machine for the report of the run at an address.

    Where it can't be kept, the report says nothing of it.
    """
    with suppress(OSError):
        place = _file(run)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(prediction)), encoding="utf-8")
        temporary.replace(place)


def kept_prediction(run: str) -> dict[str, Any] | None:
    """Give what was predicted on this machine of the run at an address, None where nothing was."""
    with suppress(OSError, ValueError):
        kept: dict[str, Any] = json.loads(_file(run).read_text(encoding="utf-8"))
        return kept
    return None


def compared(run: str, report: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Hold a report against what was predicted: (what, predicted, found, off by).

    Empty where there is nothing to compare.
    """
    predicted = kept_prediction(run)
    if predicted is None or not report.get("seconds") or report.get("units_skipped"):
        return []
    pairs = [
        ("rows", predicted["rows"], report["rows"]),
        ("rejects", predicted["rejects"], report["rejected"]),
        ("tokens", predicted["tokens"], report["tokens"]),
        ("seconds", predicted["seconds"], report["seconds"]["total"]),
        ("units", predicted["units"], report["units"]),
    ]
    return [
        (name, f"{was:,.0f}", f"{is_now:,.0f}", f"{was / is_now - 1:+.0%}" if is_now else "")
        for name, was, is_now in pairs
    ]
